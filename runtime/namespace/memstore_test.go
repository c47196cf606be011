package namespace

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/runtime/source"
)

// memStore is a source in memory whose answers a test can change. It stands for
// servers that fail in chosen ways.
type memStore struct {
	mu    sync.Mutex
	files map[string]source.Object
	err   error
	deny  string // a directory that may not be listed
	lists int
	hold  chan struct{} // when set, listings wait for it
}

func newMem(files ...string) *memStore {
	s := &memStore{files: map[string]source.Object{}}
	for _, f := range files {
		s.put(f, "v1", 10)
	}
	return s
}

func (s *memStore) put(path, etag string, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[path] = source.Object{Path: path, ETag: etag, Size: size, ModTime: time.Unix(1, 0)}
}

func (s *memStore) remove(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.files, path)
}

func (s *memStore) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *memStore) listings() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lists
}

func (s *memStore) Stat(_ context.Context, path string) (source.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return source.Object{}, fmt.Errorf("stat mem://test/%s: %w", path, s.err)
	}
	if o, ok := s.files[path]; ok {
		return o, nil
	}
	for at := range s.files {
		if path == "" || strings.HasPrefix(at, path+"/") {
			return source.Object{Path: path, Dir: true}, nil
		}
	}
	if path == "" {
		return source.Object{Dir: true}, nil
	}
	return source.Object{}, fmt.Errorf("stat mem://test/%s: %w", path, source.ErrNotExist)
}

func (s *memStore) List(ctx context.Context, dir string, each func(source.Object) error) error {
	s.mu.Lock()
	s.lists++
	hold := s.hold
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return fmt.Errorf("list mem://test/%s: %w", dir, s.err)
	}
	if s.deny != "" && s.deny == dir {
		return fmt.Errorf("list mem://test/%s: %w", dir, source.ErrDenied)
	}
	prefix := dir
	if dir != "" {
		prefix += "/"
	}
	seen := map[string]bool{}
	found := dir == ""
	for _, path := range slices.Sorted(maps.Keys(s.files)) {
		rest, ok := strings.CutPrefix(path, prefix)
		if !ok {
			continue
		}
		found = true
		name, _, deeper := strings.Cut(rest, "/")
		o := s.files[path]
		if deeper {
			o = source.Object{Path: prefix + name, Dir: true}
		}
		if key := fmt.Sprint(name, deeper); !seen[key] {
			seen[key] = true
			if err := each(o); err != nil {
				return err
			}
		}
	}
	if !found {
		return fmt.Errorf("list mem://test/%s: %w", dir, source.ErrNotExist)
	}
	return nil
}

func (s *memStore) Open(context.Context, source.Object, int64, int64) (io.ReadCloser, error) {
	return nil, source.ErrUnavailable
}

func (s *memStore) String() string { return "mem://test" }
func (s *memStore) Close() error   { return nil }

// walkStore is a memStore that walks flat, as object stores do.
type walkStore struct{ *memStore }

func (s walkStore) Walk(ctx context.Context, dir string, each func(source.Object) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	for _, path := range slices.Sorted(maps.Keys(s.files)) {
		if dir == "" || strings.HasPrefix(path, dir+"/") {
			if err := each(s.files[path]); err != nil {
				return err
			}
		}
	}
	return nil
}

var (
	_ source.Store  = (*memStore)(nil)
	_ source.Walker = walkStore{}
)
