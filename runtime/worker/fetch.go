package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/millrace/millrace/runtime/peers"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/store"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// role is why this worker fetches a block, and so whom it may ask.
//
// A fetch asGuest or asOwner may wait for a peer's fetch asServer; a fetch
// asServer waits for no peer. Whatever two workers believe of the membership,
// they never wait for each other.
type role int

const (
	// asServer: a peer takes this worker for the owner, or it is the first
	// owner: what no other owner has comes from the source.
	asServer role = iota
	// asOwner: it is to hold the block; the owners before it read the source.
	asOwner
	// asGuest: the block passes through on its way to a reader of this node.
	asGuest
	// asCopy: it is an owner and another one has the block; the source is not
	// read for it, and no peer reads it.
	asCopy
)

const (
	// sourceTimeout bounds one block from a source that trickles.
	sourceTimeout = 2 * time.Minute
	// fullFor is for how long a store that was full is not tried again: a
	// block that has no room is not worth fetching.
	fullFor = time.Second
	// smallPeerReads small blocks may come from peers in place of a whole one:
	// what bounds these is their memory, and small ones wait for the source of
	// their owner most of all.
	smallPeerReads = 64
	// maxAhead is how many fetches may be under way before no read-ahead starts.
	maxAhead = 64
)

// fetcher brings blocks into the store, each once however many wait for it.
type fetcher struct {
	w *Worker
	// ctx is the life of Run; fetches outlive those who asked first.
	ctx  context.Context
	crew *crew // of the fetches
	wg   sync.WaitGroup
	// A fetch that may wait for a peer's fetch holds its bytes of peer, and then
	// a slot of source if no peer helps. One that waits for no peer holds only
	// one of source, so it always comes to its end.
	peer    *semaphore.Weighted
	peerMin int64 // bytes that the smallest block counts for
	source  chan struct{}
	buffers sync.Pool

	// There may be room for what this worker owns when there is none for guests.
	fullForGuests, fullForOwned fullness

	mu      sync.Mutex
	flights map[flightKey]*flight
}

// fullness remembers that there was no room.
type fullness struct {
	until atomic.Int64 // Unix nanoseconds, 0 if there is room
	size  atomic.Int64 // of the block that had none
}

func (f *fullness) note(n int64) {
	f.size.Store(n)
	f.until.Store(time.Now().Add(fullFor).UnixNano())
}

// now tells that a block of n bytes had no room a moment ago.
func (f *fullness) now(n int64) bool {
	until := f.until.Load()
	return until != 0 && n >= f.size.Load() && time.Now().UnixNano() < until
}

type flightKey struct {
	key   string
	block int
	role  role
}

// flight is one fetch. What came of it is set when done is closed.
type flight struct {
	done chan struct{}
	from string
	err  error

	// wanted is how many asked for it and did not say that they no longer do;
	// guarded by the fetcher's mu. With none left, drop ends ctx, which bounds the
	// wait for a slot.
	wanted int
	ctx    context.Context
	drop   context.CancelFunc
}

// tally counts bytes by where they were.
type tally struct{ local, remote, source int64 }

func (t *tally) add(from string, n int64) {
	switch from {
	case fromRemote:
		t.remote += n
	case fromSource:
		t.source += n
	default:
		t.local += n
	}
}

func newFetcher(w *Worker) *fetcher {
	block := w.store.BlockBytes()
	f := &fetcher{
		w: w, peer: semaphore.NewWeighted(int64(w.cfg.PeerReads) * block), peerMin: max(1, block/smallPeerReads), source: make(chan struct{}, w.cfg.SourceReads),
		flights: map[flightKey]*flight{},
	}
	f.buffers.New = func() any {
		b := make([]byte, block)
		return &b
	}
	return f
}

func (f *fetcher) start(ctx context.Context) { f.ctx, f.crew = ctx, newCrew(ctx) }

func (f *fetcher) wait() {
	f.crew.wg.Wait()
	f.wg.Wait()
}

