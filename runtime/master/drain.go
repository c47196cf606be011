package master

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	limits "golang.org/x/time/rate"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

const (
	// DefaultDrainBytes a second are copied away from workers that leave.
	DefaultDrainBytes = 256 << 20
	// A worker has at most so many copies in hand, and so many bytes.
	drainTasks     = 32
	drainTaskBytes = 128 << 20
	// drainAgain is how often it is looked again whether anything is to be moved,
	// and drainPause how long a copy that failed is left alone.
	drainAgain = 5 * time.Second
	drainPause = 500 * time.Millisecond
	// drainTries is how often a copy may fail for other reasons than want of room.
	drainTries = 6
)

// drain moves what workers that are to go have to those that own it now. It
// keeps nothing that a restarted master would miss: what is to be moved follows
// from the members and from what they say that they hold.
//
// A worker that leaves owns nothing, takes nothing in, and gives what it has. An
// owner that is asked for a block asks it before the source, so that readers
// find everything at any time; and the blocks that nobody asks for are copied by
// order of this loop. They are not dropped where they were: the worker may stay
// after all.
type drain struct {
	m     *Master
	limit *limits.Limiter
	// look has a token when the members, or who is to go, may be others.
	look chan struct{}
	// ended has the answers to copies.
	ended *mailbox[*wirepb.TaskDone]

	// tries of each copy, drainTries being as often as may be; they count while
	// the members are those of epoch. Only the loop has them.
	tries map[movingID]int
	epoch int64

	mu    sync.Mutex
	state contract.DrainSummary
}

// moving is a run of blocks of one file that one worker is to copy.
type moving struct {
	ino uint64
	key key
	to  string
	off int64
	n   int64
}

func (p moving) id() movingID { return movingID{p.key, p.off, p.to} }

// movingID names a copy, whatever its length is now.
type movingID struct {
	key key
	off int64
	to  string
}

func newDrain(m *Master, bytesPerSecond int64) *drain {
	d := &drain{m: m, limit: limits.NewLimiter(0, 0), look: make(chan struct{}, 1), ended: newMailbox[*wirepb.TaskDone]()}
	d.setRate(bytesPerSecond)
	return d
}

