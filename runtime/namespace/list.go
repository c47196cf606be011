package namespace

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/runtime/source"
)

// staleRetry is after how long the source is asked again when a listing failed
// and an older one is served instead.
const staleRetry = 5 * time.Second

// fresh returns when the listing of d is no older than the TTL. A large
// directory that has a listing is listed in the background. When the source
// fails, what was known of d is good enough.
func (t *Tree) fresh(ctx context.Context, d *node) error {
	t.mu.RLock()
	listed, size := d.dir.listed, len(d.dir.children)
	t.mu.RUnlock()
	if time.Since(time.Unix(0, listed)) < t.opts.TTL {
		return nil
	}
	c := t.startListing(d)
	if listed != 0 && size >= largeDir {
		return nil
	}
	if err := wait(ctx, c); err != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		if d.dir.listed == 0 || errors.Is(err, source.ErrNotExist) && !d.pinned() || ctx.Err() != nil {
			return err
		}
		d.dir.listed = max(d.dir.listed, time.Now().Add(staleRetry-t.opts.TTL).UnixNano())
	}
	return nil
}

func wait(ctx context.Context, c *call) error {
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// startListing lists d, or joins the listing that is in flight.
func (t *Tree) startListing(d *node) *call {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		ended := make(chan struct{})
		close(ended)
		return &call{done: ended, err: t.ctx.Err()}
	}
	if d.dir.call == nil {
		c := &call{done: make(chan struct{})}
		d.dir.call = c
		t.tasks.Go(func() {
			c.err = t.list(t.ctx, d)
			t.mu.Lock()
			d.dir.call = nil
			t.mu.Unlock()
			close(c.done)
		})
	}
	return d.dir.call
}

// relist lists d anew, with a look at the source that begins now.
func (t *Tree) relist(ctx context.Context, d *node) error {
	t.mu.RLock()
	former := d.dir.call
	t.mu.RUnlock()
	if former != nil {
		if err := wait(ctx, former); ctx.Err() != nil {
			return err
		}
	}
	return wait(ctx, t.startListing(d))
}

// list asks the source for the children of d.
func (t *Tree) list(ctx context.Context, d *node) error {
	t.mu.RLock()
	m, rel := d.mountOf()
	gone, path := d != t.root && d.parent == nil, d.path()
	t.mu.RUnlock()
	if gone {
		return fmt.Errorf("list a directory that has left: %w", source.ErrNotExist)
	}
	began := time.Now()
	var objs []child
	if m != nil {
		store, err := m.opened(ctx)
		if err != nil {
			return err
		}
		err = store.List(ctx, rel, func(o source.Object) error {
			if name := baseName(o.Path); validName(name) {
				objs = append(objs, child{name, o})
			}
			return nil
		})
		if err != nil {
			if rel != "" && errors.Is(err, source.ErrNotExist) {
				return t.vanished(d, err)
			}
			m.look()
			return fmt.Errorf("list %s: %w", path, err)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if d != t.root && d.parent == nil {
		return fmt.Errorf("list %s: %w", path, source.ErrNotExist)
	}
	c := &Change{}
	t.merge(d, objs, true, t.gen, c)
	d.dir.listed = began.UnixNano()
	t.publish(c)
	return nil
}

// vanished takes a directory away that its source no longer has; one that leads
// to a mount stays, and is empty but for it.
func (t *Tree) vanished(d *node, err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &Change{}
	defer t.publish(c)
	if d.pinned() {
		t.merge(d, nil, true, t.gen, c)
		d.dir.listed = time.Now().UnixNano()
		return nil
	}
	if d.parent != nil {
		t.remove(d, c)
	}
	return err
}

// Refresh asks the source now for the child of a directory, or for the entry
// itself if name is empty. The directory counts as stale from then on, so that
// the next look at it sees the rest.
func (t *Tree) Refresh(ctx context.Context, ino uint64, name string) (Entry, error) {
	d, err := t.byIno(ctx, ino)
	if err != nil {
		return Entry{}, err
	}
	t.mu.RLock()
	if name == "" && !d.pinned() && d.parent != nil {
		d, name = d.parent, d.name
	}
	pinned := name == ""
	if d.dir != nil {
		if n, _ := d.dir.find(name); n != nil {
			pinned = pinned || n.pinned()
		}
	}
	m, rel := d.mountOf()
	isDir, path := d.dir != nil, d.path()
	t.mu.RUnlock()
	switch {
	case !isDir:
		return Entry{}, fmt.Errorf("%s is not a directory: %w", path, source.ErrNotExist)
	case name == "":
		if err := t.relist(ctx, d); err != nil {
			return Entry{}, err
		}
		return t.Lookup(ctx, ino, "")
	case pinned || m == nil:
		return t.child(ctx, d, name)
	}
	store, err := m.opened(ctx)
	if err != nil {
		return Entry{}, err
	}
	o, err := store.Stat(ctx, join(rel, name))
	if err != nil && !errors.Is(err, source.ErrNotExist) {
		m.look()
		return Entry{}, fmt.Errorf("look at %s: %w", joinAbs(path, name), err)
	}
	return t.accept(d, name, o, err)
}

// accept takes in what Stat said of one child of d.
func (t *Tree) accept(d *node, name string, o source.Object, missing error) (Entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d != t.root && d.parent == nil {
		return Entry{}, fmt.Errorf("%s in a directory that has left: %w", name, source.ErrNotExist)
	}
	c := &Change{}
	defer t.publish(c)
	if d.dir.listed != 0 {
		d.dir.listed = 1 // stale, yet it has been seen
	}
	n, i := d.dir.find(name)
	switch {
	case missing != nil:
		if n != nil {
			t.remove(n, c)
		}
		return Entry{}, missing
	case n != nil:
		n = t.update(n, o, t.gen, c)
		d.dir.children[i] = n
	case !validName(name):
		return Entry{}, fmt.Errorf("%q: %w", name, source.ErrNotExist)
	default:
		n = t.insert(d, child{name, o}, t.gen, c)
	}
	return n.entry(), nil
}

func join(rel, name string) string {
	if rel == "" {
		return name
	}
	return rel + "/" + name
}

func joinAbs(dir, name string) string {
	if dir == "/" {
		return "/" + name
	}
	return dir + "/" + name
}
