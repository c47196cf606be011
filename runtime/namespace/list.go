package namespace

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/runtime/source"
)

const (
	// staleRetry is after how long the source is asked again when a listing failed
	// and an older one is served instead.
	staleRetry = 5 * time.Second
	// patience is for how long a look at one name waits for the listing of a
	// directory that was never listed; then the source is asked for the name.
	patience = 250 * time.Millisecond
	// maxListings is how many directories are listed at once.
	maxListings = 64
)

// fresh returns when the listing of d is no older than the TTL. What a former
// process has left, and a large directory that has a listing, is listed in the
// background. When the source fails, what was known of d is good enough.
func (t *Tree) fresh(ctx context.Context, d *dir) error {
	t.mu.RLock()
	listed, large, restored := d.listed, len(d.pages) > largePages, d.restored
	t.mu.RUnlock()
	if listed != 0 && !restored && time.Since(time.Unix(0, listed)) < t.freshFor() {
		return nil
	}
	c := t.startListing(d)
	if listed != 0 && (large || restored) {
		return nil
	}
	return t.settle(ctx, d, wait(ctx, c))
}

// settle tells whether what is known of d is good enough after a listing has
// failed, if it has.
func (t *Tree) settle(ctx context.Context, d *dir, err error) error {
	if err == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if d.listed == 0 || errors.Is(err, source.ErrNotExist) && !d.pinned || ctx.Err() != nil {
		return err
	}
	d.listed = max(d.listed, time.Now().Add(staleRetry-t.freshFor()).UnixNano())
	t.counts.stale.Add(1)
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
func (t *Tree) startListing(d *dir) *call {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		ended := make(chan struct{})
		close(ended)
		return &call{done: ended, err: t.ctx.Err()}
	}
	if d.call == nil {
		c := &call{done: make(chan struct{})}
		d.call = c
		t.tasks.Go(func() {
			c.err = t.list(t.ctx, d)
			t.mu.Lock()
			d.call = nil
			t.mu.Unlock()
			close(c.done)
		})
	}
	return d.call
}

// relist lists d anew, with a look at the source that begins now.
func (t *Tree) relist(ctx context.Context, d *dir) error {
	t.mu.RLock()
	former := d.call
	t.mu.RUnlock()
	if former != nil {
		if err := wait(ctx, former); ctx.Err() != nil {
			return err
		}
	}
	return wait(ctx, t.startListing(d))
}

// takeOff says that a look at a source begins, whose outcome may be older than
// what is found out meanwhile; land ends it.
func (t *Tree) takeOff() (since uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.flights++
	return t.clock
}

func (t *Tree) land() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.flights--; t.flights == 0 {
		clear(t.recent)
	}
}

// list asks the source for the entries of d; anew, when d belongs to another
// source when it has answered.
func (t *Tree) list(ctx context.Context, d *dir) error {
	select {
	case t.listings <- struct{}{}:
		defer func() { <-t.listings }()
	case <-ctx.Done():
		return ctx.Err()
	}
	err := t.listOnce(ctx, d)
	for errors.Is(err, errDisturbed) && ctx.Err() == nil {
		err = t.listOnce(ctx, d)
	}
	return err
}

