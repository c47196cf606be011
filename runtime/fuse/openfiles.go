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
// opening a small file again costs neither a File nor a registration.
const (
	maxPinned  = 4096
	pinnedIdle = time.Minute
)

// openFiles has one openFile for each node that is open, or was until lately.
//
// Locks: who holds openFile.mu may take mu, never the reverse.
type openFiles struct {
	fs     FileSystem
	dev    Device
	log    *slog.Logger
	m      *metrics
	now    func() time.Time
	mu     sync.Mutex // guards what follows
	byNode map[uint64]*openFile
	// pinned has the openFiles in passthrough that nobody has open, the one
	// left last in front.
	pinned *list.List
}

// openFile is a node's File, shared by every handle of the node: a node is one
// version, so the handles differ in nothing.
type openFile struct {
	id, ino uint64

	// Under openFiles.mu.
	opens     int // OPENs answered or being answered, less RELEASEs
	pin       *list.Element
	idleSince time.Time
	pinnable  bool // worth keeping while nobody has it open

	// mu is held exclusively while the File is opened and closed, shared
	// while it is read.
	mu      sync.RWMutex
	file    File
	node    Node
	mode    mode
	backing int32
}

func newOpenFiles(fs FileSystem, dev Device, log *slog.Logger, m *metrics) *openFiles {
	return &openFiles{
		fs: fs, dev: dev, log: log, m: m, now: time.Now,
		byNode: map[uint64]*openFile{},
		pinned: list.New(),
	}
}

// open gives the node's openFile one more handle. The caller has found that id
// speaks of n.
func (t *openFiles) open(ctx context.Context, id uint64, n Node) (*openFile, error) {
	f := t.acquire(id, n.Ino)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file != nil && versionOf(f.node) == versionOf(n) {
		return f, nil
	}
	// The kernel may have forgotten the node since the file was pinned, and
	// have learnt of it anew in another version: then nobody has it open.
	t.closeFile(f)
	if err := t.fill(ctx, f, n); err != nil {
		t.abandon(f)
		return nil, err
	}
	t.mu.Lock()
	f.pinnable = f.mode == modePassthrough
	t.mu.Unlock()
	return f, nil
}

// fill opens the File and decides the mode.
func (t *openFiles) fill(ctx context.Context, f *openFile, n Node) error {
	file, err := t.fs.Open(ctx, f.ino)
	if err != nil {
		return err
	}
	if v := file.Version(); v != n.Version {
		_ = file.Close()
		return syscall.ESTALE // changed since Lookup; the kernel looks again
	}
	f.file, f.node, f.mode = file, n, modeCached
	if id, ok := t.register(file, n); ok {
		f.mode, f.backing = modePassthrough, id
	}
	return nil
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

func (t *openFiles) acquire(id, ino uint64) *openFile {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.byNode[id]
	if f == nil {
		f = &openFile{id: id, ino: ino}
		t.byNode[id] = f
	}
	f.opens++
	if f.pin != nil {
		t.pinned.Remove(f.pin)
		f.pin = nil
	}
	return f
}

// abandon takes back acquire for an openFile that has no File.
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
	f.opens--
	var victims []*openFile
	if f.opens == 0 {
		if f.pinnable {
			f.idleSince, f.pin = t.now(), t.pinned.PushFront(f)
		} else {
			victims = append(victims, t.dropLocked(f))
		}
	}
	for t.pinned.Len() > maxPinned {
		victims = append(victims, t.dropLocked(t.pinned.Back().Value.(*openFile)))
	}
	t.mu.Unlock()
	t.close(victims)
}

// expire closes what has been pinned for too long.
func (t *openFiles) expire() {
	t.mu.Lock()
	var victims []*openFile
	for e := t.pinned.Back(); e != nil && t.now().Sub(e.Value.(*openFile).idleSince) >= pinnedIdle; e = t.pinned.Back() {
		victims = append(victims, t.dropLocked(e.Value.(*openFile)))
	}
	t.mu.Unlock()
	t.close(victims)
}

// unpin closes the node's file if nobody has it open: its version is of no more use.
func (t *openFiles) unpin(id uint64) {
	t.mu.Lock()
	var victims []*openFile
	if f := t.byNode[id]; f != nil && f.pin != nil {
		victims = append(victims, t.dropLocked(f))
	}
	t.mu.Unlock()
	t.close(victims)
}

// closeAll closes every file. The kernel asks nothing any more.
func (t *openFiles) closeAll() {
	t.mu.Lock()
	var victims []*openFile
	for _, f := range t.byNode {
		victims = append(victims, t.dropLocked(f))
	}
	t.mu.Unlock()
	t.close(victims)
}

// dropLocked takes f out of the table.
func (t *openFiles) dropLocked(f *openFile) *openFile {
	delete(t.byNode, f.id)
	if f.pin != nil {
		t.pinned.Remove(f.pin)
		f.pin = nil
	}
	return f
}

func (t *openFiles) close(files []*openFile) {
	for _, f := range files {
		f.mu.Lock()
		t.closeFile(f)
		f.mu.Unlock()
	}
}

// closeFile gives up what f has. f.mu is held exclusively.
func (t *openFiles) closeFile(f *openFile) {
	if f.mode == modePassthrough {
		if err := t.dev.UnregisterBacking(f.backing); err != nil {
			t.log.Warn("unregister a backing file", "ino", f.ino, "err", err)
		}
		t.m.backings.Dec()
	}
	if f.file != nil {
		if err := f.file.Close(); err != nil {
			t.log.Warn("close a file", "ino", f.ino, "err", err)
		}
	}
	f.file, f.mode = nil, ""
}

// opened is the node's openFile while a handle has it.
func (t *openFiles) opened(id uint64) (*openFile, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f, ok := t.byNode[id]
	return f, ok
}

// readAt fills p, or fails: fewer bytes come only at the end of the file, for
// the kernel would take a short read for the new end.
func (f *openFile) readAt(ctx context.Context, p []byte, off int64) (int, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.file == nil {
		return 0, syscall.ESTALE
	}
	if off >= f.node.Size {
		return 0, nil
	}
	p = p[:min(int64(len(p)), f.node.Size-off)]
	n, err := f.file.ReadAt(ctx, p, off)
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return 0, err
}