// SetLeaving names the workers that are to go, in place of those named before.
// They need not be members. One that is not named any more owns its share again.
func (m *Master) SetLeaving(names []string) {
	leaving := map[string]struct{}{}
	for _, name := range names {
		leaving[name] = struct{}{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if maps.Equal(leaving, m.leaving) {
		return
	}
	for name := range m.leaving {
		if w := m.workers[name]; w != nil && m.settled {
			if _, still := leaving[name]; !still {
				w.member.SinceMs = time.Now().UnixMilli() // others own its share meanwhile
			}
		}
	}
	m.leaving = leaving
	m.log.Info("workers are to go", "workers", slices.Sorted(maps.Keys(leaving)))
	m.drain.begin(leaving)
	m.membersChanged()
}

// SetDrainBytes bounds how many bytes a second are copied away from workers that
// leave; 0 is DefaultDrainBytes.
func (m *Master) SetDrainBytes(perSecond int64) { m.drain.setRate(perSecond) }

func (d *drain) setRate(perSecond int64) {
	if perSecond <= 0 {
		perSecond = DefaultDrainBytes
	}
	d.limit.SetLimit(limits.Limit(perSecond))
	d.limit.SetBurst(int(max(d.m.opts.BlockBytes, min(perSecond, d.m.opts.StripeBytes))))
}

// begin tells of other workers that are to go; what was moved for one that still
// is to go counts on.
func (d *drain) begin(leaving map[string]struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	moved := d.state.MovedBytes
	if !slices.ContainsFunc(d.state.Workers, func(name string) bool { _, still := leaving[name]; return still }) {
		moved = 0
	}
	d.state = contract.DrainSummary{Workers: slices.Sorted(maps.Keys(leaving)), MovedBytes: moved}
}

// again has the loop look whether anything is to be moved.
func (d *drain) again() {
	select {
	case d.look <- struct{}{}:
	default:
	}
}

func (d *drain) done(done *wirepb.TaskDone) { d.ended.put(done) }

// summary is nil while no worker is to go.
func (d *drain) summary() *contract.DrainSummary {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.state.Workers) == 0 {
		return nil
	}
	s := d.state
	return &s
}

// report changes the summary, unless the workers that are to go are others by now.
func (d *drain) report(workers []string, change func(*contract.DrainSummary)) {
	d.mu.Lock()
	before := d.state
	current := slices.Equal(workers, before.Workers)
	if current {
		change(&d.state)
	}
	same := before.Done == d.state.Done && before.MovedBytes == d.state.MovedBytes && before.LeftBytes == d.state.LeftBytes &&
		before.StuckBytes == d.state.StuckBytes && before.Message == d.state.Message && slices.Equal(before.Absent, d.state.Absent)
	d.mu.Unlock()
	if current && !same {
		d.m.bump()
	}
}

// run works until ctx ends.
func (d *drain) run(ctx context.Context) {
	for ctx.Err() == nil {
		again := (<-chan time.Time)(nil)
		if d.summary() != nil {
			d.pass(ctx)
			again = time.After(drainAgain)
		}
		select {
		case <-ctx.Done():
		case <-d.look:
		case <-again:
		}
	}
}

// pass moves all that can be moved while the members stay the same.
func (d *drain) pass(ctx context.Context) {
	p := &pass{d: d}
	for ctx.Err() == nil {
		if plan := p.plan(); len(plan) == 0 || !p.move(ctx, plan) {
			return
		}
	}
}

// pass is the work in one membership.
type pass struct {
	d       *drain
	workers []string // that are to go
	place   placement
	// leaving and others are the holders of those that are to go and the rest.
	leaving map[*holder]struct{}
	holders map[string]*holder
	refused string // why the last copy was given up
	rate    meter
}

// plan lists what is to be copied, first what no owner has; nil when that cannot
// be known yet.
func (p *pass) plan() []moving {
	m := p.d.m
	m.mu.Lock()
	settled, waits := m.settled, false
	p.workers, p.leaving, p.holders = nil, map[*holder]struct{}{}, map[string]*holder{}
	var absent []string
	for _, name := range slices.Sorted(maps.Keys(m.leaving)) {
		p.workers = append(p.workers, name)
		if w := m.workers[name]; w == nil || w.session == nil {
			absent = append(absent, name)
		} else {
			waits = waits || !w.synced
		}
	}
	for name, w := range m.workers {
		if _, leaves := m.leaving[name]; leaves {
			p.leaving[&w.holder] = struct{}{}
		} else {
			p.holders[name] = &w.holder
			waits = waits || w.session != nil && !w.synced
		}
	}
	p.place = newPlacement(m.membersLocked())
	if p.d.tries == nil || p.d.epoch != m.epoch {
		p.d.tries, p.d.epoch = map[movingID]int{}, m.epoch
	}
	m.mu.Unlock()

	if !settled || waits {
		p.d.report(p.workers, func(s *contract.DrainSummary) {
			s.Absent, s.Done, s.Message = absent, false, "waiting for workers to say what they have"
		})
		return nil
	}
	unknown := p.unlisted()
	first, more, stuck := p.list()
	var left int64
	for _, one := range slices.Concat(first, more) {
		left += one.n
	}
	p.d.report(p.workers, func(s *contract.DrainSummary) {
		s.Absent, s.LeftBytes, s.StuckBytes = absent, left, stuck
		s.Done, s.Message = left == 0 && !unknown, ""
		switch {
		case stuck > 0:
			s.Message = p.refused
		case unknown:
			s.Message = "waiting for the sources to be listed, to know what else the workers have"
		}
	})
	return append(first, more...)
}

// unlisted tells that workers which are to go have what may come to be known
// with the rest of the sources.
func (p *pass) unlisted() bool {
	if p.d.m.tree.Totals().Complete {
		return false
	}
	for h := range p.leaving {
		if len(p.d.m.ledger.stale(h)) > 0 {
			return true
		}
	}
	return false
}

// list goes over all files. first is what no owner of a stripe has, more what
// only some of its owners have; stuck bytes are with nobody but those that are to
// go, and were tried in vain.
func (p *pass) list() (first, more []moving, stuck int64) {
	m := p.d.m
	var held int64
	for h := range p.leaving {
		held += m.ledger.keysOf(h)
	}
	if held == 0 {
		return nil, nil, 0
	}
	leaves := func(h *holder) bool { _, ok := p.leaving[h]; return ok }
	stays := func(h *holder) bool { return !leaves(h) }
	longest := int64(p.d.limit.Burst())
	m.tree.Files(namespace.RootIno, func(e namespace.Entry) bool {
		k := objectKey(e)
		here := m.ledger.blocks(k, leaves)
		if here == nil {
			return true
		}
		elsewhere := m.ledger.blocks(k, stays)
		for at := int64(0); at < e.Size; at += m.opts.StripeBytes {
			all := stripe{file: e, key: k, off: at, end: min(at+m.opts.StripeBytes, e.Size), block: m.opts.BlockBytes, longest: longest}
			owners := p.place.owners(k, at/m.opts.StripeBytes, m.opts.Replicas)
			some := make([]byte, len(here))
			has := make([][]byte, len(owners))
			for i, o := range owners {
				has[i] = m.ledger.blocks(k, func(h *holder) bool { return h == p.holders[o.Name] })
				unite(some, has[i])
			}
			tried := false
			for i, o := range owners {
				for _, one := range all.runs(o.Name, func(b int64) bool { return bit(here, b) && !bit(has[i], b) }) {
					switch {
					case p.d.tries[one.id()] >= drainTries:
						tried = true
					case i == 0 && !bit(some, one.off/all.block):
						first = append(first, one)
					default:
						more = append(more, one)
					}
				}
			}
			if tried || len(owners) == 0 {
				for _, one := range all.runs("", func(b int64) bool { return bit(here, b) && !bit(elsewhere, b) }) {
					stuck += one.n
				}
			}
			if len(owners) == 0 {
				p.refused = "no worker stays to take what they have"
			}
		}
		return true
	})
	return first, more, stuck
}

// stripe is a stretch of a file that has the same owners.
type stripe struct {
	file           namespace.Entry
	key            key
	off, end       int64
	block, longest int64
}

// runs are the stretches of blocks that are wanted, none longer than longest.
func (s *stripe) runs(to string, wanted func(block int64) bool) (out []moving) {
	for at := s.off; at < s.end; at += s.block {
		if !wanted(at / s.block) {
			continue
		}
		n := min(s.block, s.end-at)
		if last := len(out) - 1; last >= 0 && out[last].off+out[last].n == at && out[last].n+n <= s.longest {
			out[last].n += n
		} else {
			out = append(out, moving{ino: s.file.Ino, key: s.key, to: to, off: at, n: n})
		}
	}
	return out
}

// move has copies made; false when the members changed, or the context ended,
// before all was tried.
func (p *pass) move(ctx context.Context, plan []moving) bool {
	lanes := map[string]*drainLane{}
	for _, one := range plan {
		if lanes[one.to] == nil {
			lanes[one.to] = &drainLane{}
		}
		lanes[one.to].queue = append(lanes[one.to].queue, one)
	}
	inHand := map[uint64]moving{}
	defer func() {
		for id, one := range inHand {
			p.d.m.orderTo(one.to, &wirepb.WorkerOrder{Order: &wirepb.WorkerOrder_Cancel{Cancel: &wirepb.CancelTask{Id: id}}})
		}
	}()
	failed := false
	var next *moving
	ready := time.NewTimer(0)
	defer ready.Stop()
	<-ready.C
	for {
		if next == nil {
			if next = pick(lanes); next != nil {
				ready.Reset(p.d.limit.ReserveN(time.Now(), int(min(next.n, int64(p.d.limit.Burst())))).Delay())
			} else if len(inHand) == 0 {
				break
			}
		}
		select {
		case <-ctx.Done():
			return false
		case <-p.d.look:
			p.d.again()
			return false
		case <-ready.C:
			if id, ok := p.send(*next); ok {
				inHand[id] = *next
				lanes[next.to].tasks++
				lanes[next.to].bytes += next.n
			} else {
				failed = true
			}
			next = nil
		case <-p.d.ended.ready:
			for _, done := range p.d.ended.take() {
				one, mine := inHand[done.GetId()]
				if !mine {
					continue
				}
				delete(inHand, done.GetId())
				lanes[one.to].tasks--
				lanes[one.to].bytes -= one.n
				failed = !p.answered(ctx, one, done) || failed
			}
		}
	}
	if failed {
		select {
		case <-ctx.Done():
		case <-time.After(drainPause):
		}
	}
	return true
}

// drainLane is the work of one worker.
type drainLane struct {
	queue []moving
	tasks int
	bytes int64
}

// pick takes the next copy for a worker that has the fewest in hand.
func pick(lanes map[string]*drainLane) *moving {
	var best *drainLane
	for _, l := range lanes {
		if len(l.queue) > 0 && l.tasks < drainTasks && l.bytes < drainTaskBytes && (best == nil || l.tasks < best.tasks) {
			best = l
		}
	}
	if best == nil {
		return nil
	}
	one := best.queue[0]
	best.queue = best.queue[1:]
	return &one
}

// send orders a copy; false if it cannot be made.
func (p *pass) send(one moving) (id uint64, ok bool) {
	m := p.d.m
	p.d.tries[one.id()]++
	entry, ok := m.tree.Known(one.ino)
	if !ok || objectKey(entry) != one.key {
		p.d.tries[one.id()] = drainTries // the file is another one by now
		return 0, false
	}
	object := objectOf(entry)
	object.Key = keyText(one.key)
	id = m.taskIDs.Add(1)
	return id, m.orderTo(one.to, &wirepb.WorkerOrder{Order: &wirepb.WorkerOrder_Task{
		Task: &wirepb.Task{Id: id, Object: object, Offset: one.off, Length: one.n, Copy: true},
	}})
}

// orderTo gives an order to a worker; false if its stream is gone.
func (m *Master) orderTo(name string, o *wirepb.WorkerOrder) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.workers[name]
	return w != nil && w.order(o)
}

