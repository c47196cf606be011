package namespace

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/millrace/millrace/runtime/source"
)

const (
	// scanBatch is how many objects of a walk are taken in under one lock, and
	// scanAhead how many such batches the source may be ahead, so that it is
	// asked for more while the tree takes in what it said.
	scanBatch = 1000
	scanAhead = 4
	// scanParallel is how many directories of a source without a walk of its
	// own are listed at once.
	scanParallel = 16
)

// errUnordered: a walk came back to a directory that it had left.
var errUnordered = errors.New("the walk does not keep directories together")

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
	t.mu.RLock()
	mounts := maps.Clone(t.mounts)
	t.mu.RUnlock()
	if m := mounts[e.Mount]; m != nil {
		if err := visit(m, e.Path); err != nil {
			return err
		}
	}
	below := "/" + strings.Join(append(splitPath(path), ""), "/")
	for at, m := range mounts {
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
	began := time.Now()
	defer func() {
		if err == nil && rel == "" {
			t.mu.Lock()
			defer t.mu.Unlock()
			m.looked = began
		}
	}()
	store, err := m.opened(ctx)
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	t.scans++
	s := &scanner{tree: t, mount: m, gen: t.scans, disturbed: m.disturbed}
	if m.pace == nil && t.opts.WalkRate > 0 {
		m.pace = rate.NewLimiter(rate.Limit(t.opts.WalkRate), scanParallel)
	}
	t.mu.Unlock()
	w, ok := store.(source.Walker)
	if ok && !m.unordered.Load() {
		err := s.walk(ctx, w, rel)
		if !errors.Is(err, errUnordered) {
			return "", err
		}
		m.unordered.Store(true)
		t.log.WarnContext(ctx, "list the source directory by directory from now on", "mount", m.Path, "source", m.URI, "error", err)
	}
	return s.listAll(ctx, rel)
}

type scanner struct {
	tree  *Tree
	mount *mount
	gen   uint32
	stack []frame // of the walk, from the top directory to where it is now
	// disturbed is that of the mount when the scan began.
	disturbed int

	mu     sync.Mutex
	hidden []string
}

// frame is a directory that a walk is in.
type frame struct {
	dir  *dir // nil if another mount lies there
	path string
	gather
	// began and since are from before the first object below it was seen.
	began time.Time
	since uint64
}

// batch is a part of a walk.
type batch struct {
	objects []source.Object
	began   time.Time
	since   uint64
}

// walk takes in a flat walk of all objects. Each directory is taken in when the
// walk leaves it.
func (s *scanner) walk(ctx context.Context, w source.Walker, rel string) error {
	t := s.tree
	since := t.takeOff()
	defer t.land()
	first := batch{began: time.Now(), since: since}
	if err := s.start(rel, first); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	batches := make(chan batch, scanAhead)
	taken := make(chan error, 1)
	go func() {
		var err error
		for b := range batches {
			if err != nil {
				continue // the walk hears of it
			}
			if err = s.take(b); err != nil {
				cancel(err)
			}
		}
		taken <- err
	}()
	b := first
	flush := func() {
		if len(b.objects) > 0 {
			batches <- b
		}
		b = batch{objects: make([]source.Object, 0, scanBatch), began: time.Now(), since: t.now()}
	}
	flush()
	err := w.Walk(ctx, rel, func(o source.Object) error {
		b.objects = append(b.objects, o)
		if len(b.objects) == scanBatch {
			flush()
		}
		return ctx.Err()
	})
	flush()
	close(batches)
	if errTake := <-taken; errTake != nil {
		return errTake
	}
	if err != nil {
		t.counts.failures.Add(1)
		return fmt.Errorf("walk %s: %w", s.mount.URI, err)
	}
	t.counts.walks.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := s.whole(); err != nil {
		return err
	}
	c := t.changes()
	defer c.publish()
	for len(s.stack) > 0 {
		s.leave(c)
	}
	return nil
}

// whole tells whether the mount is still there as it was when the scan began;
// the tree is locked.
func (s *scanner) whole() error {
	switch {
	case s.mount.gone:
		return fmt.Errorf("walk %s, which is mounted no more: %w", s.mount.URI, source.ErrNotExist)
	case s.mount.disturbed != s.disturbed:
		return errDisturbed
	}
	return nil
}

// now is the moment in the tree's clock.
func (t *Tree) now() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.clock
}

