// Package origin reads objects where the truth is: it has the sources of a
// Dataset by mount path, and opens each when it is first needed.
package origin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// knownWait is for how long a read of a source that is not known waits for it:
// the master may have been told of a new mount a moment sooner.
const knownWait = 30 * time.Second

// Sources are the sources of a Dataset. It is safe for concurrent use.
type Sources struct {
	mu     sync.Mutex
	mounts map[string]*mount // by ID
	// former are the IDs of those that were taken away.
	former map[string]bool
	closed bool
	// changed is closed, and made anew, with every Set.
	changed chan struct{}
}

type mount struct {
	namespace.Mount
	mu    sync.Mutex
	store *shared
	ended bool // another one is in its place, or none
}

// errEnded: the mount is not to be opened any more.
var errEnded = errors.New("mounted no more")

// shared is a store that several reads use; it is closed when it has been
// replaced and the last of them has ended.
type shared struct {
	source.Store
	users int // guarded by the mount's mu; one for being the mount's store
}

// New takes the mounts; nothing is opened yet.
func New(mounts []namespace.Mount) *Sources {
	s := &Sources{mounts: map[string]*mount{}, former: map[string]bool{}, changed: make(chan struct{})}
	s.Set(mounts)
	return s
}

// Set replaces the mounts. One whose Version stays is left as it is; others are
// closed after their last read, and what is still asked of them does not exist.
func (s *Sources) Set(mounts []namespace.Mount) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.mounts
	s.mounts = make(map[string]*mount, len(mounts))
	for _, spec := range mounts {
		id := cmp.Or(spec.ID, spec.Path)
		m := before[id]
		if m == nil || m.Version != spec.Version {
			m = &mount{Mount: spec}
		}
		s.mounts[id] = m
		delete(s.former, id)
	}
	for id, m := range before {
		if s.mounts[id] == nil {
			s.former[id] = true
		}
		if s.mounts[id] != m {
			m.close()
		}
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// find is the mount of an object, also one of which this process is told only now.
func (s *Sources) find(ctx context.Context, o *wirepb.Object) (*mount, error) {
	deadline := time.NewTimer(knownWait)
	defer deadline.Stop()
	for {
		s.mu.Lock()
		m, former, changed, closed := s.mounts[o.GetMount()], s.former[o.GetMount()], s.changed, s.closed
		s.mu.Unlock()
		switch {
		case closed:
			return nil, fmt.Errorf("read %s: the sources are closed: %w", o.GetPath(), source.ErrUnavailable)
		case m != nil:
			return m, nil
		case former:
			return nil, fmt.Errorf("read %s: %q is mounted no more: %w", o.GetPath(), o.GetMount(), source.ErrNotExist)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("read %s: no mount at %q: %w", o.GetPath(), o.GetMount(), ctx.Err())
		case <-deadline.C:
			return nil, fmt.Errorf("read %s: no mount at %q: %w", o.GetPath(), o.GetMount(), source.ErrInvalid)
		}
	}
}

// ReadAt fills p with the bytes of o from off. It fails rather than give bytes
// of another version.
func (s *Sources) ReadAt(ctx context.Context, o *wirepb.Object, p []byte, off int64) error {
	return s.read(ctx, o, off, int64(len(p)), func(r io.Reader) error {
		_, err := io.ReadFull(r, p)
		return err
	})
}

// pieceBytes is what Copy reads at once: it fits into the second level of the
// processor's caches.
const pieceBytes = 256 << 10

var pieces = sync.Pool{New: func() any {
	p := make([]byte, pieceBytes)
	return &p
}}

// Copy writes n bytes of o from off to w, in pieces as they come. After an
// error, also one of the version at the end, what was written is worth nothing.
func (s *Sources) Copy(ctx context.Context, w io.Writer, o *wirepb.Object, off, n int64) error {
	return s.read(ctx, o, off, n, func(r io.Reader) error {
		p := pieces.Get().(*[]byte)
		defer pieces.Put(p)
		for left := n; left > 0; {
			piece := (*p)[:min(pieceBytes, left)]
			// Full pieces: a socket gives little at a time, and a write costs more than a read.
			if _, err := io.ReadFull(r, piece); err != nil {
				return err
			}
			if _, err := w.Write(piece); err != nil {
				return err
			}
			left -= int64(len(piece))
		}
		return nil
	})
}

// read opens a range and has it taken to its end.
func (s *Sources) read(ctx context.Context, o *wirepb.Object, off, n int64, take func(io.Reader) error) error {
	m, err := s.find(ctx, o)
	if err != nil {
		return err
	}
	for again := false; ; again = true {
		st, err := m.acquire(ctx)
		if errors.Is(err, errEnded) {
			if m, err = s.find(ctx, o); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("open %s: %w", m.URI, err)
		}
		begun := false
		err = readRange(ctx, st, Object(o), off, n, func(r io.Reader) error {
			begun = true
			return take(r)
		})
		denied := errors.Is(err, source.ErrDenied)
		m.release(st, denied)
		if denied && !begun && !again {
			continue // secrets may be new: they are taken up by opening anew
		}
		if err != nil {
			return fmt.Errorf("read %s of %s at %d: %w", o.GetPath(), m.URI, off, err)
		}
		return nil
	}
}

func readRange(ctx context.Context, st source.Store, o source.Object, off, n int64, take func(io.Reader) error) error {
	r, err := st.Open(ctx, o, off, n)
	if err != nil {
		return err
	}
	err = take(r)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err = fmt.Errorf("%w: it ends early", source.ErrUnavailable)
	case err == nil:
		// A source says at the end whether all of it was one version.
		if n, errEnd := io.Copy(io.Discard, r); errEnd != nil {
			err = errEnd
		} else if n > 0 {
			err = fmt.Errorf("%w: it gives more than was asked for", source.ErrUnavailable)
		}
	}
	if errClose := r.Close(); err == nil {
		err = errClose
	}
	return err
}

// Object is what a source knows o as.
func Object(o *wirepb.Object) source.Object {
	out := source.Object{Path: o.GetPath(), Size: o.GetSize(), ETag: o.GetEtag()}
	if ns := o.GetMtimeNs(); ns != 0 {
		out.ModTime = time.Unix(0, ns)
	}
	return out
}

func (m *mount) acquire(ctx context.Context) (*shared, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return nil, errEnded
	}
	if m.store == nil {
		st, err := m.Open(ctx)
		if err != nil {
			return nil, err
		}
		m.store = &shared{Store: st, users: 1}
	}
	m.store.users++
	return m.store, nil
}

// release ends the use of st; replace has the next read open the source anew.
func (m *mount) release(st *shared, replace bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	st.users--
	if replace && m.store == st {
		m.store = nil
		st.users--
	}
	if st.users == 0 {
		st.Close()
	}
}

// Close closes the sources that are open, each after its last read.
func (s *Sources) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, m := range s.mounts {
		m.close()
	}
}

// close closes the source if it is open, after its last read.
func (m *mount) close() {
	m.mu.Lock()
	m.ended = true
	st := m.store
	if st != nil {
		st.users++
	}
	m.mu.Unlock()
	if st != nil {
		m.release(st, true)
	}
}
