package fusetest

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/millrace/millrace/runtime/fuse"
)

var _ fuse.FileSystem = (*Tree)(nil)

// Tree is a FileSystem of files in a local directory, each of which a test can
// make complete or partial, change, break or remove.
type Tree struct {
	dir string // the bytes of each version

	// Opens, Reads and Closes count calls; Lookups those of Lookup.
	Opens, Reads, Closes, Lookups atomic.Int64

	mu       sync.Mutex
	nodes    map[uint64]*node
	events   chan fuse.Invalidation
	readErr  error
	block    chan struct{}
	versions int
	closed   bool
}

type node struct {
	fuse.Node
	path     string
	children map[string]*node
	complete bool
}

// NewTree lays content out below dir, which must hold nothing else. All files
// are complete, so that they are read in passthrough mode.
func NewTree(dir string, content Content) (*Tree, error) {
	t := &Tree{dir: dir, nodes: map[uint64]*node{}, events: make(chan fuse.Invalidation, 64)}
	t.nodes[fuse.RootIno] = &node{
		Node:     fuse.Node{Ino: fuse.RootIno, Mode: syscall.S_IFDIR | 0o755, ModTime: ModTime},
		children: map[string]*node{},
	}
	for p, item := range content {
		if err := t.add(p, item); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func inoOf(p string) uint64 {
	h := fnv.New64a()
	io.WriteString(h, p) //nolint:errcheck // a hash does not fail
	return h.Sum64() | 2 // neither 0 nor the root
}

// parent makes the directories above p.
func (t *Tree) parent(p string) *node {
	dir := path.Dir(p)
	if dir == "." {
		return t.nodes[fuse.RootIno]
	}
	if n := t.nodes[inoOf(dir)]; n != nil {
		return n
	}
	return t.link(dir, &node{
		Node:     fuse.Node{Mode: syscall.S_IFDIR | 0o755, ModTime: ModTime},
		children: map[string]*node{},
	})
}

func (t *Tree) link(p string, n *node) *node {
	up := t.parent(p)
	n.path, n.Name, n.Ino, n.Parent = p, path.Base(p), inoOf(p), up.Ino
	t.nodes[n.Ino], up.children[n.Name] = n, n
	return n
}

func (t *Tree) add(p string, item Item) error {
	switch {
	case item.Dir:
		t.link(p, &node{Node: fuse.Node{Mode: syscall.S_IFDIR | 0o755, ModTime: ModTime}, children: map[string]*node{}})
	case item.Link != "":
		t.link(p, &node{Node: fuse.Node{Mode: syscall.S_IFLNK | 0o777, ModTime: ModTime, Link: item.Link, Size: int64(len(item.Link))}})
	default:
		t.versions++
		version := fmt.Sprintf("v%d", t.versions)
		if err := os.WriteFile(filepath.Join(t.dir, version), item.Data, 0o600); err != nil {
			return err
		}
		t.link(p, &node{complete: true, Node: fuse.Node{
			Mode: syscall.S_IFREG | 0o644, Size: int64(len(item.Data)), Version: version,
			ModTime: ModTime.Add(time.Duration(t.versions) * time.Second),
		}})
	}
	return nil
}

// SetComplete says whether files have a complete local copy; no path means all.
func (t *Tree) SetComplete(complete bool, paths ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.nodes {
		if len(paths) == 0 || slices.Contains(paths, n.path) {
			n.complete = complete
		}
	}
}

// FailReads makes every ReadAt fail with err, until it is called with nil.
func (t *Tree) FailReads(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.readErr = err
}

// BlockReads makes every ReadAt wait until its context ends or the function
// that is returned is called.
func (t *Tree) BlockReads() (unblock func()) {
	block := make(chan struct{})
	t.mu.Lock()
	defer t.mu.Unlock()
	t.block = block
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.block == block {
			close(block)
			t.block = nil
		}
	}
}

// Put makes or replaces an entry. The kernel is not told.
func (t *Tree) Put(p string, item Item) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.add(p, item)
}

// SetMode sets the permission bits of an entry. The kernel is not told.
func (t *Tree) SetMode(p string, perm uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[inoOf(p)]
	n.Mode = n.Mode&syscall.S_IFMT | perm
}

