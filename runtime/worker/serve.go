package worker

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/millrace/millrace/runtime/peers"
	"github.com/millrace/millrace/runtime/store"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// dataHandler serves ranges to peers and to readers of other nodes.
type dataHandler struct{ w *Worker }

var _ wire.RangeHandler = dataHandler{}

// stretch is a leased file that a range is sent from.
type stretch struct {
	cached *store.File
	data   *os.File
}

var _ wire.Summed = stretch{}

func newStretch(f *store.File) (wire.Content, error) {
	data, err := f.Data()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open cached file %s: %w", f.Key(), err)
	}
	return stretch{f, data}, nil
}

func (s stretch) File() *os.File { return s.data }

func (s stretch) Close() error { return s.cached.Close() }

// Sums implements wire.Summed for ranges of whole blocks.
func (s stretch) Sums(off, n int64) (wire.Sums, bool) {
	each := s.cached.BlockBytes()
	if off%each != 0 || n%each != 0 && off+n != s.cached.Size() {
		return wire.Sums{}, false
	}
	sums := wire.Sums{Bytes: each, CRCs: make([]uint32, 0, (n+each-1)/each)}
	for block := int(off / each); int64(block)*each < off+n; block++ {
		crc, ok := s.cached.Checksum(block)
		if !ok {
			return wire.Sums{}, false
		}
		sums.CRCs = append(sums.CRCs, crc)
	}
	return sums, true
}

// content is a leased file with a descriptor for other processes.
type content struct {
	cached *store.File
	fd     *os.File
}

var _ wire.Content = (*content)(nil)

func newContent(f *store.File) (*content, error) {
	fd, err := f.Dup()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open cached file %s: %w", f.Key(), err)
	}
	return &content{f, fd}, nil
}

func (c *content) File() *os.File { return c.fd }

func (c *content) Close() error {
	c.fd.Close()
	return c.cached.Close()
}

// Keep implements wire.RangeHandler: only an owner takes in what it is told of.
func (h dataHandler) Keep(r wire.Range) error {
	if peers.Index(h.w.view.Owners(r.Object.GetKey(), r.Off), h.w.cfg.Name) < 0 {
		return wire.ErrNotCached
	}
	if !h.w.copies.told(r) {
		return fmt.Errorf("%w: too much is to be copied already", wire.ErrNoSpace)
	}
	return nil
}

// recheck reads the blocks of a range again for a peer to whom they came wrong.
func (w *Worker) recheck(o *wirepb.Object, off, n int64) {
	file, ok := w.store.Lookup(store.Key(o.GetKey()))
	if !ok {
		return
	}
	defer file.Close()
	for block := int(off / file.BlockBytes()); int64(block)*file.BlockBytes() < off+n; block++ {
		file.Recheck(block)
	}
}

func (h dataHandler) ServeRange(ctx context.Context, r wire.Range) (wire.Content, error) {
	w, o := h.w, r.Object
	if r.Flags&wire.FlagDoubt != 0 {
		w.recheck(o, r.Off, r.N)
	}
	var file *store.File
	if r.Flags&wire.FlagFetch == 0 {
		var ok bool
		if file, ok = w.store.Lookup(store.Key(o.GetKey())); !ok {
			return nil, wire.ErrNotCached
		}
		if !file.HasRange(r.Off, r.N) {
			file.Close()
			return nil, wire.ErrNotCached
		}
		return newStretch(file)
	}
	owner := peers.Index(w.view.Owners(o.GetKey(), r.Off), w.cfg.Name) >= 0
	file, err := w.acquire(o, !owner)
	if err != nil {
		return nil, err
	}
	got, err := w.fetch.ensure(ctx, file, o, r.Off, r.N, asServer)
	if err != nil {
		file.Close()
		return nil, err
	}
	if r.Flags&wire.FlagReader != 0 {
		w.gave(tally{remote: r.N - got.source, source: got.source})
	}
	return newStretch(file)
}

// gave counts bytes for the metrics and the master.
func (w *Worker) gave(t tally) {
	w.m.given.WithLabelValues(fromLocal).Add(float64(t.local))
	w.m.given.WithLabelValues(fromRemote).Add(float64(t.remote))
	w.m.given.WithLabelValues(fromSource).Add(float64(t.source))
	w.report.gave(t)
}

