package namespace

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/runtime/source"
)

const (
	// scanBatch is how many objects of a walk are taken in under one lock.
	scanBatch = 4096
	// scanParallel is how many directories of a source without a walk of its
	// own are listed at once.
	scanParallel = 16
)

// Scan looks at everything at and below an absolute path anew, and returns when
// all of it is known. A mount that fails ends it with the mount's error.
func (t *Tree) Scan(ctx context.Context, path string) error {
	e, err := t.Resolve(ctx, path)
	if err != nil {
		return err
	}
	if e.Ino != RootIno || e.Mount != "" {
		e, err = t.Refresh(ctx, e.Ino, "")
		if err != nil {
			return err
		}
	}
	if !e.IsDir() {
		return nil
	}
	return t.eachMount(e, path, func(m *mount, rel string) error {
		_, err := t.scan(ctx, m, rel)
		return err
	})
}

// WaitKnown returns when everything at and below an absolute path was seen at
// least once; sooner with the error of a mount that fails.
func (t *Tree) WaitKnown(ctx context.Context, path string) error {
	e, err := t.Resolve(ctx, path)
	if err != nil || !e.IsDir() {
		return err
	}
	return t.eachMount(e, path, func(m *mount, rel string) error {
		if rel != "" && !m.isWalked() {
			_, err := t.scan(ctx, m, rel) // no need to wait for all else
			return err
		}
		return m.wait(ctx)
	})
}

// wait returns when the mount was walked or has failed.
func (m *mount) wait(ctx context.Context) error {
	t := m.tree
	for {
		t.mu.RLock()
		walked, err, stirred := m.walked, m.err, t.stirred
		t.mu.RUnlock()
		if walked {
			return nil
		}
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Path, err)
		}
		select {
		case <-stirred:
		case <-ctx.Done():
			return fmt.Errorf("wait for the walk of %s: %w", m.URI, ctx.Err())
		}
	}
}

