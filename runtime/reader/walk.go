package reader

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// Whoever reads the files of a directory in order (cp, tar, a loader of small
// samples) has the next ones opened and fetched ahead of it.
const (
	// maxWalks is how many directories are watched at a time, maxWalkBytes what
	// their entries may take in memory, beside those that are remembered anyway.
	maxWalks     = 64
	maxWalkBytes = 32 << 20
	// A directory whose files are opened in order is fetched whole from the
	// second on, if it has no more than so many entries, and then times four
	// with each further one.
	walkEntries, maxWalkEntries = 1024, 512 << 10
	// firstWalk files are fetched ahead at first, then twice as many with each
	// file that is opened in order, up to maxWalk; from then on walkStep at a
	// time, for those that are wanted of one peer to go together.
	firstWalk, maxWalk, walkStep = 4, 96, 32
	// walkFileBytes is the largest file that is fetched ahead, walkBytes what
	// may be ready or on its way in all.
	walkFileBytes = 4 << 20
	walkBytes     = 64 << 20
	// walkIdle is for how long a file that was opened ahead waits to be wanted.
	walkIdle = 20 * time.Second
	// maxSkipped is how many files of the order a reader may leave out, or open
	// too early as several threads do.
	maxSkipped = 16
)

// walks watches the order in which files are opened.
type walks struct {
	r *Reader

	mu     sync.Mutex
	dirs   map[uint64]*list.Element // of *walk, by the directory's inode
	recent *list.List               // the last used in front
	early  map[uint64]*early        // by the file's inode
	queue  *list.List               // of *early, the newest in front
	bytes  int64                    // of early
}

// walk is one directory whose files are being opened.
type walk struct {
	ino    uint64
	last   string          // the file that was opened last
	row    int             // how many were opened in order
	asking bool            // for the directory
	dir    *namespace.Copy // nil until it is known
	pos    int             // of last in dir
	ahead  int             // entries before this one were fetched
	window int
}

// early is a file that was opened before anybody asked for it.
type early struct {
	ino  uint64
	size int64
	elem *list.Element
	made time.Time
	done chan struct{} // closed when what follows is good
	file *file
	err  error
}

func newWalks(r *Reader) *walks {
	return &walks{r: r, dirs: map[uint64]*list.Element{}, recent: list.New(), early: map[uint64]*early{}, queue: list.New()}
}

// open takes the file that was opened ahead, if it was and is of this version.
func (w *walks) open(ctx context.Context, e *wirepb.Entry) (*file, bool) {
	w.saw(e)
	w.mu.Lock()
	x := w.early[e.GetIno()]
	if x == nil {
		w.mu.Unlock()
		return nil, false
	}
	w.removeLocked(x)
	w.mu.Unlock()
	select {
	case <-x.done:
	case <-ctx.Done():
		w.r.wg.Go(func() { <-x.done; x.close() })
		return nil, false
	}
	if x.err != nil {
		return nil, false
	}
	if x.file.Version() != e.GetObject().GetKey() {
		x.close()
		return nil, false
	}
	w.r.m.aheadFiles.WithLabelValues("used").Inc()
	return x.file, true
}

func (x *early) close() {
	if x.file != nil {
		_ = x.file.Close()
	}
}

// saw takes in that a file is opened and starts to open the next ones.
func (w *walks) saw(e *wirepb.Entry) {
	if e.GetSize() > walkFileBytes || e.GetParent() == 0 {
		return
	}
	w.mu.Lock()
	d := w.dirLocked(e.GetParent())
	if d.last == e.GetName() {
		w.mu.Unlock()
		return
	}
	if e.GetName() > d.last {
		d.row++
	} else {
		d.row = 1
	}
	d.last = e.GetName()
	if d.dir == nil {
		ask := d.row > 1 && !d.asking
		d.asking = d.asking || ask
		limit := min(walkEntries<<min(2*max(0, d.row-2), 20), maxWalkEntries)
		w.mu.Unlock()
		if ask {
			w.learn(d, limit)
		}
		return
	}
	next := w.advanceLocked(d, e.GetName())
	w.mu.Unlock()
	for _, x := range next {
		w.fetch(x)
	}
}

func (w *walks) dirLocked(ino uint64) *walk {
	if el := w.dirs[ino]; el != nil {
		w.recent.MoveToFront(el)
		return el.Value.(*walk)
	}
	d := &walk{ino: ino}
	w.dirs[ino] = w.recent.PushFront(d)
	if w.recent.Len() > maxWalks {
		w.dropWalkLocked(w.recent.Back())
	}
	return d
}

func (w *walks) dropWalkLocked(el *list.Element) {
	d := w.recent.Remove(el).(*walk)
	delete(w.dirs, d.ino)
}

