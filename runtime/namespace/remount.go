package namespace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/runtime/source"
)

// closeLag is for how long a source that was replaced stays open for those who
// still ask it.
const closeLag = time.Minute

// errDisturbed: a mount came or went within what was being walked.
var errDisturbed = errors.New("the mounts were changed meanwhile")

// SetMounts makes the tree one of other mounts. What is known of those whose
// path and ID stay is kept, and only if their Version is another one they are
// opened anew. Two mounts of one path are an error, and change nothing.
func (t *Tree) SetMounts(mounts []Mount) error {
	if err := distinct(mounts); err != nil {
		return err
	}
	t.mu.Lock()
	if err := t.ctx.Err(); err != nil {
		t.mu.Unlock()
		return fmt.Errorf("change the mounts: %w", err)
	}
	for _, m := range t.rearrange(mounts) {
		t.start(m)
	}
	t.mu.Unlock()
	t.stateChanged()
	return nil
}

func distinct(mounts []Mount) error {
	seen := map[string]bool{}
	for _, m := range mounts {
		if seen[m.Path] {
			return fmt.Errorf("two mounts at %s: %w", m.Path, source.ErrInvalid)
		}
		seen[m.Path] = true
	}
	return nil
}

// start begins to visit a mount; the tree is locked.
func (t *Tree) start(m *mount) {
	ctx, cancel := context.WithCancel(t.ctx)
	m.cancel = cancel
	t.tasks.Go(func() {
		defer cancel()
		m.run(ctx)
		if t.ctx.Err() == nil { // it is mounted no more
			pause(t.ctx, closeLag, nil)
			m.close()
		}
	})
}

// rearrange takes mounts away, and adds those that it gives, which are still to
// be started; the tree is locked.
func (t *Tree) rearrange(mounts []Mount) (added []*mount) {
	want := make(map[string]Mount, len(mounts))
	for _, m := range mounts {
		want[m.Path] = m
	}
	c := t.changes()
	defer c.publish()
	for _, m := range t.mounts {
		switch spec, stays := want[m.Path]; {
		case !stays || spec.id() != m.id():
			t.unmount(m, c)
		case spec.Version != m.Version:
			m.Open, m.Version, m.reopen = spec.Open, spec.Version, true
			m.look()
		default:
			m.Open = spec.Open
		}
	}
	for _, spec := range mounts {
		if t.mounts[spec.Path] == nil {
			m := &mount{Mount: spec, tree: t, kick: make(chan struct{}, 1)}
			t.mounts[spec.Path] = m
			t.mount(m, c)
			added = append(added, m)
		}
	}
	t.dirty = true
	return added
}

// mount puts a mount in its place: what another mount shows there is hidden.
func (t *Tree) mount(m *mount, c *changes) {
	d := t.root
	for _, name := range splitPath(m.Path) {
		next := d.sub(name)
		if next == nil {
			t.put(d, name, nil, c) // a file of that name
			next = t.newDir(d, name, c)
			t.link(next)
		}
		if _, _, _, ok := d.find(name); !ok && d.listed != 0 {
			it := dirItem(name)
			t.bind(d, splice(d, name, &it), c)
		}
		if !next.pinned {
			t.missing.forget(d.ino, name)
			c.invalid(d.ino, name)
		}
		next.pinned = true
		d = next
	}
	if outer := d.place().mount; outer != nil {
		outer.disturbed++
	}
	t.strip(d, c)
	d.mount, m.dir = m, d
}

// unmount takes a mount out of the tree. An outer mount shows again what it has
// there when it is looked at next.
func (t *Tree) unmount(m *mount, c *changes) {
	delete(t.mounts, m.Path)
	m.gone = true
	if m.cancel != nil {
		m.cancel()
	}
	d := m.dir
	t.strip(d, c)
	d.mount = nil
	if d == t.root {
		t.rootItem = defaultDir
	}
	outer := d.place().mount
	if outer != nil {
		outer.disturbed++
	}
	for d != t.root && d.mount == nil && !slices.ContainsFunc(d.subs, func(s *dir) bool { return s.pinned }) {
		up := d.parent
		d.pinned = false
		if up.listed != 0 && outer != nil {
			up.listed = 1 // stale, yet it has been seen
		}
		// What led to the mount may be a directory of the outer one, which tells.
		if outer == nil || d == m.dir {
			c.invalid(up.ino, d.name)
			t.put(up, d.name, nil, c)
		}
		d = up
	}
}

// strip takes away what the mount of a directory has brought there. Other mounts
// within it, and what leads to them, stay.
func (t *Tree) strip(d *dir, c *changes) {
	at := d.place()
	b := &binder{dir: d, old: d.pages}
	for it := range d.items {
		if s := d.sub(it.name); s != nil && s.pinned {
			b.add(dirItem(it.name))
			continue
		}
		t.left(d, at, it, c)
		c.full()
	}
	b.end()
	for _, s := range slices.Clone(d.subs) {
		if s.mount != nil {
			continue
		}
		t.strip(s, c)
		if !s.pinned {
			t.unlink(s)
			t.drop(s, at, c)
		}
	}
	t.bind(d, b.pages, c)
	d.listed, d.restored = 0, false
	d.stir()
	c.invalid(d.ino, "")
}

// id tells the sources of a mount apart over time.
func (m *Mount) id() string {
	if m.ID == "" {
		return m.Path
	}
	return m.ID
}

// sourceOf is the ID of the mount that a directory belongs to; empty for none.
func sourceOf(d *dir) string {
	for ; d != nil; d = d.parent {
		if d.mount != nil {
			return d.mount.id()
		}
	}
	return ""
}

// adopted makes a new tree, whose mounts are others than those of an image, take
// over what the image has of the mounts that both have.
func (t *Tree) adopted(im *image) error {
	mounts := make([]Mount, 0, len(t.mounts))
	common := false
	for _, m := range t.mounts {
		mounts = append(mounts, m.Mount)
	}
	former := make([]Mount, 0, len(im.mounts))
	for _, saved := range im.mounts {
		was := Mount{Path: saved.path, URI: saved.uri, ID: saved.id}
		if m := t.mounts[saved.path]; m != nil && m.id() == was.id() {
			was.Version = m.Version
			common = true
		}
		former = append(former, was)
	}
	if !common {
		return errMounts
	}
	slices.SortFunc(mounts, func(a, b Mount) int { return strings.Compare(a.Path, b.Path) })
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rearrange(former)
	if err := t.adopt(im); err != nil {
		return err
	}
	t.rearrange(mounts)
	return nil
}