// answered takes in how a copy ended; false if it may be tried again.
func (p *pass) answered(ctx context.Context, one moving, done *wirepb.TaskDone) bool {
	status := done.GetStatus()
	if status == wirepb.Status_STATUS_OK && done.GetCachedBytes() < one.n {
		status = wirepb.Status_STATUS_NO_SPACE
	}
	switch status {
	case wirepb.Status_STATUS_OK:
		p.rate.add(one.n)
		p.d.report(p.workers, func(s *contract.DrainSummary) {
			s.MovedBytes += one.n
			s.LeftBytes = max(0, s.LeftBytes-one.n)
			s.BytesPerSecond = p.rate.perSecond(time.Now())
		})
		return true
	case wirepb.Status_STATUS_NO_SPACE:
		p.refused = fmt.Sprintf("%s has no room for what it is to take over: raise its quota, or keep the workers", one.to)
	case wirepb.Status_STATUS_NOT_EXIST, wirepb.Status_STATUS_CHANGED, wirepb.Status_STATUS_DENIED, wirepb.Status_STATUS_INVALID:
		p.refused = fmt.Sprintf("%s: %s", one.to, done.GetMessage())
	default: // a peer is slow, or was not known yet
		p.refused = fmt.Sprintf("%s: %s", one.to, done.GetMessage())
		return false
	}
	p.d.m.log.InfoContext(ctx, "a worker cannot take over what another has", "worker", one.to, "file", keyText(one.key), "off", one.off, "status", status.String(), "message", done.GetMessage())
	p.d.tries[one.id()] = drainTries
	return true
}
