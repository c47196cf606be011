package wire

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func object(path string, size int64) *wirepb.Object {
	o := &wirepb.Object{Mount: "/m", Path: path, Size: size, MtimeNs: 7}
	o.Key = ObjectKey(o)
	return o
}

func TestAnyOtherIdentityHasAnotherKey(t *testing.T) {
	base := func() *wirepb.Object { return &wirepb.Object{Mount: "/m", Path: "p", Size: 1, MtimeNs: 2, Etag: "e"} }
	seen := map[string]string{ObjectKey(base()): "base"}
	for name, change := range map[string]func(*wirepb.Object){
		"mount":          func(o *wirepb.Object) { o.Mount = "/n" },
		"path":           func(o *wirepb.Object) { o.Path = "q" },
		"size":           func(o *wirepb.Object) { o.Size++ },
		"time":           func(o *wirepb.Object) { o.MtimeNs++ },
		"etag":           func(o *wirepb.Object) { o.Etag = "f" },
		"moved boundary": func(o *wirepb.Object) { o.Mount, o.Path = "/", "mp" },
	} {
		o := base()
		change(o)
		k := ObjectKey(o)
		if len(k) != 2*KeyBytes {
			t.Errorf("%s: key %q", name, k)
		}
		if other, ok := seen[k]; ok {
			t.Errorf("%s has the key of %s", name, other)
		}
		seen[k] = name
	}
	o := base()
	o.Key = "something"
	if ObjectKey(o) != ObjectKey(base()) {
		t.Error("the key depends on the key")
	}
	if got, want := ObjectKey(base()), "c8f4087925e433d52f7d5d0d1203e890"; got != want {
		t.Errorf("key %s, want %s: every cached file would be lost", got, want)
	}
}

// served is a handler over one file.
type served struct {
	file *os.File
	data []byte
	// before is called for each range; its error is the answer.
	before func(ctx context.Context, r Range) error

	mu     sync.Mutex
	leases int
}

type servedContent struct{ s *served }

func (c servedContent) File() *os.File { return c.s.file }
func (c servedContent) Close() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.leases--
	return nil
}

func (s *served) ServeRange(ctx context.Context, r Range) (Content, error) {
	if s.before != nil {
		if err := s.before(ctx, r); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leases++
	return servedContent{s}, nil
}

func newServed(t testing.TB, size int64) *served {
	t.Helper()
	data := make([]byte, size)
	rand.Read(data)
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &served{file: f, data: data}
}

// serve runs a server and returns its address.
func serve(t testing.TB, h RangeHandler, change func(*Server)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(h, slog.New(slog.DiscardHandler))
	if change != nil {
		change(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func newClient(t testing.TB, silence time.Duration) *Client {
	c := NewClient(ClientOptions{Silence: silence, SuspectFor: time.Hour})
	t.Cleanup(c.Close)
	return c
}

func TestRangesArriveWholeOverReusedConnections(t *testing.T) {
	const size = 9<<20 + 17
	s := newServed(t, size)
	addr := serve(t, s, nil)
	c := newClient(t, 0)
	o := object("a b/ü", size)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 20 {
				off := int64((w*7919 + i*104729) % (size - 1))
				n := min(int64(i*333333+1), size-off)
				p := make([]byte, n)
				if err := c.Fetch(t.Context(), addr, Range{Object: o, Off: off, N: n, Flags: FlagFetch}, p); err != nil {
					t.Error(err)
				} else if !bytes.Equal(p, s.data[off:off+n]) {
					t.Errorf("%d+%d differs", off, n)
				}
			}
		})
	}
	wg.Wait()
	if n := len(c.idle[addr]); n < 1 || n > 4 {
		t.Errorf("%d connections are kept", n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases != 0 {
		t.Errorf("%d leases are left", s.leases)
	}
}

func TestErrorsKeepTheirMeaningOverTheWire(t *testing.T) {
	s := newServed(t, 100)
	addr := serve(t, s, nil)
	c := newClient(t, 0)
	for _, want := range []error{source.ErrChanged, source.ErrNotExist, source.ErrDenied, source.ErrUnavailable, source.ErrInvalid, ErrNoSpace, ErrNotCached} {
		s.before = func(context.Context, Range) error { return fmt.Errorf("read x: %w", want) }
		err := c.Fetch(t.Context(), addr, Range{Object: object("x", 100), N: 100}, make([]byte, 100))
		if !errors.Is(err, want) || errors.Is(err, ErrPeer) || err.Error() != "read x: "+want.Error() {
			t.Errorf("want %v, got %v", want, err)
		}
	}
	s.before = func(context.Context, Range) error { return errors.New(string(make([]byte, 5000))) }
	if err := c.Fetch(t.Context(), addr, Range{Object: object("x", 100), N: 100}, make([]byte, 100)); err == nil || errors.Is(err, ErrPeer) {
		t.Errorf("an error that says much: %v", err)
	}
	if c.Suspect(addr) {
		t.Error("a peer that answers is suspect")
	}
}

func TestASlowSourceIsWaitedForAndAHungPeerIsNot(t *testing.T) {
	s := newServed(t, 100)
	s.before = func(ctx context.Context, _ Range) error {
		select {
		case <-time.After(400 * time.Millisecond):
		case <-ctx.Done():
		}
		return nil
	}
	addr := serve(t, s, func(s *Server) { s.beat = 20 * time.Millisecond })
	c := newClient(t, 150*time.Millisecond)
	r := Range{Object: object("x", 100), N: 100}
	if err := c.Fetch(t.Context(), addr, r, make([]byte, 100)); err != nil {
		t.Errorf("a slow source: %v", err)
	}
	hung, err := net.Listen("tcp", "127.0.0.1:0") // accepts, by its backlog, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	start := time.Now()
	if err := c.Fetch(t.Context(), hung.Addr().String(), r, make([]byte, 100)); !errors.Is(err, ErrPeer) {
		t.Errorf("a hung peer: %v", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("a hung peer took %s", took)
	}
	if !c.Suspect(hung.Addr().String()) {
		t.Error("a hung peer is not suspect")
	}
}

func TestAPeerThatStopsHalfWayFails(t *testing.T) {
	for name, answer := range map[string][]byte{
		"nothing":     nil,
		"half header": appendAnswer(nil, answer{length: 100})[:9],
		"half range":  append(appendAnswer(nil, answer{length: 100}), make([]byte, 50)...),
		"nonsense":    bytes.Repeat([]byte("x"), 64),
		"too much":    appendAnswer(nil, answer{length: 1 << 60}),
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				io.ReadFull(conn, make([]byte, requestHeader))
				conn.Write(answer)
				conn.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, conn)
				conn.Close()
			})
			c := newClient(t, 500*time.Millisecond)
			if err := c.Fetch(t.Context(), l.Addr().String(), Range{Object: object("x", 100), N: 100}, make([]byte, 100)); !errors.Is(err, ErrPeer) {
				t.Error(err)
			}
		})
	}
}