// eachMount visits the mount that has the directory e, and all mounts below it.
func (t *Tree) eachMount(e Entry, path string, visit func(m *mount, rel string) error) error {
	if m := t.mounts[e.Mount]; m != nil {
		if err := visit(m, e.Path); err != nil {
			return err
		}
	}
	below := "/" + strings.Join(append(splitPath(path), ""), "/")
	for at, m := range t.mounts {
		if strings.HasPrefix(at, below) && at != e.Mount {
			if err := visit(m, ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// scan walks one directory of a mount to all its depth. The note names what
// had to be left out because the source does not let us see it.
func (t *Tree) scan(ctx context.Context, m *mount, rel string) (note string, err error) {
	store, err := m.opened(ctx)
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	t.gen++
	s := &scanner{tree: t, mount: m, gen: t.gen, began: time.Now()}
	t.mu.Unlock()
	if w, ok := store.(source.Walker); ok {
		return "", s.walk(ctx, w, rel)
	}
	return s.listAll(ctx, rel)
}

type scanner struct {
	tree  *Tree
	mount *mount
	gen   uint32
	began time.Time
	batch []source.Object
	// clashes are files whose name is also that of a directory.
	clashes []source.Object

	mu     sync.Mutex
	hidden []string
}

// walk takes in a flat walk of all objects, then removes what was not in it.
func (s *scanner) walk(ctx context.Context, w source.Walker, rel string) error {
	err := w.Walk(ctx, rel, func(o source.Object) error {
		s.batch = append(s.batch, o)
		if len(s.batch) == scanBatch {
			s.flush()
		}
		return ctx.Err()
	})
	s.flush()
	if err != nil {
		return fmt.Errorf("walk %s: %w", s.mount.URI, err)
	}
	t := s.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &Change{}
	defer t.publish(c)
	top := s.dir(rel, c)
	if top == nil {
		return nil
	}
	for _, o := range s.clashes {
		d := s.dir(parentOf(o.Path), c)
		if d == nil {
			continue
		}
		// The directory of that name wins if the walk has seen anything in it.
		if n, i := d.dir.find(baseName(o.Path)); n != nil && n.gen < s.gen {
			d.dir.children[i] = t.update(n, o, s.gen, c)
		}
	}
	t.sweep(top, s.gen, s.began, c)
	return nil
}

// flush takes the batch into the tree.
func (s *scanner) flush() {
	if len(s.batch) == 0 {
		return
	}
	t := s.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &Change{}
	defer t.publish(c)
	groups := map[*node][]child{}
	lastPath, last := "", (*node)(nil)
	for _, o := range s.batch {
		if o.Path == "" || !validPath(o.Path) {
			continue
		}
		if o.Dir {
			s.dir(o.Path, c)
		}
		p := parentOf(o.Path)
		if last == nil || p != lastPath || last.parent == nil && last != t.root {
			lastPath, last = p, s.dir(p, c)
		}
		if last == nil {
			continue // another mount lies there
		}
		name := baseName(o.Path)
		if n, _ := last.dir.find(name); n != nil && n.dir != nil && !o.Dir {
			s.clashes = append(s.clashes, o)
			continue
		}
		groups[last] = append(groups[last], child{name, o})
	}
	for d, objs := range groups {
		if d.parent != nil || d == t.root {
			t.merge(d, objs, false, s.gen, c)
		}
	}
	s.batch = s.batch[:0]
}

// dir finds or makes the directory of a path of the mount, and marks all that
// lead to it as seen; nil if another mount lies there.
func (s *scanner) dir(rel string, c *Change) *node {
	t, n := s.tree, s.mount.node
	for _, name := range splitPath(rel) {
		next, i := n.dir.find(name)
		switch {
		case next == nil:
			next = t.insert(n, child{name, source.Object{Dir: true}}, s.gen, c)
		case next.dir == nil:
			next = t.update(next, source.Object{Dir: true}, s.gen, c)
			n.dir.children[i] = next
		case next.dir.mount != nil:
			return nil
		}
		next.gen = s.gen
		n = next
	}
	return n
}

// listAll lists directory by directory, many at once.
func (s *scanner) listAll(ctx context.Context, rel string) (note string, err error) {
	t := s.tree
	t.mu.Lock()
	c := &Change{}
	top := s.dir(rel, c)
	t.publish(c)
	t.mu.Unlock()
	if top == nil {
		return "", nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(scanParallel)
	if err := s.below(ctx, group, top); err != nil {
		group.Wait() //nolint:errcheck // the first error is the one to tell
		return "", err
	}
	if err := group.Wait(); err != nil {
		return "", err
	}
	if len(s.hidden) > 0 {
		note = fmt.Sprintf("%d directories cannot be listed, the first: %s", len(s.hidden), s.hidden[0])
	}
	return note, nil
}

// below lists d and what is below it; in other goroutines as far as there are
// free ones.
func (s *scanner) below(ctx context.Context, group *errgroup.Group, d *node) error {
	if err := s.tree.relist(ctx, d); err != nil {
		switch {
		case d == s.mount.node:
			return err
		case errors.Is(err, source.ErrNotExist):
			return nil // it went while we walked
		case errors.Is(err, source.ErrDenied):
			s.mu.Lock()
			s.hidden = append(s.hidden, err.Error())
			s.mu.Unlock()
			return nil
		}
		return err
	}
	t := s.tree
	t.mu.RLock()
	var dirs []*node
	for _, n := range d.dir.children {
		if n.dir != nil && n.dir.mount == nil {
			dirs = append(dirs, n)
		}
	}
	t.mu.RUnlock()
	for _, next := range dirs {
		if !group.TryGo(func() error { return s.below(ctx, group, next) }) {
			if err := s.below(ctx, group, next); err != nil {
				return err
			}
		}
	}
	return nil
}

func parentOf(rel string) string {
	i := strings.LastIndexByte(rel, '/')
	if i < 0 {
		return ""
	}
	return rel[:i]
}

// validPath tells whether every part of a path can be a name; object stores
// have keys such as a//b that no file system can show.
func validPath(rel string) bool {
	for part := range strings.SplitSeq(rel, "/") {
		if !validName(part) {
			return false
		}
	}
	return true
}