// start enters the top directory of a walk.
func (s *scanner) start(rel string, b batch) error {
	t := s.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := s.whole(); err != nil {
		return err
	}
	c := t.changes()
	defer c.publish()
	d := s.reach(rel, c)
	s.stack = []frame{{dir: d, path: rel, began: b.began, since: b.since}}
	return nil
}

// reach finds or makes the directory of a path of the mount; nil if another
// mount lies there.
func (s *scanner) reach(rel string, c *changes) *dir {
	d := s.mount.dir
	for _, name := range splitPath(rel) {
		if d = s.tree.below(d, name, c); d == nil {
			return nil
		}
	}
	return d
}

// below finds a directory, or makes one that no listing of d has named yet.
func (t *Tree) below(d *dir, name string, c *changes) *dir {
	next := d.sub(name)
	if next == nil {
		next = t.newDir(d, name, c)
		t.link(next)
	}
	if next.mount != nil {
		return nil
	}
	return next
}

// take takes a batch into the tree.
func (s *scanner) take(b batch) error {
	t := s.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := s.whole(); err != nil {
		return err
	}
	c := t.changes()
	defer c.publish()
	for _, o := range b.objects {
		if o.Path == "" || !validPath(o.Path) {
			continue
		}
		dir, name := o.Path, ""
		if !o.Dir {
			dir, name = parentOf(o.Path), baseName(o.Path)
		}
		for !s.top().leadsTo(dir) {
			if len(s.stack) == 1 {
				return fmt.Errorf("%s is not below %s: %w", o.Path, s.top().path, source.ErrInvalid)
			}
			s.leave(c)
		}
		for s.top().path != dir {
			if err := s.enter(dir, o, b, c); err != nil {
				return err
			}
		}
		if name != "" && s.top().dir != nil {
			s.top().add(name, o)
		}
	}
	return nil
}

func (s *scanner) top() *frame { return &s.stack[len(s.stack)-1] }

// leadsTo tells whether a path is that of the frame or lies below it.
func (f *frame) leadsTo(path string) bool {
	if f.path == "" || path == f.path {
		return true
	}
	return len(path) > len(f.path) && path[len(f.path)] == '/' && strings.HasPrefix(path, f.path)
}

// enter goes one directory down on the way to a path.
func (s *scanner) enter(path string, o source.Object, b batch, c *changes) error {
	up := s.top()
	rest := path
	if up.path != "" {
		rest = path[len(up.path)+1:]
	}
	name, _, further := strings.Cut(rest, "/")
	f := frame{path: join(up.path, name), began: b.began, since: b.since}
	if up.dir != nil {
		if further || !o.Dir {
			up.add(name, source.Object{Dir: true})
		} else {
			up.add(name, o)
		}
		f.dir = s.tree.below(up.dir, name, c)
	}
	if f.dir != nil && f.dir.scan == s.gen {
		return fmt.Errorf("walk %s, at %s: %w", s.mount.URI, f.path, errUnordered)
	}
	s.stack = append(s.stack, f)
	return nil
}

// leave takes in the directory that the walk is in, and goes one up.
func (s *scanner) leave(c *changes) {
	t, f := s.tree, s.top()
	s.stack = s.stack[:len(s.stack)-1]
	if f.dir == nil || t.gone(f.dir) {
		return
	}
	f.dir.scan = s.gen
	if f.dir.listed > f.began.UnixNano() {
		return // it was listed since
	}
	t.replace(f.dir, &f.gather, f.since, c)
	t.listedAt(f.dir, f.began)
}

// listAll lists directory by directory, many at once.
func (s *scanner) listAll(ctx context.Context, rel string) (note string, err error) {
	t := s.tree
	t.mu.Lock()
	if err := s.whole(); err != nil {
		t.mu.Unlock()
		return "", err
	}
	c := t.changes()
	top := s.reach(rel, c)
	c.publish()
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
	t.counts.walks.Add(1)
	if len(s.hidden) > 0 {
		note = fmt.Sprintf("%d directories cannot be listed, the first: %s", len(s.hidden), s.hidden[0])
	}
	return note, nil
}

// below lists d and what is below it; in other goroutines as far as there are
// free ones.
func (s *scanner) below(ctx context.Context, group *errgroup.Group, d *dir) error {
	if s.mount.pace != nil {
		if err := s.mount.pace.Wait(ctx); err != nil {
			return err
		}
	}
	if err := s.tree.relist(ctx, d); err != nil {
		switch {
		case d == s.mount.dir:
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
	var dirs []*dir
	for _, next := range d.subs {
		if next.mount == nil {
			dirs = append(dirs, next)
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