// learn finds out the order of a directory that has no more than limit entries,
// without anybody waiting.
func (w *walks) learn(d *walk, limit int) {
	w.r.background(func(ctx context.Context) {
		dir, err := w.r.directory(ctx, d.ino, limit)
		w.mu.Lock()
		if err != nil {
			d.asking = errors.Is(err, errTooMany) && limit == maxWalkEntries // for ever
			w.mu.Unlock()
			return
		}
		if el := w.dirs[d.ino]; el == nil || el.Value != d || !w.roomLocked(dir) {
			w.mu.Unlock()
			return // it changed meanwhile, or is too large
		}
		d.dir, d.pos, d.ahead = dir, -1, 0
		next := w.advanceLocked(d, d.last)
		w.mu.Unlock()
		for _, x := range next {
			w.fetch(x)
		}
	})
}

// roomLocked makes room for a directory.
func (w *walks) roomLocked(dir *namespace.Copy) bool {
	need := dir.Bytes()
	for _, el := range w.dirs {
		if d := el.Value.(*walk).dir; d != nil {
			need += d.Bytes()
		}
	}
	for el := w.recent.Back(); el != nil && need > maxWalkBytes; {
		d, before := el.Value.(*walk), el.Prev()
		if d.dir != nil {
			need -= d.dir.Bytes()
			w.dropWalkLocked(el)
		}
		el = before
	}
	return need <= maxWalkBytes
}

// advanceLocked moves to the file that is opened now and returns those to fetch.
func (w *walks) advanceLocked(d *walk, name string) (next []*early) {
	at, found := d.dir.Index(name)
	if !found {
		return nil // new since
	}
	switch step := at - d.pos; {
	case step > 0 && step <= maxSkipped:
		d.pos = at
		d.window = min(max(2*d.window, firstWalk), maxWalk)
	case step <= 0 && step >= -maxSkipped:
		return nil // a thread that lags behind
	default:
		d.pos, d.ahead, d.window = at, 0, 0
		return nil
	}
	i, end := max(d.ahead, at+1), at+1+d.window
	if d.window == maxWalk && end-i < walkStep {
		return nil
	}
	for e := range d.dir.From(i) {
		if i >= end {
			break
		}
		if e.IsFile() && e.Size > 0 && e.Size <= walkFileBytes {
			if w.bytes+e.Size > walkBytes {
				break
			}
			if w.early[e.Ino] == nil {
				next = append(next, w.addLocked(e))
			}
		}
		i++
		d.ahead = i
	}
	return next
}

func (w *walks) addLocked(e namespace.Entry) *early {
	x := &early{ino: e.Ino, size: e.Size, made: time.Now(), done: make(chan struct{})}
	x.elem = w.queue.PushFront(x)
	w.early[x.ino] = x
	w.bytes += x.size
	return x
}

func (w *walks) removeLocked(x *early) {
	if w.early[x.ino] == x {
		delete(w.early, x.ino)
		w.queue.Remove(x.elem)
		w.bytes -= x.size
	}
}

// fetch opens one file ahead: with a worker on this node it is whole when it is
// open, without one its bytes are on their way.
func (w *walks) fetch(x *early) {
	started := w.r.background(func(ctx context.Context) {
		defer close(x.done)
		e, err := w.r.entry(ctx, x.ino, "")
		if err == nil {
			x.file, err = w.r.open(ctx, e)
		}
		if x.err = err; err != nil {
			return
		}
		x.file.mu.Lock()
		local := x.file.local != nil
		x.file.mu.Unlock()
		if !local {
			x.file.startAll(span{0, e.GetSize()}, unitOf(0, e.GetSize(), e.GetSize()), &x.file.pattern)
		}
	})
	if !started {
		x.err = context.Canceled
		close(x.done)
	}
}

// expire closes what nobody wanted, until ctx ends; then everything.
func (w *walks) expire(ctx context.Context) {
	tick := time.NewTicker(walkIdle / 4)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		w.drop(func(x *early) bool { return ctx.Err() != nil || time.Since(x.made) > walkIdle })
	}
}

// forget drops what is known of a directory, as its listing changed.
func (w *walks) forget(dir uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if el := w.dirs[dir]; el != nil {
		w.dropWalkLocked(el)
	}
}

func (w *walks) drop(which func(*early) bool) {
	w.mu.Lock()
	var dropped []*early
	for el := w.queue.Back(); el != nil; {
		x, before := el.Value.(*early), el.Prev()
		if which(x) {
			w.removeLocked(x)
			dropped = append(dropped, x)
		}
		el = before
	}
	w.mu.Unlock()
	for _, x := range dropped {
		<-x.done // bounded: the fetch has its own end, and that of the reader
		x.close()
		w.r.m.aheadFiles.WithLabelValues("wasted").Inc()
	}
}

// count is how many files are open ahead.
func (w *walks) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.early)
}
