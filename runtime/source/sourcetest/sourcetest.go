// Package sourcetest is the suite that every kind of source passes against the
// real server.
package sourcetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/millrace/millrace/runtime/source"
)

// Fixture is one real source, empty at first.
type Fixture struct {
	// Open opens the source.
	Open func(t *testing.T) source.Store
	// Put makes or replaces an object, Remove takes it away.
	Put    func(t *testing.T, path string, data []byte)
	Remove func(t *testing.T, path string)
	// Unlisted tells which objects the source serves and does not list; nil for none.
	Unlisted func(path string) bool
	// Deny takes the right to read an object away until it is removed; nil where
	// that has no meaning.
	Deny func(t *testing.T, path string)
	// Stop makes the source unreachable and Start reachable again; nil where
	// that has no meaning.
	Stop, Start func(t *testing.T)
}

func pattern(n int, salt byte) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(i>>8) ^ byte(i*7) ^ salt
	}
	return out
}

var tree = map[string][]byte{
	"empty":                   {},
	"small.txt":               []byte("millrace"),
	"big.bin":                 pattern(5<<20+123, 1),
	"dir/a":                   pattern(10, 2),
	"dir/b":                   pattern(1000, 3),
	"dir/sub/deep/er/c":       pattern(5000, 4),
	"with space/ünï çødé.txt": pattern(77, 5),
	"dir.ext/.hidden":         pattern(1, 6),
	"tricky/100%/a+b&c=d#e?f": pattern(9, 7),
}

// Run runs the suite.
func Run(t *testing.T, f Fixture) {
	for path, data := range tree {
		f.Put(t, path, data)
	}
	store := f.Open(t)
	t.Cleanup(func() { store.Close() })
	t.Run("every object has its bytes, whole and in ranges", func(t *testing.T) { bytesMatch(t, store) })
	t.Run("a directory lists its direct children once", func(t *testing.T) { listing(t, store) })
	t.Run("what is not there is ErrNotExist", func(t *testing.T) { missing(t, store) })
	t.Run("a walk finds every object", func(t *testing.T) { walk(t, f, store) })
	t.Run("readers of one object do not disturb each other", func(t *testing.T) { parallel(t, store) })
	t.Run("a replaced object is ErrChanged", func(t *testing.T) { replaced(t, f, store) })
	t.Run("a removed object is ErrNotExist or ErrChanged", func(t *testing.T) { removed(t, f, store) })
	t.Run("a cancelled listing ends", func(t *testing.T) { cancelled(t, store) })
	t.Run("ranges at every edge", func(t *testing.T) { edges(t, store) })
	t.Run("a directory is one, and a file is none", func(t *testing.T) { directories(t, store) })
	t.Run("names are kept as they are", func(t *testing.T) { names(t, f, store) })
	t.Run("64 readers at once", func(t *testing.T) { crowd(t, store) })
	t.Run("reads end when they are cancelled", func(t *testing.T) { cancelledReads(t, store) })
	t.Run("an object that is replaced while it is read", func(t *testing.T) { changedMidway(t, f, store) })
	if f.Deny != nil {
		t.Run("what may not be read is ErrDenied", func(t *testing.T) { denied(t, f, store) })
	}
	if f.Stop != nil {
		t.Run("a source that goes down during a read is ErrUnavailable", func(t *testing.T) { downMidway(t, f, store) })
		t.Run("a source that is down is ErrUnavailable, and then comes back", func(t *testing.T) { down(t, f, store) })
	}
}

