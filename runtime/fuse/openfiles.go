package fuse

import (
	"container/list"
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// mode is how the kernel reads an open file. It is one per node for as long as
// the node is open: the kernel answers EIO to whoever mixes them.
type mode string

const (
	// modePassthrough: the kernel reads the backing file, this server sees
	// neither READ nor mmap faults.
	modePassthrough mode = "passthrough"
	// modeCached: READ requests, through the kernel's page cache.
	modeCached mode = "cached"
)

// Bounds of the files that stay registered while nobody has them open, so that
// opening a small file again costs neither a File nor a registration: 3 KiB of
// memory each, here and in the worker.
const (
	maxPinned  = 16384
	pinnedIdle = time.Minute
)

// openFiles has one openFile for each node that is open, or was until lately.
//
// Nothing waits for a source with mu held, and nobody waits for a READ: an open
// of a file that others read goes through while they wait for its bytes.
type openFiles struct {
	fs     FileSystem
	dev    Device
	log    *slog.Logger
	m      *metrics
	small  bool // the kernel neither opens nor releases: files are kept by use
	now    func() time.Time
	mu     sync.Mutex // guards what follows, and what says so below
	byNode map[uint64]*openFile
	// pins bounds pinned: a process may have so many descriptors.
	pins int
	// pinned has the openFiles that nobody has open and that are kept: those in
	// passthrough, and all where the kernel does not open; the one used last
	// is in front.
	pinned *list.List
}

// openFile is a node that is open, or was until lately.
type openFile struct {
	id, ino uint64
	filling sync.Mutex // held by the one that opens the File

	// Under openFiles.mu.
	opens     int     // OPENs answered or being answered, less RELEASEs
	opened    *opened // nil until it is
	pin       *list.Element
	idleSince time.Time
}

// opened is a File and how the kernel reads it, shared by every handle of the
// node: a node is one version, so the handles differ in nothing.
type opened struct {
	file    File
	node    Node
	version uint64 // of node
	mode    mode
	backing int32

	// Under openFiles.mu.
	reads  int  // READs in hand
	doomed bool // to be closed by the last of them
}

func newOpenFiles(fs FileSystem, dev Device, log *slog.Logger, m *metrics, small bool) *openFiles {
	return &openFiles{
		fs: fs, dev: dev, log: log, m: m, small: small, now: time.Now, pins: min(maxPinned, descriptors()/2),
		byNode: map[uint64]*openFile{},
		pinned: list.New(),
	}
}

// descriptors is how many files this process may have open. The worker of the
// node, which leases every file that is open here, is taken to have as many.
func descriptors() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(limit.Cur, 1<<20))
}

// open gives the node one more handle. The caller has found that id speaks of
// n; fresh tells that the File was not open before.
func (t *openFiles) open(ctx context.Context, id uint64, n Node) (o *opened, fresh bool, err error) {
	f, o := t.acquire(id, n)
	if o != nil {
		return o, false, nil
	}
	f.filling.Lock()
	defer f.filling.Unlock()
	if o := t.current(f, n); o != nil {
		return o, false, nil // another has opened it meanwhile
	}
	if o, err = t.fill(ctx, f.ino, n); err != nil {
		t.abandon(f)
		return nil, false, err
	}
	t.mu.Lock()
	f.opened = o
	t.mu.Unlock()
	return o, true, nil
}

// acquire counts a handle; o is nil if the File is to be opened.
func (t *openFiles) acquire(id uint64, n Node) (f *openFile, o *opened) {
	t.mu.Lock()
	if f = t.byNode[id]; f == nil {
		f = &openFile{id: id, ino: n.Ino}
		t.byNode[id] = f
	}
	f.opens++
	if f.pin != nil {
		t.pinned.Remove(f.pin)
		f.pin = nil
	}
	t.mu.Unlock()
	return f, t.current(f, n)
}

// current is what f has of n. The kernel may have forgotten the node since the
// file was pinned, and have learnt of it anew in another version: then nobody
// has the former one open, and it is closed.
func (t *openFiles) current(f *openFile, n Node) *opened {
	t.mu.Lock()
	o := f.opened
	if o == nil || o.version == versionOf(n) {
		t.mu.Unlock()
		return o
	}
	victim := t.takeLocked(f)
	t.mu.Unlock()
	t.close(victim)
	return nil
}

// fill opens the File and decides the mode.
func (t *openFiles) fill(ctx context.Context, ino uint64, n Node) (*opened, error) {
	file, err := t.fs.Open(ctx, ino)
	if err != nil {
		return nil, err
	}
	if v := file.Version(); v != n.Version {
		_ = file.Close()
		return nil, syscall.ESTALE // changed since Lookup; the kernel looks again
	}
	o := &opened{file: file, node: n, version: versionOf(n), mode: modeCached}
	if t.small {
		return o, nil // without an OPEN there is no passthrough
	}
	if id, ok := t.register(file, n); ok {
		o.mode, o.backing = modePassthrough, id
	}
	return o, nil
}

