package wire

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

const localBlock = 1 << 20

// localServed hands out one file of three blocks; Ensure makes blocks present.
type localServed struct {
	*served

	mu      sync.Mutex
	open    error
	ensure  func(ctx context.Context, off, n int64) error
	present Bitmap
}

func (s *localServed) OpenLocal(_ context.Context, o *wirepb.Object, first int64) (LocalContent, error) {
	s.mu.Lock()
	err := s.open
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	c, _ := s.ServeRange(context.Background(), Range{})
	return localContent{c, s}, nil
}

func (s *localServed) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

type localContent struct {
	Content
	s *localServed
}

func (c localContent) BlockBytes() int64 { return localBlock }
func (c localContent) Sent()             {}
func (c localContent) Blocks() (Bitmap, bool) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return bytes.Clone(c.s.present), c.s.present[0] == 7
}
func (c localContent) Ensure(ctx context.Context, off, n int64) error {
	c.s.mu.Lock()
	ensure := c.s.ensure
	c.s.mu.Unlock()
	if ensure != nil {
		if err := ensure(ctx, off, n); err != nil {
			return err
		}
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for i := off / localBlock; i*localBlock < off+n; i++ {
		c.s.present.Set(i)
	}
	return nil
}

// serveLocal runs a local server until stop or the end of the test.
func serveLocal(t testing.TB, path string, h LocalHandler) (stop func()) {
	t.Helper()
	l, err := ListenLocal(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := NewLocalServer(h, slog.New(slog.DiscardHandler))
	s.beat = 20 * time.Millisecond
	go func() { done <- s.Serve(ctx, l) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func dial(t testing.TB, path string, silence time.Duration) *Local {
	t.Helper()
	l, err := DialLocal(t.Context(), path, silence)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

func (s *localServed) leased() int {
	s.served.mu.Lock()
	defer s.served.mu.Unlock()
	return s.leases
}

func TestADescriptorIsPassedAndItsBlocksArePresentOnceEnsured(t *testing.T) {
	const size = 3*localBlock - 5
	s := &localServed{served: newServed(t, size), present: Bitmap{0b010}}
	path := filepath.Join(t.TempDir(), "s")
	stop := serveLocal(t, path, s)
	l := dial(t, path, 0)
	f, err := l.Open(t.Context(), object("x", size), 0)
	if err != nil {
		t.Fatal(err)
	}
	if f.Complete() || !f.Has(localBlock, localBlock) || f.Has(localBlock, localBlock+1) || f.Has(0, 1) {
		t.Error("wrong blocks")
	}
	if err := f.Ensure(t.Context(), 0, 10); err != nil || !f.Has(0, 2*localBlock) {
		t.Error(err)
	}
	if err := f.Ensure(t.Context(), 2*localBlock, 10*localBlock); err != nil || !f.Has(0, size) {
		t.Errorf("beyond the end: %v", err)
	}
	if !f.Complete() {
		t.Error("a file whose blocks all came is not complete")
	}
	got := make([]byte, size)
	if _, err := f.File().ReadAt(got, 0); err != nil || !bytes.Equal(got, s.data) {
		t.Errorf("wrong bytes: %v", err)
	}
	whole, err := l.Open(t.Context(), object("x", size), 0)
	if err != nil || !whole.Complete() || !whole.Has(0, size) {
		t.Fatalf("complete: %v", err)
	}
	if s.leased() != 2 {
		t.Errorf("%d leases", s.leased())
	}
	whole.Close()
	until(t, "a closed handle is still leased", func() bool { return s.leased() == 1 })
	stop()
	if s.leased() != 0 {
		t.Error("a lease outlives its connection")
	}
	<-l.Done()
	if err := f.Ensure(t.Context(), 0, size); err != nil {
		t.Errorf("what was present is lost with the worker: %v", err)
	}
	if _, err := f.File().ReadAt(got, 0); err != nil || !bytes.Equal(got, s.data) {
		t.Errorf("wrong bytes: %v", err)
	}
	f.Close()
	if _, err := l.Open(t.Context(), object("x", size), 0); !errors.Is(err, ErrPeer) {
		t.Errorf("open at a dead worker: %v", err)
	}
}

func TestABitmapIsFullWhenEveryBlockIsSet(t *testing.T) {
	for _, n := range []int64{0, 1, 7, 8, 9, 16, 20} {
		b := make(Bitmap, BitmapBytes(n, 1))
		for i := range n {
			if b.Full(n) || b.Has(i) {
				t.Errorf("full with %d of %d", i, n)
			}
			b.Set(i)
		}
		if !b.Full(n) {
			t.Errorf("not full with all of %d", n)
		}
	}
}

func TestManyHandlesShareAConnection(t *testing.T) {
	s := &localServed{served: newServed(t, 3*localBlock), present: Bitmap{0}}
	path := filepath.Join(t.TempDir(), "s")
	serveLocal(t, path, s)
	l := dial(t, path, 0)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 50 {
				f, err := l.Open(t.Context(), object("x", 3*localBlock), 0)
				if err != nil {
					t.Error(err)
					return
				}
				if err := f.Ensure(t.Context(), localBlock, 1); err != nil {
					t.Error(err)
				}
				f.Close()
			}
		})
	}
	wg.Wait()
	until(t, "leases are left", func() bool { return s.leased() == 0 })
}

func TestAnswersThatNobodyWaitsForAreGivenBack(t *testing.T) {
	release := make(chan struct{})
	s := &localServed{served: newServed(t, 3*localBlock), present: Bitmap{0}}
	s.before = func(context.Context, Range) error { <-release; return nil }
	path := filepath.Join(t.TempDir(), "s")
	serveLocal(t, path, s)
	l := dial(t, path, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := l.Open(ctx, object("x", 3*localBlock), 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	close(release)
	f, err := l.Open(t.Context(), object("x", 3*localBlock), 0)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the abandoned handle is still leased", func() bool { return s.leased() == 1 })
	f.Close()
}

func TestErrorsOfTheLocalWorkerKeepTheirMeaning(t *testing.T) {
	s := &localServed{served: newServed(t, 3*localBlock), present: Bitmap{0}}
	path := filepath.Join(t.TempDir(), "s")
	serveLocal(t, path, s)
	l := dial(t, path, 0)
	f, err := l.Open(t.Context(), object("x", 3*localBlock), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s.set(func() { s.ensure = func(context.Context, int64, int64) error { return source.ErrChanged } })
	if err := f.Ensure(t.Context(), 0, 1); !errors.Is(err, source.ErrChanged) {
		t.Error(err)
	}
	s.set(func() { s.open = ErrNoSpace })
	if _, err := l.Open(t.Context(), object("x", 3*localBlock), 0); !errors.Is(err, ErrNoSpace) {
		t.Error(err)
	}
	bad := object("x", 3*localBlock)
	bad.Key = "0"
	if _, err := l.Open(t.Context(), bad, 0); err == nil {
		t.Error("a wrong key was opened")
	}
}

func TestASlowWorkerIsWaitedForAndAHungOneIsNot(t *testing.T) {
	s := &localServed{served: newServed(t, 3*localBlock), present: Bitmap{0}}
	path := filepath.Join(t.TempDir(), "s")
	serveLocal(t, path, s)
	l := dial(t, path, 150*time.Millisecond)
	f, err := l.Open(t.Context(), object("x", 3*localBlock), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s.set(func() {
		s.ensure = func(context.Context, int64, int64) error { time.Sleep(500 * time.Millisecond); return nil }
	})
	if err := f.Ensure(t.Context(), 0, 1); err != nil {
		t.Errorf("a slow worker: %v", err)
	}
	hung, err := ListenLocal(path + "2")
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	start := time.Now()
	if _, err := DialLocal(t.Context(), path+"2", 150*time.Millisecond); !errors.Is(err, ErrPeer) {
		t.Errorf("a hung worker: %v", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("a hung worker took %s", took)
	}
}

func TestASocketIsTakenOverFromWhoLeftIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := &localServed{served: newServed(t, 3*localBlock), present: Bitmap{7}}
	serveLocal(t, path, s)
	f, err := dial(t, path, 0).Open(t.Context(), object("x", 3*localBlock), 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// BenchmarkLocalOpen is what an open costs over the socket: 40 µs were seen.
func BenchmarkLocalOpen(b *testing.B) {
	s := &localServed{served: newServed(b, 3*localBlock), present: Bitmap{7}}
	path := filepath.Join(b.TempDir(), "s")
	serveLocal(b, path, s)
	l := dial(b, path, 0)
	o := object("x", 3*localBlock)
	for b.Loop() {
		f, err := l.Open(b.Context(), o, 0)
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}
