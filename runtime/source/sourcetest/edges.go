package sourcetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/millrace/millrace/runtime/source"
)

// bound is how long anything may take that must not hang. It is long because
// machines are busy.
const bound = 2 * time.Minute

// within fails the test if f has not returned in time.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { // ends with f; if f hangs the test has failed
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(bound):
		t.Fatalf("%s takes longer than %v", what, bound)
	}
}

func edges(t *testing.T, s source.Store) {
	for _, name := range []string{"big.bin", "small.txt", "empty"} {
		o, err := s.Stat(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		const mib = 1 << 20
		for _, r := range [][2]int64{
			{0, 0}, {0, 1}, {1, 1}, {o.Size, 0}, {o.Size, 10}, {o.Size + 1, 10}, {o.Size / 2, 0},
			{mib - 1, 2}, {mib, 1}, {4*mib - 1, mib}, {4 * mib, 2 * mib}, {o.Size - 1, 1}, {o.Size - 1, 2},
			{0, math.MaxInt64}, {1, math.MaxInt64}, {o.Size / 3, math.MaxInt64},
		} {
			if r[0] < 0 || r[0] > o.Size+1 {
				continue
			}
			start := min(r[0], o.Size)
			want := tree[name][start : start+min(r[1], o.Size-start)]
			if got, err := read(t.Context(), s, o, r[0], r[1]); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %d bytes at %d: %d bytes, %v", name, r[1], r[0], len(got), err)
			}
		}
	}
	// However little is taken at once.
	o, err := s.Stat(t.Context(), "dir/b")
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Open(t.Context(), o, 100, 800)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, err := r.Read(nil); n != 0 || err != nil {
		t.Errorf("no bytes wanted: %d, %v", n, err)
	}
	if got, err := io.ReadAll(iotest.OneByteReader(r)); err != nil || !bytes.Equal(got, tree["dir/b"][100:900]) {
		t.Errorf("byte by byte: %d bytes, %v", len(got), err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %d, %v", n, err)
	}
}

func directories(t *testing.T, s source.Store) {
	for _, dir := range []string{"", "dir", "dir/sub", "dir/sub/deep"} {
		if o, err := s.Stat(t.Context(), dir); err != nil || !o.Dir || o.Path != dir || o.Size != 0 {
			t.Errorf("stat %q: %+v, %v", dir, o, err)
		}
	}
	if err := s.List(t.Context(), "small.txt", func(o source.Object) error {
		return fmt.Errorf("it has %s", o.Path)
	}); !errors.Is(err, source.ErrNotExist) {
		t.Errorf("a file lists with %v", err)
	}
}

func names(t *testing.T, f Fixture, s source.Store) {
	deep := "deep" + strings.Repeat("/d", 40) + "/bottom"
	want := []string{
		"names/" + strings.Repeat("l", 250) + ".bin", // 254 bytes
		"names/" + strings.Repeat("ü", 60),
		"names/e\u0301", "names/\u00e9", // two names that look alike
		"names/日本語 ファイル", "names/🏞️.png", "names/ שלום", "names/-dash", "names/~tilde", "names/semi;colon,comma",
		"names/[brackets]{braces}(parens)", "names/star*", "names/equals=at@dollar$", "names/..hidden", "names/dot.", "names/quote'", "names/percent%41",
		deep,
	}
	for i, p := range want {
		f.Put(t, p, pattern(100+i, byte(i)))
	}
	defer func() {
		for _, p := range want {
			f.Remove(t, p)
		}
	}()
	var got []string
	if err := s.List(t.Context(), "names", func(o source.Object) error {
		got = append(got, o.Path)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, p := range want {
		if path.Dir(p) == "names" && !slices.Contains(got, p) && (f.Unlisted == nil || !f.Unlisted(p)) {
			t.Errorf("%q is not listed in %q", p, got)
		}
	}
	for i, p := range want {
		o, err := s.Stat(t.Context(), p)
		if err != nil {
			t.Errorf("stat %q: %v", p, err)
			continue
		}
		if data, err := read(t.Context(), s, o, 0, o.Size); err != nil || !bytes.Equal(data, pattern(100+i, byte(i))) {
			t.Errorf("read %q: %d bytes, %v", p, len(data), err)
		}
	}
	found := false
	if err := walkerOf(s).Walk(t.Context(), "deep", func(o source.Object) error {
		found = found || o.Path == deep
		return nil
	}); err != nil || !found {
		t.Errorf("the walk found the bottom of the tree: %v, %v", found, err)
	}
}

// walkerOf walks s, by listing if it has no walk of its own.
func walkerOf(s source.Store) source.Walker {
	if w, ok := s.(source.Walker); ok {
		return w
	}
	return walker{s}
}

func crowd(t *testing.T, s source.Store) {
	o, err := s.Stat(t.Context(), "big.bin")
	if err != nil {
		t.Fatal(err)
	}
	want := tree["big.bin"]
	within(t, "64 readers", func() {
		var wg sync.WaitGroup
		for i := range int64(64) {
			wg.Go(func() {
				off := i * 79_000
				got, err := read(t.Context(), s, o, off, 1<<19)
				if err != nil || !bytes.Equal(got, want[off:min(off+1<<19, o.Size)]) {
					t.Errorf("reader %d: %d bytes, %v", i, len(got), err)
				}
			})
			wg.Go(func() {
				if _, err := s.Stat(t.Context(), "dir/a"); err != nil {
					t.Errorf("stat beside readers: %v", err)
				}
			})
		}
		wg.Wait()
	})
}

func cancelledReads(t *testing.T, s source.Store) {
	o, err := s.Stat(t.Context(), "big.bin")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("before they begin", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		within(t, "a cancelled read", func() {
			if _, err := read(ctx, s, o, 0, o.Size); !errors.Is(err, context.Canceled) {
				t.Errorf("read: %v", err)
			}
			if _, err := s.Stat(ctx, "small.txt"); !errors.Is(err, context.Canceled) {
				t.Errorf("stat: %v", err)
			}
		})
	})
	t.Run("while they are read", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		within(t, "a cancelled read", func() {
			r, err := s.Open(ctx, o, 0, o.Size)
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			head := make([]byte, 1000)
			if _, err := io.ReadFull(r, head); err != nil {
				t.Error(err)
				return
			}
			cancel()
			rest, err := io.ReadAll(r)
			switch got := append(head, rest...); {
			case err == nil && !bytes.Equal(got, tree["big.bin"]):
				t.Errorf("it ends without an error after %d bytes", len(got))
			case err != nil && !errors.Is(err, context.Canceled):
				t.Errorf("error %v", err)
			case !bytes.HasPrefix(tree["big.bin"], got):
				t.Error("other bytes")
			}
		})
	})
	t.Run("by closing them", func(t *testing.T) {
		within(t, "a read that is closed", func() {
			for i := range 8 {
				r, err := s.Open(t.Context(), o, 0, o.Size)
				if err != nil {
					t.Error(err)
					return
				}
				var wg sync.WaitGroup
				begun := make(chan struct{})
				wg.Go(func() {
					p := make([]byte, 1<<16)
					for n := 0; ; n++ {
						_, err := r.Read(p)
						if n == i {
							close(begun)
						}
						if err != nil {
							return
						}
					}
				})
				<-begun
				if err := r.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
				wg.Wait()
			}
		})
	})
}

func changedMidway(t *testing.T, f Fixture, s source.Store) {
	was, will := pattern(6<<20, 20), pattern(6<<20, 21)
	f.Put(t, "midway", was)
	defer f.Remove(t, "midway")
	o, err := s.Stat(t.Context(), "midway")
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Open(t.Context(), o, 0, o.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	head := make([]byte, 10_000)
	if _, err := io.ReadFull(r, head); err != nil {
		t.Fatal(err)
	}
	f.Put(t, "midway", will)
	within(t, "a read of what was replaced", func() {
		rest, err := io.ReadAll(r)
		// A server may go on with the version that it has open.
		if got := append(head, rest...); err == nil && !bytes.Equal(got, was) {
			t.Errorf("%d bytes without an error, and not of one version", len(got))
		}
		if err != nil && !errors.Is(err, source.ErrChanged) && !errors.Is(err, source.ErrNotExist) {
			t.Errorf("error %v", err)
		}
	})
}

func denied(t *testing.T, f Fixture, s source.Store) {
	f.Put(t, "private", pattern(100, 22))
	defer f.Remove(t, "private")
	o, err := s.Stat(t.Context(), "private")
	if err != nil {
		t.Fatal(err)
	}
	f.Deny(t, "private")
	if _, err := read(t.Context(), s, o, 0, o.Size); !errors.Is(err, source.ErrDenied) {
		t.Errorf("error %v", err)
	}
}

func downMidway(t *testing.T, f Fixture, s source.Store) {
	o, err := s.Stat(t.Context(), "big.bin")
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Open(t.Context(), o, 0, o.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	head := make([]byte, 1000)
	if _, err := io.ReadFull(r, head); err != nil {
		t.Fatal(err)
	}
	f.Stop(t)
	within(t, "a source that went down", func() {
		rest, err := io.ReadAll(r)
		switch got := append(head, rest...); {
		case err == nil && !bytes.Equal(got, tree["big.bin"]):
			t.Errorf("it ends without an error after %d bytes", len(got))
		case err != nil && !errors.Is(err, source.ErrUnavailable):
			t.Errorf("read: %v", err)
		}
		if _, err := s.Stat(t.Context(), "dir/sub/deep/er/c"); err != nil && !errors.Is(err, source.ErrUnavailable) {
			t.Errorf("stat: %v", err)
		}
		if err := s.List(t.Context(), "dir/sub/deep/er", func(source.Object) error { return nil }); err != nil && !errors.Is(err, source.ErrUnavailable) {
			t.Errorf("list: %v", err)
		}
	})
	f.Start(t)
	if got, err := read(t.Context(), s, o, o.Size-100, 100); err != nil || !bytes.Equal(got, tree["big.bin"][o.Size-100:]) {
		t.Errorf("after it came back: %d bytes, %v", len(got), err)
	}
}
