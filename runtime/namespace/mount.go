package namespace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/time/rate"

	"github.com/millrace/millrace/runtime/source"
)

// Retries of a source that fails: from firstRetry up to lastRetry apart.
const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// mount is one source in its place. Path, URI and ID never change; the rest of
// Mount and the fields below the line are guarded by Tree.mu.
type mount struct {
	Mount
	tree *Tree
	dir  *dir
	kick chan struct{} // asks run for a look at the source soon
	// unordered: the source's own walk is of no use.
	unordered atomic.Bool

	cancel context.CancelFunc // ends run; nil until it is started
	// gone: it is mounted no more. disturbed counts the mounts that came and
	// went within it.
	gone      bool
	disturbed int
	// reopen: the source has to be opened anew.
	reopen       bool
	pace         *rate.Limiter // of the listings of walks; nil: none
	store        source.Store
	tried        bool
	err          error // of the last look at the source
	note         string
	walked       bool
	looked       time.Time // when the last whole walk began
	files, bytes int64
}

// run visits the source: it opens it, walks it, and comes again.
func (m *mount) run(ctx context.Context) {
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = firstRetry, lastRetry
	var walked time.Time // when the last walk had ended, and how long it took
	var took time.Duration
	for {
		began := time.Now()
		walk := walked.IsZero() || !began.Before(walked.Add(m.tree.walkInterval(took)))
		err := m.visit(ctx, walk)
		pause := retry.NextBackOff()
		switch {
		case err != nil:
			walked = time.Time{}
		case walk:
			walked, took = time.Now(), time.Since(began)
			fallthrough
		default:
			retry.Reset()
			pause = time.Until(walked.Add(m.tree.walkInterval(took)))
		}
		if !m.sleep(ctx, pause, err == nil) {
			return
		}
	}
}

// sleep waits for d, or until somebody asks for a look at a source that was
// well; false means that ctx has ended.
func (m *mount) sleep(ctx context.Context, d time.Duration, well bool) bool {
	if !well {
		return pause(ctx, d, nil)
	}
	return pause(ctx, d, m.kick) && pause(ctx, min(d, firstRetry), nil)
}

func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-wake:
	}
	return true
}

// walkInterval is how long to wait after a walk that took so long. A small
// source is walked once a TTL, a large one for no more than a twentieth of the
// time: clients hold what they know until they are told of a change.
func (t *Tree) walkInterval(took time.Duration) time.Duration {
	if t.opts.WalkInterval > 0 {
		return t.opts.WalkInterval
	}
	return max(t.freshFor(), walkRest*took)
}

func (m *mount) isWalked() bool {
	m.tree.mu.RLock()
	defer m.tree.mu.RUnlock()
	return m.walked
}

// leftOut says which names of a source have no place in a file system.
func leftOut(o source.Omitter) string {
	n, first := o.Omitted()
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d names are left out, for no file system can show them as they are, such as %q", n, first)
}

func joinNotes(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}

// visit looks whether the source answers, and walks it.
func (m *mount) visit(ctx context.Context, walk bool) error {
	store, err := m.connect(ctx)
	if err == nil {
		err = m.answers(ctx, store)
	}
	m.report(ctx, err)
	if err != nil || !walk {
		return err
	}
	began := time.Now()
	note, err := m.tree.scan(ctx, m, "")
	for errors.Is(err, errDisturbed) && ctx.Err() == nil {
		note, err = m.tree.scan(ctx, m, "")
	}
	if err != nil {
		m.report(ctx, err)
		return err
	}
	if o, ok := store.(source.Omitter); ok {
		note = joinNotes(note, leftOut(o))
	}
	t := m.tree
	t.mu.Lock()
	if m.gone {
		t.mu.Unlock()
		return nil
	}
	first := !m.walked
	t.dirty = t.dirty || first
	m.walked, m.note = true, note
	files, bytes := m.files, m.bytes
	t.stirLocked()
	t.mu.Unlock()
	if first {
		select {
		case t.saveSoon <- struct{}{}:
		default:
		}
		t.log.InfoContext(ctx, "walked source", "mount", m.Path, "source", m.URI, "files", files, "bytes", bytes, "took", time.Since(began).Round(time.Millisecond))
	}
	t.stateChanged()
	return nil
}