// ensure returns when the range of file is there, or why a block of it cannot
// be; asOwner, when that is known of every block. got is where the blocks that
// were missing came from.
func (f *fetcher) ensure(ctx context.Context, file *store.File, o *wirepb.Object, off, n int64, r role) (got tally, err error) {
	missing := file.Missing(off, n)
	if len(missing) > 0 {
		select {
		case <-f.w.known:
		case <-ctx.Done():
			return got, ctx.Err()
		}
	}
	flights := make([]*flight, 0, len(missing))
	for _, block := range missing {
		if f.isFull(file, o, block, r) {
			err = fmt.Errorf("%w: the cache is full, or its worker leaves", wire.ErrNoSpace)
			break
		}
		flights = append(flights, f.fly(file, o, block, r))
	}
	if err != nil && r != asOwner {
		return got, err
	}
	for i, fl := range flights {
		select {
		case <-fl.done:
		case <-ctx.Done():
			if r == asOwner {
				f.leave(flights[i:])
			}
			return got, ctx.Err()
		}
		switch {
		case fl.err == nil:
			got.add(fl.from, overlap(file, missing[i], off, n))
		case r == asOwner:
			err = cmp.Or(err, fl.err)
		default:
			return got, fl.err
		}
	}
	return got, err
}

// ahead starts to fetch a range that somebody will want soon; each is told of
// what came.
func (f *fetcher) ahead(file *store.File, o *wirepb.Object, off, n int64, each func(from string, bytes int64)) (started []int) {
	select {
	case <-f.w.known:
	default:
		return nil
	}
	for _, block := range file.Missing(off, n) {
		f.mu.Lock()
		busy := len(f.flights) >= maxAhead
		f.mu.Unlock()
		if busy || f.isFull(file, o, block, asGuest) {
			break
		}
		fl := f.fly(file, o, block, asGuest)
		started = append(started, block)
		f.wg.Go(func() {
			if <-fl.done; fl.err == nil {
				each(fl.from, blockLength(file, block))
			}
		})
	}
	return started
}

func blockLength(file *store.File, block int) int64 {
	return min(file.BlockBytes(), file.Size()-int64(block)*file.BlockBytes())
}

// overlap is how much of a range lies in a block.
func overlap(file *store.File, block int, off, n int64) int64 {
	start := int64(block) * file.BlockBytes()
	return min(start+file.BlockBytes(), off+n, file.Size()) - max(start, off)
}