func TestARestartedPeerIsNotHeldAgainstIt(t *testing.T) {
	s := newServed(t, 100)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	c := newClient(t, 0)
	for round := range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- NewServer(s, slog.New(slog.DiscardHandler)).Serve(ctx, l) }()
		if err := c.Fetch(t.Context(), addr, Range{Object: object("x", 100), N: 100}, make([]byte, 100)); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		cancel()
		<-done
		if l, err = net.Listen("tcp", addr); err != nil {
			t.Fatal(err)
		}
	}
	l.Close()
}

func TestACancelledFetchReturnsAtOnceAndBlamesNobody(t *testing.T) {
	s := newServed(t, 100)
	s.before = func(ctx context.Context, _ Range) error {
		<-ctx.Done()
		return ctx.Err()
	}
	addr := serve(t, s, func(s *Server) { s.beat = 10 * time.Millisecond })
	c := newClient(t, time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Fetch(ctx, addr, Range{Object: object("x", 100), N: 100}, make([]byte, 100)); !errors.Is(err, context.DeadlineExceeded) || c.Suspect(addr) {
		t.Errorf("%v, suspect %t", err, c.Suspect(addr))
	}
}

func FuzzRequest(f *testing.F) {
	good, _ := appendRequest(nil, Range{Object: object("x", 100), N: 100, Flags: FlagFetch})
	f.Add(good)
	f.Add([]byte("MRq1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < requestHeader {
			return
		}
		r, err := parseRequest(b[:requestHeader], b[requestHeader:])
		if err != nil {
			return
		}
		if r.N <= 0 || r.N > MaxRange || r.Off < 0 || r.Off+r.N > r.Object.GetSize() || r.Object.GetKey() != ObjectKey(r.Object) {
			t.Errorf("took %+v", r)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(appendAnswer(nil, answer{length: 100}), int64(100))
	f.Fuzz(func(t *testing.T, b []byte, n int64) {
		if len(b) != answerHeader || n < 0 {
			return
		}
		if a, err := parseAnswer(b, n); err == nil && a.length != uint64(n) && a.length > maxMessage {
			t.Errorf("took %+v for %d", a, n)
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add(message{kind: kindOpen, id: 1, n: 5, body: []byte("x")}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil {
			return
		}
		if !bytes.Equal(m.append(nil), b) {
			t.Errorf("%x becomes %+v", b, m)
		}
		parseOpen(m)
	})
}

// BenchmarkFetch compares with BenchmarkRawSendfile: the target is 0.80 of it.
func BenchmarkFetch(b *testing.B) {
	const size, n = 256 << 20, 4 << 20
	s := newServed(b, size)
	addr := serve(b, s, nil)
	c := newClient(b, 0)
	o := object("x", size)
	p := make([]byte, n)
	b.SetBytes(n)
	for i := 0; b.Loop(); i++ {
		if err := c.Fetch(b.Context(), addr, Range{Object: o, Off: int64(i) * n % size, N: n, Flags: FlagFetch}, p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRawSendfile asks with one byte and is answered by sendfile alone.
func BenchmarkRawSendfile(b *testing.B) {
	const size, n = 256 << 20, 4 << 20
	s := newServed(b, size)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		one := make([]byte, 1)
		for i := int64(0); ; i++ {
			if _, err := io.ReadFull(conn, one); err != nil {
				return
			}
			s.file.Seek(i*n%size, io.SeekStart)
			if _, err := conn.(*net.TCPConn).ReadFrom(io.LimitReader(s.file, n)); err != nil {
				return
			}
		}
	})
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	p := make([]byte, n)
	b.SetBytes(n)
	for b.Loop() {
		conn.Write([]byte{1})
		if _, err := io.ReadFull(conn, p); err != nil {
			b.Fatal(err)
		}
	}
}
