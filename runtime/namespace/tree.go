package namespace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/millrace/millrace/runtime/source"
)

// largePages is the number of pages from which on a stale directory is listed
// anew in the background while the old listing is served.
const largePages = 20

// Tree is the tree of a Dataset. It is safe for concurrent use.
type Tree struct {
	opts Options
	hash func(dir uint64, name string) uint64
	log  *slog.Logger
	// ttl in nanoseconds; that of opts is what it was made with.
	ttl atomic.Int64

	ctx      context.Context // of the listings, which outlive their callers
	cancel   context.CancelFunc
	tasks    sync.WaitGroup
	listings chan struct{} // has a token for each listing under way
	counts   counts
	saveSoon chan struct{} // asks for a save now

	mu       sync.RWMutex
	mounts   map[string]*mount // by path
	root     *dir
	rootItem item
	dirs     map[uint64]*dir     // by inode number
	files    map[uint64]location // by inode number: all that are no directories
	salts    map[spot]uint64     // numbers that are not the hash of the path
	pages    []*page             // by number
	free     []uint32            // numbers of pages that are gone
	missing  missing
	scans    uint32
	// clock counts the looks at single entries while listings were in flight;
	// recent says when each entry was looked at.
	clock    uint64
	flights  int
	recent   map[spot]uint64
	dirty    bool     // there is something to save
	restored Restored // never changes once the tree is made
	// stirred is closed, and made anew, when there is something new to see for
	// those who wait for an inode or for a walk.
	stirred chan struct{}
}

// counts of what was asked of the sources, and what became of it.
type counts struct {
	listings, stats, walks, failures, stale atomic.Int64
	saves, saveFailures                     atomic.Int64
}