// answers asks the source for its root, and takes in the attributes of that.
func (m *mount) answers(ctx context.Context, store source.Store) error {
	top, err := source.Answers(ctx, store, m.URI)
	if err != nil {
		return err
	}
	t := m.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	it := itemOf("x", top)
	switch {
	case m.gone:
	case m.dir != t.root:
		t.dress(m.dir, top)
	case !it.same(t.rootItem):
		t.rootItem, t.dirty = it, true
		t.root.stir()
	}
	return nil
}

// dress gives a directory attributes.
func (t *Tree) dress(d *dir, o source.Object) {
	it := itemOf(d.name, o)
	if old, _, _, ok := d.parent.find(d.name); ok && old.same(it) {
		return
	}
	c := t.changes()
	defer c.publish()
	c.invalid(d.parent.ino, d.name)
	c.invalid(d.ino, "")
	t.bind(d.parent, splice(d.parent, d.name, &it), c)
}

// connect opens the source, anew after a failure: secrets may be others now, and
// a directory that was mounted again is another one.
func (m *mount) connect(ctx context.Context) (source.Store, error) {
	t := m.tree
	t.mu.RLock()
	store, err, open, version, reopen := m.store, m.err, m.Open, m.Version, m.reopen
	t.mu.RUnlock()
	if store != nil && err == nil && !reopen {
		return store, nil
	}
	opened, err := open(ctx)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	m.store = opened
	m.reopen = m.reopen && m.Version != version
	t.mu.Unlock()
	switch {
	case store == nil:
	case reopen: // it may be in use
		t.tasks.Go(func() {
			pause(t.ctx, closeLag, nil)
			_ = store.Close()
		})
	default:
		_ = store.Close()
	}
	return opened, nil
}

// report keeps the answer of the source, and tells when it is another than before.
func (m *mount) report(ctx context.Context, err error) {
	t := m.tree
	if ctx.Err() != nil {
		return
	}
	t.mu.Lock()
	same := m.tried && fmt.Sprint(err) == fmt.Sprint(m.err)
	m.tried, m.err = true, err
	if !same {
		t.stirLocked()
	}
	t.mu.Unlock()
	if same {
		return
	}
	if err != nil {
		t.log.WarnContext(ctx, "source does not answer", "mount", m.Path, "source", m.URI, "error", err)
	} else {
		t.log.InfoContext(ctx, "source answers", "mount", m.Path, "source", m.URI)
	}
	t.stateChanged()
}

func (t *Tree) stateChanged() {
	if t.opts.OnState != nil {
		t.opts.OnState()
	}
}

// look asks for a look at the source because something went wrong with it.
func (m *mount) look() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// opened gives the source once it has been tried, or why there is none.
func (m *mount) opened(ctx context.Context) (source.Store, error) {
	t := m.tree
	for {
		t.mu.RLock()
		store, tried, err, stirred, gone := m.store, m.tried, m.err, t.stirred, m.gone
		t.mu.RUnlock()
		if gone {
			return nil, fmt.Errorf("%s is mounted no more: %w", m.URI, source.ErrNotExist)
		}
		if tried {
			if store == nil {
				return nil, err
			}
			return store, nil
		}
		select {
		case <-stirred:
		case <-ctx.Done():
			return nil, fmt.Errorf("open %s: %w", m.URI, ctx.Err())
		}
	}
}

func (m *mount) close() {
	if m.store != nil {
		_ = m.store.Close()
	}
}

// MountStates tells how each mount does, sorted by path.
func (t *Tree) MountStates() []MountState {
	t.mu.RLock()
	defer t.mu.RUnlock()
	states := make([]MountState, 0, len(t.mounts))
	for _, m := range t.mounts {
		states = append(states, MountState{
			Path: m.Path, URI: m.URI, Err: m.err, Tried: m.tried, Note: m.note,
			Walked: m.walked, Looked: m.looked, Files: m.files, Bytes: m.bytes,
		})
	}
	slices.SortFunc(states, func(a, b MountState) int { return strings.Compare(a.Path, b.Path) })
	return states
}