func (t *Tree) listOnce(ctx context.Context, d *dir) error {
	t.mu.RLock()
	at, gone, path := d.place(), t.gone(d), d.path()
	t.mu.RUnlock()
	if gone {
		return fmt.Errorf("list a directory that has left: %w", source.ErrNotExist)
	}
	since := t.takeOff()
	defer t.land()
	began, g := time.Now(), &gather{}
	if at.mount != nil {
		store, err := at.mount.opened(ctx)
		if t.moved(d, at) {
			return errDisturbed
		}
		if err != nil {
			return err
		}
		err = store.List(ctx, at.rel, func(o source.Object) error {
			g.add(baseName(o.Path), o)
			return nil
		})
		t.counts.listings.Add(1)
		if err != nil && t.moved(d, at) {
			return errDisturbed
		}
		if err != nil {
			if at.rel != "" && errors.Is(err, source.ErrNotExist) {
				return t.vanished(d, err)
			}
			t.counts.failures.Add(1)
			at.mount.look()
			return fmt.Errorf("list %s: %w", path, err)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone(d) {
		return fmt.Errorf("list %s: %w", path, source.ErrNotExist)
	}
	if d.place() != at {
		return errDisturbed
	}
	if d.listed > began.UnixNano() {
		return nil // a walk was later
	}
	c := t.changes()
	defer c.publish()
	t.replace(d, g, since, c)
	t.listedAt(d, began)
	return nil
}

// moved tells whether a directory that is there belongs to another mount than it did.
func (t *Tree) moved(d *dir, at place) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return !t.gone(d) && d.place() != at
}

// listedAt says that what is known of d is what its source had at a time.
func (t *Tree) listedAt(d *dir, at time.Time) {
	if d.listed == 0 {
		d.stir()
		t.dirty = true
	}
	d.listed, d.restored = at.UnixNano(), false
}

// vanished takes a directory away that its source no longer has; one that leads
// to a mount stays, and is empty but for it.
func (t *Tree) vanished(d *dir, err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.changes()
	defer c.publish()
	if d.pinned {
		t.replace(d, &gather{}, t.clock, c)
		t.listedAt(d, time.Now())
		return nil
	}
	if d.parent != nil {
		t.put(d.parent, d.name, nil, c)
	}
	return err
}

// Refresh asks the source now for the child of a directory, or for the entry
// itself if name is empty. The directory counts as stale from then on, so that
// the next look at it sees the rest.
func (t *Tree) Refresh(ctx context.Context, ino uint64, name string) (Entry, error) {
	d, own, err := t.byIno(ctx, ino)
	if err != nil {
		return Entry{}, err
	}
	t.mu.RLock()
	path := d.path()
	switch {
	case own != "" && name != "":
		t.mu.RUnlock()
		return Entry{}, fmt.Errorf("%s is not a directory: %w", joinAbs(path, own), source.ErrNotExist)
	case own != "":
		name = own
	case name == "" && !d.pinned && d.parent != nil:
		d, name = d.parent, d.name
	}
	sub := d.sub(name)
	at := d.place()
	t.mu.RUnlock()
	switch {
	case name == "":
		if err := t.relist(ctx, d); err != nil {
			return Entry{}, err
		}
		return t.Lookup(ctx, ino, "")
	case sub != nil && sub.pinned || at.mount == nil:
		return t.child(ctx, d, name)
	}
	t.mu.Lock()
	if d.listed != 0 {
		d.listed = 1 // stale, yet it has been seen
	}
	t.mu.Unlock()
	return t.look(ctx, d, at, name)
}

// look asks the source for one entry of d.
func (t *Tree) look(ctx context.Context, d *dir, at place, name string) (Entry, error) {
	store, err := at.mount.opened(ctx)
	if t.moved(d, at) {
		return t.child(ctx, d, name)
	}
	if err != nil {
		return Entry{}, err
	}
	if !validName(name) {
		return Entry{}, fmt.Errorf("%q: %w", name, source.ErrNotExist)
	}
	o, err := store.Stat(ctx, at.join(name))
	t.counts.stats.Add(1)
	if err != nil && !errors.Is(err, source.ErrNotExist) {
		t.counts.failures.Add(1)
		at.mount.look()
		return Entry{}, fmt.Errorf("look at %s: %w", at.join(name), err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone(d) {
		return Entry{}, fmt.Errorf("%s in a directory that has left: %w", name, source.ErrNotExist)
	}
	if d.place() != at {
		return Entry{}, fmt.Errorf("%s in a directory of another mount: %w", name, source.ErrUnavailable)
	}
	c := t.changes()
	defer c.publish()
	if err != nil {
		t.put(d, name, nil, c)
		t.missing.add(d.ino, name, time.Now().Add(t.freshFor()))
		return Entry{}, err
	}
	t.put(d, name, &o, c)
	t.missing.forget(d.ino, name)
	e, _ := t.childEntry(d, name)
	return e, nil
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