// New makes the tree, from what a former process has saved if there is that, and
// starts to visit the mounts. Two mounts of one path are an error.
func New(mounts []Mount, opts Options) (*Tree, error) {
	t, err := blank(mounts, opts)
	if err != nil {
		return nil, err
	}
	t.restore()
	if t.opts.Save != "" {
		t.tasks.Go(func() { t.keepSaving(t.ctx) })
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range t.mounts {
		t.start(m)
	}
	return t, nil
}

// blank makes a tree that knows of its mounts, and does nothing yet.
func blank(mounts []Mount, opts Options) (*Tree, error) {
	if opts.TTL <= 0 {
		opts.TTL = DefaultTTL
	}
	if opts.SaveInterval <= 0 {
		opts.SaveInterval = defaultSaveInterval
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	t := &Tree{
		opts: opts, hash: opts.hash, log: opts.Logger, mounts: map[string]*mount{},
		stirred: make(chan struct{}), listings: make(chan struct{}, maxListings), saveSoon: make(chan struct{}, 1),
	}
	if t.hash == nil {
		t.hash = hashName
	}
	t.ttl.Store(int64(opts.TTL))
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.plant()
	if err := distinct(mounts); err != nil {
		t.cancel()
		return nil, err
	}
	for _, spec := range mounts {
		m := &mount{Mount: spec, tree: t, kick: make(chan struct{}, 1)}
		t.mounts[spec.Path] = m
		t.mount(m, t.changes()) // nobody knows the tree yet
	}
	return t, nil
}

// SetTTL changes after how long listings are made again, and between which times
// the sources are walked: one that would have been walked by now is, soon.
func (t *Tree) SetTTL(ttl time.Duration) {
	if ttl <= 0 {
		ttl = DefaultTTL
	}
	if t.ttl.Swap(int64(ttl)) == int64(ttl) {
		return
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, m := range t.mounts {
		m.look()
	}
}

// freshFor is after how long a listing is made again.
func (t *Tree) freshFor() time.Duration { return time.Duration(t.ttl.Load()) }

// plant makes the tree empty.
func (t *Tree) plant() {
	t.dirs, t.files, t.salts, t.recent = map[uint64]*dir{}, map[uint64]location{}, map[spot]uint64{}, map[spot]uint64{}
	t.pages, t.free, t.missing = nil, nil, missing{until: map[Invalidation]time.Time{}}
	t.root, t.rootItem = &dir{ino: RootIno, hash: rootHash, pinned: true}, defaultDir
	t.dirs[RootIno] = t.root
}

// Close ends all work on the sources, closes them, and saves the tree.
func (t *Tree) Close() {
	t.mu.Lock()
	t.cancel() // under the lock, so that no listing starts after
	t.mu.Unlock()
	t.tasks.Wait()
	for _, m := range t.mounts {
		m.close()
	}
	t.save()
}

// stirLocked wakes those who wait for news of the tree.
func (t *Tree) stirLocked() {
	close(t.stirred)
	t.stirred = make(chan struct{})
}

// Lookup finds the child of a directory, or the entry itself if name is empty.
func (t *Tree) Lookup(ctx context.Context, ino uint64, name string) (Entry, error) {
	d, own, err := t.byIno(ctx, ino)
	if err != nil {
		return Entry{}, err
	}
	t.mu.RLock()
	if own != "" && name != "" {
		defer t.mu.RUnlock()
		return Entry{}, fmt.Errorf("%s is not a directory: %w", joinAbs(d.path(), own), source.ErrNotExist)
	}
	if name == "" {
		if name = own; own == "" { // a directory itself
			if d.pinned {
				defer t.mu.RUnlock()
				return t.dirEntry(d), nil
			}
			if d, name = d.parent, d.name; d == nil {
				defer t.mu.RUnlock()
				return Entry{}, fmt.Errorf("inode %d: %w", ino, source.ErrNotExist)
			}
		}
	}
	t.mu.RUnlock()
	return t.child(ctx, d, name)
}

func (t *Tree) child(ctx context.Context, d *dir, name string) (Entry, error) {
	t.mu.RLock()
	at, path, listed, missing := d.place(), d.path(), d.listed, t.missing.has(d.ino, name)
	if s := d.sub(name); s != nil && s.pinned {
		defer t.mu.RUnlock()
		return t.dirEntry(s), nil
	}
	e, known := t.childEntry(d, name)
	t.mu.RUnlock()
	switch {
	case listed != 0 || at.mount == nil:
		if err := t.fresh(ctx, d); err != nil {
			return Entry{}, err
		}
	case known:
		t.startListing(d)
		return e, nil
	case missing:
		return Entry{}, fmt.Errorf("%s: %w", joinAbs(path, name), source.ErrNotExist)
	default:
		// Nobody who wants one entry shall wait for a million others.
		c, timer := t.startListing(d), time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-c.done:
		case <-ctx.Done():
		case <-timer.C:
			return t.look(ctx, d, at, name)
		}
		if err := t.settle(ctx, d, wait(ctx, c)); err != nil {
			return Entry{}, err
		}
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	e, ok := t.childEntry(d, name)
	if !ok {
		return Entry{}, fmt.Errorf("%s: %w", joinAbs(path, name), source.ErrNotExist)
	}
	return e, nil
}

// childEntry is an entry of d as it is known.
func (t *Tree) childEntry(d *dir, name string) (Entry, bool) {
	if s := d.sub(name); s != nil {
		return t.dirEntry(s), true
	}
	it, _, _, ok := d.find(name)
	if !ok {
		return Entry{}, false
	}
	return t.entry(d, d.place(), it), true
}

// ReadDir gives the children of a directory, sorted by name.
func (t *Tree) ReadDir(ctx context.Context, ino uint64) ([]Entry, error) {
	l, err := t.List(ctx, ino)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, l.Len())
	for e := range l.Entries("") {
		entries = append(entries, e)
	}
	return entries, nil
}

// List gives the listing of a directory as it is now.
func (t *Tree) List(ctx context.Context, ino uint64) (*Listing, error) {
	d, own, err := t.byIno(ctx, ino)
	if err != nil {
		return nil, err
	}
	if own != "" {
		return nil, fmt.Errorf("%s is not a directory: %w", own, syscall.ENOTDIR)
	}
	if err := t.fresh(ctx, d); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.listing(d), nil
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
	if d := t.dirs[ino]; d != nil {
		return t.dirEntry(d), true
	}
	l, ok := t.files[ino]
	if !ok {
		return Entry{}, false
	}
	p, i := t.at(l)
	it, _ := p.nth(i)
	return t.entry(p.dir, p.dir.place(), it), true
}

// Files calls each for every known file at or below the entry ino until it
// returns false. What changes meanwhile may be missed.
func (t *Tree) Files(ino uint64, each func(Entry) bool) {
	t.mu.RLock()
	d := t.dirs[ino]
	t.mu.RUnlock()
	if d == nil {
		if e, ok := t.Known(ino); ok && e.IsFile() {
			each(e)
		}
		return
	}
	t.eachFile(d, each)
}

func (t *Tree) eachFile(d *dir, each func(Entry) bool) bool {
	t.mu.Lock()
	l, subs := t.listing(d), slices.Clone(d.subs)
	t.mu.Unlock()
	for e := range l.Entries("") {
		if e.IsFile() && !each(e) {
			return false
		}
	}
	for _, s := range subs {
		if !t.eachFile(s, each) {
			return false
		}
	}
	return true
}

// Totals gives the sums over what is known.
func (t *Tree) Totals() Totals {
	t.mu.RLock()
	if t.root.record.IsZero() {
		t.mu.RUnlock()
		t.mu.Lock()
		t.recordOf(t.root)
		t.mu.Unlock()
		t.mu.RLock()
	}
	defer t.mu.RUnlock()
	sum := Totals{Snapshot: t.root.record, Entries: int64(len(t.files) + len(t.dirs)), Complete: true}
	for _, m := range t.mounts {
		sum.Files += m.files
		sum.Bytes += m.bytes
		sum.Complete = sum.Complete && m.walked
	}
	return sum
}

// Records gives the records of directories; that of one which is gone is zero.
func (t *Tree) Records(inos map[uint64]struct{}) map[uint64]Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	records := make(map[uint64]Record, len(inos))
	for ino := range inos {
		records[ino] = Record{}
		if d := t.dirs[ino]; d != nil {
			records[ino] = t.recordOf(d)
		}
	}
	return records
}

// Counts tells what was asked of the sources so far.
func (t *Tree) Counts() Counts {
	c := &t.counts
	return Counts{
		Listings: c.listings.Load(), Stats: c.stats.Load(), Walks: c.walks.Load(), Failures: c.failures.Load(), Stale: c.stale.Load(),
		Saves: c.saves.Load(), SaveFailures: c.saveFailures.Load(), Restored: t.restored,
	}
}

// byIno finds a directory by its inode number; for another entry its directory
// and its own name. A number that is not known may be one that a former process
// gave out: then it waits until the mounts have been walked, and finds the entry
// as soon as the walk comes by.
func (t *Tree) byIno(ctx context.Context, ino uint64) (d *dir, own string, err error) {
	for {
		t.mu.RLock()
		d, stirred := t.dirs[ino], t.stirred
		if l, ok := t.files[ino]; ok && d == nil {
			p, i := t.at(l)
			it, _ := p.nth(i)
			d, own = p.dir, strings.Clone(it.name)
		}
		walked, failed := true, error(nil)
		for _, m := range t.mounts {
			if !m.walked {
				walked = walked && m.err != nil
				failed = errors.Join(failed, m.err)
			}
		}
		t.mu.RUnlock()
		switch {
		case d != nil:
			return d, own, nil
		case walked && failed != nil:
			return nil, "", fmt.Errorf("find inode %d: %w", ino, failed)
		case walked:
			return nil, "", fmt.Errorf("inode %d: %w", ino, source.ErrNotExist)
		}
		select {
		case <-stirred:
		case <-ctx.Done():
			return nil, "", fmt.Errorf("find inode %d while the sources are walked: %w", ino, ctx.Err())
		}
	}
}

// baseName is the last part of a path relative to a mount.
func baseName(rel string) string { return rel[strings.LastIndexByte(rel, '/')+1:] }

// splitPath gives the parts of an absolute path; none for the root.
func splitPath(p string) []string {
	p = strings.Trim(path.Clean("/"+p), "/")
	if p == "" {
		return nil
	}
	return strings.Split(p, "/")
}