// Fill puts so many empty files into a directory, without bytes on disk.
func (t *Tree) Fill(dir string, entries int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range entries {
		t.link(fmt.Sprintf("%s/entry-%06d", dir, i), &node{Node: fuse.Node{Mode: syscall.S_IFREG | 0o644, Version: "none", ModTime: ModTime}})
	}
}

// Remove takes an entry away. The kernel is not told.
func (t *Tree) Remove(p string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.parent(p).children, path.Base(p))
	delete(t.nodes, inoOf(p))
}

// InvalidateEntry tells the kernel that the name p came, went or changed.
func (t *Tree) InvalidateEntry(p string) {
	t.mu.Lock()
	up := t.parent(p).Ino
	t.mu.Unlock()
	t.events <- fuse.Invalidation{Ino: up, Name: path.Base(p)}
}

// InvalidateNode tells the kernel that the entry p itself changed.
func (t *Tree) InvalidateNode(p string) { t.events <- fuse.Invalidation{Ino: inoOf(p)} }

// InvalidateAll tells the kernel that anything may have changed.
func (t *Tree) InvalidateAll() { t.events <- fuse.Invalidation{} }

// Close ends the invalidations.
func (t *Tree) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.closed = true
		close(t.events)
	}
}

// Lookup is of fuse.FileSystem.
func (t *Tree) Lookup(_ context.Context, parent uint64, name string) (fuse.Node, error) {
	t.Lookups.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if up := t.nodes[parent]; up != nil {
		if n := up.children[name]; n != nil {
			return n.Node, nil
		}
	}
	return fuse.Node{}, fmt.Errorf("look up %s: %w", name, fs.ErrNotExist)
}

// Node is of fuse.FileSystem.
func (t *Tree) Node(_ context.Context, ino uint64) (fuse.Node, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.nodes[ino]; n != nil {
		return n.Node, nil
	}
	return fuse.Node{}, fs.ErrNotExist
}

// nodes is the plain Listing.
type nodes []fuse.Node

var _ fuse.Listing = nodes(nil)

// Len is of fuse.Listing.
func (n nodes) Len() int { return len(n) }

// From is of fuse.Listing.
func (n nodes) From(i int) iter.Seq[fuse.Node] { return slices.Values(n[min(i, len(n)):]) }

// ReadDir is of fuse.FileSystem.
func (t *Tree) ReadDir(_ context.Context, ino uint64) (fuse.Listing, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	dir := t.nodes[ino]
	if dir == nil {
		return nil, fs.ErrNotExist
	}
	entries := make(nodes, 0, len(dir.children))
	for _, n := range dir.children {
		entries = append(entries, n.Node)
	}
	slices.SortFunc(entries, func(a, b fuse.Node) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

// StatFS is of fuse.FileSystem.
func (t *Tree) StatFS(context.Context) (totalBytes, files int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.nodes {
		if n.Mode&syscall.S_IFMT == syscall.S_IFREG {
			totalBytes, files = totalBytes+n.Size, files+1
		}
	}
	return totalBytes, files
}

// Invalidations is of fuse.FileSystem.
func (t *Tree) Invalidations() <-chan fuse.Invalidation { return t.events }

// Open is of fuse.FileSystem.
func (t *Tree) Open(_ context.Context, ino uint64) (fuse.File, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[ino]
	if n == nil {
		return nil, fs.ErrNotExist
	}
	f, err := os.Open(filepath.Join(t.dir, n.Version))
	if err != nil {
		return nil, err
	}
	t.Opens.Add(1)
	return &file{tree: t, File: f, version: n.Version, complete: n.complete}, nil
}

type file struct {
	*os.File
	tree     *Tree
	version  string
	complete bool
}

func (f *file) Version() string { return f.version }

func (f *file) Backing() *os.File {
	if !f.complete {
		return nil
	}
	b, err := os.Open(f.Name())
	if err != nil {
		return nil
	}
	return b
}

func (f *file) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	f.tree.Reads.Add(1)
	f.tree.mu.Lock()
	err, block := f.tree.readErr, f.tree.block
	f.tree.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return f.File.ReadAt(p, off)
}

func (f *file) Close() error {
	f.tree.Closes.Add(1)
	return f.File.Close()
}