// register gives the complete local copy to the kernel. Where that cannot be,
// such as on overlayfs (ELOOP), the file is read through the server.
func (t *openFiles) register(file File, n Node) (id int32, ok bool) {
	b := file.Backing()
	if b == nil {
		return 0, false
	}
	defer b.Close() // the kernel has its own reference by then
	if st, err := b.Stat(); err != nil || st.Size() != n.Size {
		t.m.backingFailures.WithLabelValues("size").Inc()
		return 0, false
	}
	id, err := t.dev.RegisterBacking(b.Fd())
	if err != nil {
		t.m.backingFailures.WithLabelValues(errnoName(errno(context.Background(), err))).Inc()
		return 0, false
	}
	t.m.backings.Inc()
	return id, true
}

// abandon takes back acquire for a File that could not be opened.
func (t *openFiles) abandon(f *openFile) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.opens--; f.opens == 0 {
		delete(t.byNode, f.id)
	}
}

// release takes one handle back. It is called only after the kernel has dealt
// with the reply to OPEN: a backing id that is unregistered earlier is EIO.
func (t *openFiles) release(id uint64) {
	t.mu.Lock()
	f := t.byNode[id]
	if f == nil || f.opens == 0 {
		t.mu.Unlock()
		return // a handle of a former server
	}
	var victims []*opened
	if f.opens--; f.opens == 0 {
		if f.opened != nil && (f.opened.mode == modePassthrough || t.small) {
			f.idleSince, f.pin = t.now(), t.pinned.PushFront(f)
		} else {
			victims = append(victims, t.dropLocked(f))
		}
	}
	for t.pinned.Len() > t.pins {
		victims = append(victims, t.dropLocked(t.pinned.Back().Value.(*openFile)))
	}
	t.mu.Unlock()
	t.close(victims...)
}

// expire closes what has been pinned for too long.
func (t *openFiles) expire() {
	t.mu.Lock()
	var victims []*opened
	for e := t.pinned.Back(); e != nil && t.now().Sub(e.Value.(*openFile).idleSince) >= pinnedIdle; e = t.pinned.Back() {
		victims = append(victims, t.dropLocked(e.Value.(*openFile)))
	}
	t.mu.Unlock()
	t.close(victims...)
}

// unpin closes the node's file if nobody has it open: its version is of no more use.
func (t *openFiles) unpin(id uint64) {
	t.mu.Lock()
	var victim *opened
	if f := t.byNode[id]; f != nil && f.pin != nil {
		victim = t.dropLocked(f)
	}
	t.mu.Unlock()
	t.close(victim)
}

// closeAll closes every file. The kernel asks nothing any more.
func (t *openFiles) closeAll() {
	t.mu.Lock()
	var victims []*opened
	for _, f := range t.byNode {
		victims = append(victims, t.dropLocked(f))
	}
	t.mu.Unlock()
	t.close(victims...)
}

// dropLocked takes f out of the table and returns what is to be closed, if
// anything.
func (t *openFiles) dropLocked(f *openFile) *opened {
	delete(t.byNode, f.id)
	if f.pin != nil {
		t.pinned.Remove(f.pin)
		f.pin = nil
	}
	return t.takeLocked(f)
}

// takeLocked takes the File from f and returns it for the caller to close; a
// READ in hand closes it in his place.
func (t *openFiles) takeLocked(f *openFile) *opened {
	o := f.opened
	f.opened = nil
	if o != nil && o.reads > 0 {
		o.doomed = true
		return nil
	}
	return o
}

// close gives up Files, without a lock held. Nil is nothing to give up.
func (t *openFiles) close(files ...*opened) {
	for _, o := range files {
		if o == nil {
			continue
		}
		if o.mode == modePassthrough {
			if err := t.dev.UnregisterBacking(o.backing); err != nil {
				t.log.Warn("unregister a backing file", "ino", o.node.Ino, "err", err)
			}
			t.m.backings.Dec()
		}
		if err := o.file.Close(); err != nil {
			t.log.Warn("close a file", "ino", o.node.Ino, "err", err)
		}
	}
}

// beginRead is the node's File, which stays open until endRead.
func (t *openFiles) beginRead(id uint64) (*opened, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.byNode[id]
	if f == nil || f.opened == nil {
		return nil, false
	}
	if t.small && f.pin != nil {
		f.idleSince = t.now()
		t.pinned.MoveToFront(f.pin)
	}
	f.opened.reads++
	return f.opened, true
}

func (t *openFiles) endRead(o *opened) {
	t.mu.Lock()
	o.reads--
	last := o.doomed && o.reads == 0
	t.mu.Unlock()
	if last {
		t.close(o)
	}
}

// readAt fills p, or fails: fewer bytes come only at the end of the file, for
// the kernel would take a short read for the new end.
func (o *opened) readAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off >= o.node.Size {
		return 0, nil
	}
	p = p[:min(int64(len(p)), o.node.Size-off)]
	n, err := o.file.ReadAt(ctx, p, off)
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return 0, err
}
