package namespace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"

	"github.com/millrace/millrace/runtime/source"
)

// largeDir is the number of children from which on a stale directory is listed
// anew in the background while the old listing is served.
const largeDir = 5000

// Tree is the tree of a Dataset. It is safe for concurrent use.
type Tree struct {
	opts   Options
	hash   func(string) uint64
	log    *slog.Logger
	mounts map[string]*mount // by path; the map itself never changes

	ctx    context.Context // of the listings, which outlive their callers
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu       sync.RWMutex
	root     *node
	inos     map[uint64]*node
	snapshot uint64 // sum over all nodes
	gen      uint32 // of the youngest scan
	// stirred is closed, and made anew, when there is something new to see for
	// those who wait for an inode or for a walk.
	stirred chan struct{}
}

// New makes the tree and starts to visit the mounts. Two mounts of one path
// are an error.
func New(mounts []Mount, opts Options) (*Tree, error) {
	if opts.TTL <= 0 {
		opts.TTL = DefaultTTL
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	t := &Tree{
		opts: opts, hash: opts.hash, log: opts.Logger,
		mounts: map[string]*mount{}, inos: map[uint64]*node{}, stirred: make(chan struct{}),
	}
	if t.hash == nil {
		t.hash = hashPath
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.root = &node{ino: RootIno, mode: syscall.S_IFDIR | defaultDirMode, dir: &dir{pinned: true}}
	t.inos[RootIno] = t.root
	for _, spec := range mounts {
		if t.mounts[spec.Path] != nil {
			return nil, fmt.Errorf("two mounts at %s: %w", spec.Path, source.ErrInvalid)
		}
		m := &mount{Mount: spec, tree: t, kick: make(chan struct{}, 1)}
		m.node = t.pin(spec.Path)
		m.node.dir.mount = m
		t.mounts[spec.Path] = m
	}
	for _, m := range t.mounts {
		t.tasks.Go(func() { m.run(t.ctx) })
	}
	return t, nil
}

// pin makes the directories that lead to a mount.
func (t *Tree) pin(path string) *node {
	n, c := t.root, &Change{}
	for _, name := range splitPath(path) {
		next, _ := n.dir.find(name)
		if next == nil {
			next = t.insert(n, child{name, source.Object{Dir: true}}, 0, c)
			next.dir.pinned = true
		}
		n = next
	}
	return n
}

// Close ends all work on the sources and closes them.
func (t *Tree) Close() {
	t.mu.Lock()
	t.cancel() // under the lock, so that no listing starts after
	t.mu.Unlock()
	t.tasks.Wait()
	for _, m := range t.mounts {
		m.close()
	}
}

// stirLocked wakes those who wait for news of the tree.
func (t *Tree) stirLocked() {
	close(t.stirred)
	t.stirred = make(chan struct{})
}

// Lookup finds the child of a directory, or the entry itself if name is empty.
func (t *Tree) Lookup(ctx context.Context, ino uint64, name string) (Entry, error) {
	n, err := t.byIno(ctx, ino)
	if err != nil {
		return Entry{}, err
	}
	if name == "" {
		return t.current(ctx, n)
	}
	return t.child(ctx, n, name)
}

// current is n as its directory lists it now.
func (t *Tree) current(ctx context.Context, n *node) (Entry, error) {
	t.mu.RLock()
	parent, name, pinned := n.parent, n.name, n.pinned()
	e := n.entry()
	t.mu.RUnlock()
	if pinned {
		return e, nil
	}
	if parent == nil {
		return Entry{}, fmt.Errorf("inode %d: %w", e.Ino, source.ErrNotExist)
	}
	return t.child(ctx, parent, name)
}

func (t *Tree) child(ctx context.Context, d *node, name string) (Entry, error) {
	t.mu.RLock()
	if d.dir == nil {
		defer t.mu.RUnlock()
		return Entry{}, fmt.Errorf("%s is not a directory: %w", d.path(), source.ErrNotExist)
	}
	if n, _ := d.dir.find(name); n != nil && n.pinned() {
		defer t.mu.RUnlock()
		return n.entry(), nil
	}
	t.mu.RUnlock()
	if err := t.fresh(ctx, d); err != nil {
		return Entry{}, err
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	n, _ := d.dir.find(name)
	if n == nil {
		return Entry{}, fmt.Errorf("%s: %w", joinAbs(d.path(), name), source.ErrNotExist)
	}
	return n.entry(), nil
}

// ReadDir gives the children of a directory, sorted by name.
func (t *Tree) ReadDir(ctx context.Context, ino uint64) ([]Entry, error) {
	d, err := t.byIno(ctx, ino)
	if err != nil {
		return nil, err
	}
	t.mu.RLock()
	if d.dir == nil {
		defer t.mu.RUnlock()
		return nil, fmt.Errorf("%s is not a directory: %w", d.path(), syscall.ENOTDIR)
	}
	t.mu.RUnlock()
	if err := t.fresh(ctx, d); err != nil {
		return nil, err
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	entries := make([]Entry, len(d.dir.children))
	for i, n := range d.dir.children {
		entries[i] = n.entry()
	}
	return entries, nil
}

// Resolve finds the entry of an absolute path.
func (t *Tree) Resolve(ctx context.Context, path string) (Entry, error) {
	e, err := t.Lookup(ctx, RootIno, "")
	for _, name := range splitPath(path) {
		if err != nil {
			return Entry{}, err
		}
		e, err = t.Lookup(ctx, e.Ino, name)
	}
	return e, err
}

// Known gives the entry of an inode as it is known, without a look at the source.
func (t *Tree) Known(ino uint64) (Entry, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n := t.inos[ino]
	if n == nil {
		return Entry{}, false
	}
	return n.entry(), true
}

// Files calls each for every known file at or below the entry ino until it
// returns false. The tree is locked meanwhile: each must be quick and must not
// call the tree.
func (t *Tree) Files(ino uint64, each func(Entry) bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if n := t.inos[ino]; n != nil {
		eachFile(n, each)
	}
}

func eachFile(n *node, each func(Entry) bool) bool {
	if n.dir == nil {
		return !n.isFile() || each(n.entry())
	}
	for _, below := range n.dir.children {
		if !eachFile(below, each) {
			return false
		}
	}
	return true
}

// Totals gives the sums over what is known.
func (t *Tree) Totals() Totals {
	t.mu.RLock()
	defer t.mu.RUnlock()
	sum := Totals{Snapshot: fmt.Sprintf("%016x", t.snapshot), Complete: true}
	for _, m := range t.mounts {
		sum.Files += m.files
		sum.Bytes += m.bytes
		sum.Complete = sum.Complete && m.walked
	}
	return sum
}

// byIno finds a node by its inode number. A number that is not known may be one
// that a former process gave out: then it waits until the mounts have been
// walked, and finds the entry as soon as the walk comes by.
func (t *Tree) byIno(ctx context.Context, ino uint64) (*node, error) {
	for {
		t.mu.RLock()
		n, stirred := t.inos[ino], t.stirred
		walked, failed := true, error(nil)
		for _, m := range t.mounts {
			if !m.walked {
				walked = walked && m.err != nil
				failed = errors.Join(failed, m.err)
			}
		}
		t.mu.RUnlock()
		switch {
		case n != nil:
			return n, nil
		case walked && failed != nil:
			return nil, fmt.Errorf("find inode %d: %w", ino, failed)
		case walked:
			return nil, fmt.Errorf("inode %d: %w", ino, source.ErrNotExist)
		}
		select {
		case <-stirred:
		case <-ctx.Done():
			return nil, fmt.Errorf("find inode %d while the sources are walked: %w", ino, ctx.Err())
		}
	}
}