// localHandler opens files for the readers of this node.
type localHandler struct{ w *Worker }

var _ wire.LocalHandler = localHandler{}

// OpenLocal implements wire.LocalHandler. What is there at once counts as local
// reads: the reader will not ask for it again.
func (h localHandler) OpenLocal(ctx context.Context, o *wirepb.Object, first int64) (wire.LocalContent, error) {
	w := h.w
	file, err := w.acquire(o, true)
	if err != nil {
		return nil, err
	}
	var got tally
	if first > 0 {
		got, err = w.fetch.ensure(ctx, file, o, 0, min(first, o.GetSize()), asGuest)
		if final(err) {
			file.Close()
			return nil, err
		}
	}
	c, err := newContent(file)
	if err != nil {
		return nil, err
	}
	a := &handle{content: c, w: w, object: o}
	a.present, a.complete = wire.Bitmap(file.Bitmap()), file.Complete()
	got.local = presentBytes(file, a.present, a.complete) - got.remote - got.source
	w.gave(got)
	return a, nil
}

func presentBytes(f *store.File, present wire.Bitmap, complete bool) (n int64) {
	if complete {
		return f.Size()
	}
	for i := range f.Blocks() {
		if present.Has(int64(i)) {
			n += blockLength(f, i)
		}
	}
	return n
}

// Sent implements wire.LocalContent: thousands of files may be open by clients.
func (c *content) Sent() { c.fd.Close() }

// handle is a file that a reader of this node has open.
type handle struct {
	*content
	w        *Worker
	object   *wirepb.Object
	present  wire.Bitmap // when it was opened
	complete bool

	mu sync.Mutex
	// next is where a sequential reader goes on, window how much is fetched
	// ahead of it, in blocks.
	next   int64
	window int64
	ahead  map[int]bool // blocks that were fetched ahead, and not yet asked for
}

// maxWindow is the read-ahead of a steady sequential reader, in blocks.
const maxWindow = 16

func (h *handle) Blocks() (wire.Bitmap, bool) { return h.present, h.complete }

func (h *handle) BlockBytes() int64 { return h.cached.BlockBytes() }

// Ensure implements wire.LocalContent.
func (h *handle) Ensure(ctx context.Context, off, n int64) error {
	n = min(n, h.cached.Size()-off)
	if n <= 0 {
		return nil
	}
	h.readAhead(off, n)
	uncounted := n - h.counted(off, n)
	got, err := h.w.fetch.ensure(ctx, h.cached, h.object, off, n, asGuest)
	if err != nil {
		return err
	}
	got.remote = min(got.remote, uncounted)
	got.source = min(got.source, uncounted-got.remote)
	got.local = uncounted - got.remote - got.source
	h.w.gave(got)
	return nil
}

// readAhead keeps a sequential reader from waiting: each time it comes to where
// it was expected, the window doubles. Its reads may overtake each other, as
// several threads of a FUSE server make them.
func (h *handle) readAhead(off, n int64) {
	block := h.BlockBytes()
	h.mu.Lock()
	sequential := off+n > h.next-block && off <= h.next+h.window*block
	if !sequential {
		h.window, h.next = 0, (off+n+block-1)/block*block
		h.mu.Unlock()
		return
	}
	h.window = min(max(2*h.window, 1), maxWindow)
	h.next = max(h.next, (off+n+block-1)/block*block)
	from, length := h.next, h.window*block
	h.mu.Unlock()
	if from >= h.cached.Size() {
		return
	}
	started := h.w.fetch.ahead(h.cached, h.object, from, min(length, h.cached.Size()-from), func(where string, bytes int64) {
		var t tally
		t.add(where, bytes)
		h.w.gave(t)
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range started {
		if h.ahead == nil {
			h.ahead = map[int]bool{}
		}
		h.ahead[b] = true
	}
}

// counted is how much of a range was counted when it was fetched ahead.
func (h *handle) counted(off, n int64) (bytes int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for b := int(off / h.BlockBytes()); int64(b)*h.BlockBytes() < off+n; b++ {
		if h.ahead[b] {
			bytes += overlap(h.cached, b, off, n)
			delete(h.ahead, b)
		}
	}
	return bytes
}