func read(ctx context.Context, s source.Store, o source.Object, off, n int64) ([]byte, error) {
	r, err := s.Open(ctx, o, off, n)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func bytesMatch(t *testing.T, s source.Store) {
	for path, want := range tree {
		o, err := s.Stat(t.Context(), path)
		if err != nil {
			t.Errorf("stat %s: %v", path, err)
			continue
		}
		if o.Path != path || o.Dir || o.Size != int64(len(want)) || o.ModTime.IsZero() || o.Version() == "" {
			t.Errorf("stat %s: %+v", path, o)
		}
		for _, r := range [][2]int64{{0, o.Size}, {0, o.Size + 100}, {o.Size / 3, o.Size / 2}, {max(0, o.Size-1), 1}} {
			got, err := read(t.Context(), s, o, r[0], r[1])
			if end := min(r[0]+r[1], o.Size); err != nil || !bytes.Equal(got, want[r[0]:end]) {
				t.Errorf("read %d bytes of %s at %d: %d bytes, %v", r[1], path, r[0], len(got), err)
			}
		}
	}
}

func listing(t *testing.T, s source.Store) {
	for dir, want := range map[string][]string{
		"":           {"big.bin", "dir.ext/", "dir/", "empty", "small.txt", "tricky/", "with space/"},
		"dir":        {"dir/a", "dir/b", "dir/sub/"},
		"dir/sub":    {"dir/sub/deep/"},
		"with space": {"with space/ünï çødé.txt"},
	} {
		var got []string
		err := s.List(t.Context(), dir, func(o source.Object) error {
			name := o.Path
			if o.Dir {
				name += "/"
			} else if o.Size != int64(len(tree[o.Path])) {
				t.Errorf("list %q: %s has %d bytes", dir, o.Path, o.Size)
			}
			got = append(got, name)
			return nil
		})
		slices.Sort(got)
		slices.Sort(want)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("list %q: %q, want %q, %v", dir, got, want, err)
		}
	}
	// What stat says and what a listing says are one version.
	err := s.List(t.Context(), "dir", func(o source.Object) error {
		st, err := s.Stat(t.Context(), o.Path)
		if err == nil && !o.Dir && (st.Version() != o.Version() || !st.ModTime.Equal(o.ModTime) || st.Size != o.Size) {
			err = fmt.Errorf("%s is %+v in a listing and %+v by stat", o.Path, o, st)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func missing(t *testing.T, s source.Store) {
	for _, path := range []string{"nowhere", "dir/nowhere", "nowhere/at/all", "small.txt/below"} {
		if _, err := s.Stat(t.Context(), path); !errors.Is(err, source.ErrNotExist) {
			t.Errorf("stat %s: %v", path, err)
		}
	}
	if err := s.List(t.Context(), "nowhere", func(source.Object) error { return nil }); !errors.Is(err, source.ErrNotExist) {
		t.Errorf("list nowhere: %v", err)
	}
}

func walk(t *testing.T, f Fixture, s source.Store) {
	w := walkerOf(s)
	got := map[string]int64{}
	if err := w.Walk(t.Context(), "", func(o source.Object) error {
		if !o.Dir {
			got[o.Path] = o.Size
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	want := maps.Clone(tree)
	if f.Unlisted != nil {
		maps.DeleteFunc(want, func(path string, _ []byte) bool { return f.Unlisted(path) })
	}
	for path, data := range want {
		if size, ok := got[path]; !ok || size != int64(len(data)) {
			t.Errorf("the walk gives %s %d bytes, there %v", path, size, ok)
		}
	}
	if len(got) != len(want) {
		t.Errorf("the walk found %d objects, not %d", len(got), len(want))
	}
}

// walker walks by listing.
type walker struct{ source.Store }

func (w walker) Walk(ctx context.Context, dir string, each func(source.Object) error) error {
	return w.List(ctx, dir, func(o source.Object) error {
		if o.Dir {
			return w.Walk(ctx, o.Path, each)
		}
		return each(o)
	})
}

func parallel(t *testing.T, s source.Store) {
	o, err := s.Stat(t.Context(), "big.bin")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range int64(16) {
		wg.Go(func() {
			off := i * o.Size / 16
			got, err := read(t.Context(), s, o, off, 300000)
			if err != nil || !bytes.Equal(got, tree["big.bin"][off:min(off+300000, o.Size)]) {
				t.Errorf("read at %d: %d bytes, %v", off, len(got), err)
			}
		})
	}
	wg.Wait()
}

func replaced(t *testing.T, f Fixture, s source.Store) {
	f.Put(t, "changing", pattern(4000, 8))
	old, err := s.Stat(t.Context(), "changing")
	if err != nil {
		t.Fatal(err)
	}
	f.Put(t, "changing", pattern(4000, 9))
	if _, err := read(t.Context(), s, old, 0, 4000); !errors.Is(err, source.ErrChanged) {
		t.Errorf("the old version reads with %v", err)
	}
	now, err := s.Stat(t.Context(), "changing")
	if err != nil {
		t.Fatal(err)
	}
	if now.Version() == old.Version() {
		t.Error("both versions have one name")
	}
	if got, err := read(t.Context(), s, now, 0, 4000); err != nil || !bytes.Equal(got, pattern(4000, 9)) {
		t.Errorf("the new version: %v", err)
	}
	f.Put(t, "changing", pattern(10, 9))
	if _, err := read(t.Context(), s, now, 0, 4000); !errors.Is(err, source.ErrChanged) {
		t.Errorf("a version that was cut short reads with %v", err)
	}
	f.Remove(t, "changing")
}

func removed(t *testing.T, f Fixture, s source.Store) {
	f.Put(t, "leaving", pattern(4000, 8))
	o, err := s.Stat(t.Context(), "leaving")
	if err != nil {
		t.Fatal(err)
	}
	f.Remove(t, "leaving")
	if _, err := read(t.Context(), s, o, 0, 4000); !errors.Is(err, source.ErrNotExist) && !errors.Is(err, source.ErrChanged) {
		t.Errorf("a removed object reads with %v", err)
	}
}

func cancelled(t *testing.T, s source.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.List(ctx, "dir", func(source.Object) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	stop := errors.New("enough")
	if err := s.List(t.Context(), "dir", func(source.Object) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error %v", err)
	}
}

func down(t *testing.T, f Fixture, s source.Store) {
	o, err := s.Stat(t.Context(), "small.txt")
	if err != nil {
		t.Fatal(err)
	}
	f.Stop(t)
	if _, err := read(t.Context(), s, o, 0, 8); !errors.Is(err, source.ErrUnavailable) {
		t.Errorf("a source that is down reads with %v", err)
	}
	f.Start(t)
	if got, err := read(t.Context(), s, o, 0, 8); err != nil || string(got) != "millrace" {
		t.Errorf("after it came back: %q, %v", got, err)
	}
}