// fly joins the flight of a block or starts one.
func (f *fetcher) fly(file *store.File, o *wirepb.Object, block int, r role) *flight {
	off := int64(block) * file.BlockBytes()
	owners := f.w.view.Owners(o.GetKey(), off)
	switch me := peers.Index(owners, f.w.cfg.Name); {
	case r == asCopy:
	case me == 0, len(owners) == 0:
		r = asServer
	case me > 0 && r == asGuest:
		r = asOwner
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, role := range []role{asServer, r} { // one that waits for nobody serves everybody
		if fl := f.flights[flightKey{o.GetKey(), block, role}]; fl != nil && fl.wanted > 0 {
			fl.wanted++
			return fl
		}
	}
	k := flightKey{o.GetKey(), block, r}
	fl := &flight{done: make(chan struct{}), wanted: 1}
	fl.ctx, fl.drop = context.WithCancel(f.ctx)
	f.flights[k] = fl
	n := blockLength(file, block)
	f.crew.run(func() {
		defer fl.drop()
		fl.from, fl.err = f.fetch(fl, o, block, off, n, r, owners)
		f.mu.Lock()
		if f.flights[k] == fl {
			delete(f.flights, k)
		}
		f.mu.Unlock()
		close(fl.done)
	})
	return fl
}

// leave says that somebody no longer wants what is under way. What nobody wants
// and has no slot yet is not fetched.
func (f *fetcher) leave(flights []*flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fl := range flights {
		if fl.wanted--; fl.wanted == 0 {
			fl.drop()
		}
	}
}

// fetch gets one block and stores it.
func (f *fetcher) fetch(fl *flight, o *wirepb.Object, block int, off, n int64, r role, owners []*wirepb.Member) (from string, err error) {
	owned := r == asOwner || r == asCopy || r == asServer && (len(owners) == 0 || peers.Index(owners, f.w.cfg.Name) >= 0)
	file, err := f.w.acquire(o, !owned)
	if err != nil {
		return "", err
	}
	defer file.Close()
	if file.Has(block) {
		return fromLocal, nil
	}
	if !owned && f.w.view.OwnsAny(f.w.cfg.Name, o.GetKey(), o.GetSize()) {
		if !f.w.share.lodge(n) {
			return fromRemote, fmt.Errorf("%w: it is kept for what this worker owns", wire.ErrNoSpace)
		}
		defer func() {
			if err != nil {
				f.w.share.leave(n)
			}
		}()
	}
	start := time.Now()
	from, err = f.bring(fl, file, o, block, off, n, r, owners)
	f.w.m.fetchSeconds.WithLabelValues(from).Observe(time.Since(start).Seconds())
	if err != nil {
		if errors.Is(err, wire.ErrNoSpace) {
			full := &f.fullForOwned
			if !owned {
				full = &f.fullForGuests
			}
			full.note(n)
		}
		if !errors.Is(err, context.Canceled) {
			f.w.m.failures.WithLabelValues(from, wire.Kind(err)).Inc()
		}
		return from, err
	}
	f.w.m.fetched.WithLabelValues(from).Add(float64(n))
	if owned && (r == asServer || from == fromSource) {
		f.w.copies.have(o, off, n, owners)
	}
	return from, nil
}

// isFull tells that there was no room a moment ago for such a block, or that this
// worker leaves: what it has is moved to others, and nothing may take its place.
func (f *fetcher) isFull(file *store.File, o *wirepb.Object, block int, r role) bool {
	if f.w.view.Leaves(f.w.cfg.Name) {
		return true
	}
	n := blockLength(file, block)
	if f.fullForOwned.now(n) {
		return true
	}
	return r == asGuest && f.fullForGuests.now(n) &&
		peers.Index(f.w.view.Owners(o.GetKey(), int64(block)*file.BlockBytes()), f.w.cfg.Name) < 0
}

// bring stores a block, from the first who gives it: peers, then the source.
func (f *fetcher) bring(fl *flight, file *store.File, o *wirepb.Object, block int, off, n int64, r role, owners []*wirepb.Member) (from string, err error) {
	slot := func() (func(), error) { return f.peerSlot(fl, n) }
	if r == asServer {
		slot = func() (func(), error) { return f.sourceSlot(fl) }
	}
	release, err := slot()
	if err != nil {
		return "", err
	}
	defer release()
	former := f.w.view.Former(o.GetKey(), off)
	if r == asCopy { // also what they have of others, for it goes with them
		former = append(former, f.w.view.Leaving()...)
	}
	done, err := f.fromPeers(file, o, block, off, n, f.asks(r, owners, f.w.view.Present(o.GetKey(), off, f.w.client.Suspect), former))
	if done {
		return fromRemote, err
	}
	if r == asCopy {
		return fromRemote, wire.ErrNotCached
	}
	if r != asServer {
		release, err := f.sourceSlot(fl)
		if err != nil {
			return fromSource, err
		}
		defer release()
	}
	ctx, cancel := context.WithTimeout(f.ctx, sourceTimeout)
	defer cancel()
	// Whoever fills a block keeps others from filling it. The source may do so,
	// a peer must not: it might be waiting for this worker.
	err = file.FillBlock(block, func(w io.Writer) error {
		return f.w.sources.Copy(ctx, w, o, off, n)
	})
	return fromSource, noSpace(err)
}

// fromPeers asks one after the other; done is false when none has an answer.
func (f *fetcher) fromPeers(file *store.File, o *wirepb.Object, block int, off, n int64, asks []ask) (done bool, _ error) {
	if len(asks) == 0 {
		return false, nil
	}
	room, err := file.Reserve(block) // what finds no room is not sent
	if err != nil {
		return true, noSpace(err)
	}
	defer room.Release()
	p, free := f.buffer(n)
	defer free()
	for _, ask := range asks {
		err := f.w.client.Fetch(f.ctx, ask.addr, wire.Range{Object: o, Off: off, N: n, Flags: ask.flags}, p)
		if err == nil {
			return true, noSpace(room.Write(p))
		}
		if f.ctx.Err() != nil {
			return true, f.ctx.Err()
		}
		if final(err) {
			return true, err
		}
		if !errors.Is(err, wire.ErrNotCached) {
			f.w.m.failures.WithLabelValues(fromRemote, wire.Kind(err)).Inc()
			f.w.log.Debug("an owner does not give a block", "owner", ask.addr, "path", o.GetPath(), "off", off, "err", err)
		}
	}
	return false, nil
}

// final tells that an answer is the source's own word on the object.
func final(err error) bool {
	return errors.Is(err, source.ErrChanged) || errors.Is(err, source.ErrNotExist) || errors.Is(err, source.ErrDenied)
}

type ask struct {
	addr  string
	flags wire.Flags
}

// asks lists whom to ask for a block, in order, before the source is read: the
// owners; who comes in place of those that seem to be gone, so that not every
// node reads the source meanwhile; and, for what they have, those who owned it
// before others joined or they themselves began to leave.
func (f *fetcher) asks(r role, owners, heirs, former []*wirepb.Member) []ask {
	var out []ask
	before := r != asServer && r != asCopy
	for _, m := range owners {
		if m.GetName() == f.w.cfg.Name {
			before = false // from here on, owners read the source after this one
			continue
		}
		if f.w.client.Suspect(m.GetAddress()) {
			continue
		}
		a := ask{addr: m.GetAddress()}
		if before {
			a.flags = wire.FlagFetch
		}
		out = append(out, a)
	}
	for _, m := range heirs {
		switch {
		case peers.Index(owners, m.GetName()) >= 0:
		case m.GetName() == f.w.cfg.Name:
			before = false
		case before:
			out = append(out, ask{addr: m.GetAddress(), flags: wire.FlagFetch})
		}
	}
	for _, m := range former {
		again := slices.ContainsFunc(out, func(a ask) bool { return a.addr == m.GetAddress() })
		if m.GetName() != f.w.cfg.Name && !again && !f.w.client.Suspect(m.GetAddress()) {
			out = append(out, ask{addr: m.GetAddress()})
		}
	}
	return out
}

// sourceSlot waits until one more block may be read from the source.
func (f *fetcher) sourceSlot(fl *flight) (release func(), err error) {
	if err := fl.ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case f.source <- struct{}{}:
		return func() { <-f.source }, nil
	case <-fl.ctx.Done():
		return nil, fl.ctx.Err()
	}
}

// peerSlot waits until n more bytes may come from peers.
func (f *fetcher) peerSlot(fl *flight, n int64) (release func(), err error) {
	if err := fl.ctx.Err(); err != nil {
		return nil, err
	}
	n = max(n, f.peerMin)
	if err := f.peer.Acquire(fl.ctx, n); err != nil {
		return nil, err
	}
	return func() { f.peer.Release(n) }, nil
}

// buffer has n bytes. Who holds one holds a slot, so their number is bounded.
func (f *fetcher) buffer(n int64) (p []byte, free func()) {
	if n <= f.w.store.BlockBytes()/4 {
		return make([]byte, n), func() {}
	}
	b := f.buffers.Get().(*[]byte)
	return (*b)[:n], func() { f.buffers.Put(b) }
}
