package reader

import (
	"container/list"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// Whoever reads the files of a directory in order (cp, tar, a loader of small
// samples) has the next ones opened and fetched ahead of it.
const (
	// maxWalks is how many directories are watched at a time, maxWalkNames how
	// many names of files are kept of all of them; about 50 bytes each.
	maxWalks     = 64
	maxWalkNames = 256 << 10
	// firstWalk files are fetched ahead at first, then twice as many with each
	// file that is opened in order, up to maxWalk.
	firstWalk, maxWalk = 4, 64
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
	names  int                      // of files of all walks
}

// walk is one directory whose files are being opened.
type walk struct {
	dir    uint64
	last   string // the file that was opened last
	files  []walkFile
	asked  bool // for files
	pos    int  // of last in files
	ahead  int  // files before this one were fetched
	window int
}

// walkFile is a file in the order of its directory.
type walkFile struct {
	name string
	ino  uint64
	size int64
}

// early is a file that was opened before anybody asked for it.
type early struct {
	walkFile
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
	onwards := e.GetName() > d.last // true also for the first
	d.last = e.GetName()
	if d.files == nil {
		ask := onwards && !d.asked
		d.asked = d.asked || ask
		w.mu.Unlock()
		if ask {
			w.learn(d)
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
	d := &walk{dir: ino}
	w.dirs[ino] = w.recent.PushFront(d)
	if w.recent.Len() > maxWalks {
		w.dropWalkLocked(w.recent.Back())
	}
	return d
}

func (w *walks) dropWalkLocked(el *list.Element) {
	d := w.recent.Remove(el).(*walk)
	delete(w.dirs, d.dir)
	w.names -= len(d.files)
}

// learn finds out the order of a directory, without anybody waiting.
func (w *walks) learn(d *walk) {
	w.r.background(func(ctx context.Context) {
		files, err := w.files(ctx, d.dir)
		if err != nil {
			return
		}
		w.mu.Lock()
		if el := w.dirs[d.dir]; el == nil || el.Value != d {
			w.mu.Unlock()
			return // it changed meanwhile
		}
		d.files, d.pos, d.ahead = files, -1, 0
		for w.names += len(files); w.names > maxWalkNames && w.recent.Len() > 1; {
			w.dropWalkLocked(w.recent.Back())
		}
		next := w.advanceLocked(d, d.last)
		w.mu.Unlock()
		for _, x := range next {
			w.fetch(x)
		}
	})
}

var errTooMany = errors.New("too many files")

// files lists the files of a directory, unless there are too many of them.
func (w *walks) files(ctx context.Context, dir uint64) (files []walkFile, err error) {
	add := func(entries []*wirepb.Entry) error {
		for _, e := range entries {
			if e.GetMode()&syscall.S_IFMT == syscall.S_IFREG {
				files = append(files, walkFile{e.GetName(), e.GetIno(), e.GetSize()})
			}
		}
		if len(files) > maxWalkNames {
			return errTooMany
		}
		return nil
	}
	if entries, ok := w.r.names.directory(dir); ok {
		return files, add(entries)
	}
	// What names can hold is remembered there as well: it is looked up next.
	var few []*wirepb.Entry
	many := false
	seen := w.r.names.generation()
	err = w.r.stream(ctx, dir, func(entries []*wirepb.Entry) error {
		if many = many || len(few)+len(entries) > w.r.cfg.MaxEntries; many {
			few = nil
		} else {
			few = append(few, entries...)
		}
		return add(entries)
	})
	if err == nil && !many {
		w.r.names.putDirectory(dir, few, seen)
	}
	return files, err
}

// advanceLocked moves to the file that is opened now and returns those to fetch.
func (w *walks) advanceLocked(d *walk, name string) (next []*early) {
	at, found := slices.BinarySearchFunc(d.files, name, func(f walkFile, name string) int { return strings.Compare(f.name, name) })
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
	for i := max(d.ahead, at+1); i < min(at+1+d.window, len(d.files)); i++ {
		if f := d.files[i]; f.size > 0 && f.size <= walkFileBytes {
			if w.bytes+f.size > walkBytes {
				break
			}
			if w.early[f.ino] == nil {
				next = append(next, w.addLocked(f))
			}
		}
		d.ahead = i + 1
	}
	return next
}

func (w *walks) addLocked(f walkFile) *early {
	x := &early{walkFile: f, made: time.Now(), done: make(chan struct{})}
	x.elem = w.queue.PushFront(x)
	w.early[f.ino] = x
	w.bytes += f.size
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
