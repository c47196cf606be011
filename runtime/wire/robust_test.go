package wire

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// liar is a peer that does with each connection what it likes, after it has
// taken a request.
func liar(t *testing.T, lie func(c net.Conn)) string {
	t.Helper()
	return liarOf(t, func(c net.Conn, in *bufio.Reader) {
		if _, err := readRequest(in); err == nil {
			lie(c)
		}
	})
}

// liarOf is a peer that does with each connection what it likes.
func liarOf(t *testing.T, lie func(c net.Conn, in *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				lie(c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

func TestAPeerThatLiesCostsBoundedTimeAndNoWrongByte(t *testing.T) {
	const size = 1 << 20
	good := bytes.Repeat([]byte("right"), size)[:size]
	answerOf := func(a answer) []byte { return appendAnswer(nil, a) }
	sums := func(each uint32, crcs ...uint32) []byte {
		b := binary.LittleEndian.AppendUint32(nil, each)
		for _, c := range crcs {
			b = binary.LittleEndian.AppendUint32(b, c)
		}
		return b
	}
	write := func(c net.Conn, parts ...[]byte) {
		for _, p := range parts {
			if _, err := c.Write(p); err != nil {
				return
			}
		}
		io.Copy(io.Discard, c)
	}
	for name, lie := range map[string]func(c net.Conn){
		"a shorter range":         func(c net.Conn) { write(c, answerOf(answer{length: size - 1}), good[:size-1]) },
		"a longer range":          func(c net.Conn) { write(c, answerOf(answer{length: size + 1}), good, good[:1]) },
		"a huge range":            func(c net.Conn) { write(c, answerOf(answer{length: 1<<64 - 1})) },
		"more than was asked for": func(c net.Conn) { write(c, answerOf(answer{length: size}), good, answerOf(answer{length: 1})) },
		"a message without end":   func(c net.Conn) { write(c, answerOf(answer{status: wirepb.Status_STATUS_DENIED, length: 1 << 40})) },
		"a message that stops": func(c net.Conn) {
			write(c, answerOf(answer{status: wirepb.Status_STATUS_DENIED, length: 1000}), good[:10])
		},
		"a wrong checksum":         func(c net.Conn) { write(c, answerOf(answer{length: size, sums: true}), sums(0, 1), good) },
		"wrong checksums":          func(c net.Conn) { write(c, answerOf(answer{length: size, sums: true}), sums(size/2, 1, 2), good) },
		"a checksum for each byte": func(c net.Conn) { write(c, answerOf(answer{length: size, sums: true}), sums(1), good) },
		"checksums and no bytes":   func(c net.Conn) { write(c, answerOf(answer{length: size, sums: true}), sums(0, 1)) },
		"checksums of an error":    func(c net.Conn) { write(c, answerOf(answer{status: wirepb.Status_STATUS_DENIED, sums: true})) },
		"garbage":                  func(c net.Conn) { write(c, good) },
		"nothing":                  func(c net.Conn) { io.Copy(io.Discard, c) },
		"an end":                   func(net.Conn) {},
		"a status nobody knows":    func(c net.Conn) { write(c, answerOf(answer{status: 999, length: 3}), []byte("hey")) },
		"work without end": func(c net.Conn) {
			for {
				if _, err := c.Write(answerOf(answer{status: statusWorking})); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		},
		"a trickle": func(c net.Conn) {
			c.Write(answerOf(answer{length: size}))
			for {
				if _, err := c.Write(good[:1]); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		},
		"a header that trickles": func(c net.Conn) {
			for _, b := range answerOf(answer{length: size}) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := liar(t, lie)
			c := NewClient(ClientOptions{Silence: 500 * time.Millisecond, Patience: time.Second})
			defer c.Close()
			p := make([]byte, size)
			start := time.Now()
			err := c.Fetch(t.Context(), addr, Range{Object: object("x", size), N: size}, p)
			took := time.Since(start)
			if err == nil && !bytes.Equal(p, good) {
				t.Error("wrong bytes are taken for right ones")
			}
			if err == nil && name != "more than was asked for" { // those after the range may come late
				t.Error("it is believed")
			}
			if took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// fetchMany asks for many ranges in one exchange.
func fetchMany(ctx context.Context, c *Client, addr string, ranges []Range, dst [][]byte) []error {
	all, errs := make([]*fetch, len(ranges)), make([]error, len(ranges))
	for i, r := range ranges {
		if all[i], errs[i] = newFetch(r, dst[i]); errs[i] != nil {
			return errs
		}
	}
	failed := c.all(ctx, addr, all)
	for i, f := range all {
		if errs[i] = f.err; !f.done {
			errs[i] = failed
		}
	}
	return errs
}

// TestOfManyRangesEachHasItsOwnAnswer asks for ranges that are there, that are
// not, and that take their time.
func TestOfManyRangesEachHasItsOwnAnswer(t *testing.T) {
	const size = 9 << 20
	s := newServed(t, size)
	s.before = func(ctx context.Context, r Range) error {
		switch r.Off % 3 {
		case 1:
			return fmt.Errorf("at %d: %w", r.Off, ErrNotCached)
		case 2:
			time.Sleep(30 * time.Millisecond)
		}
		return nil
	}
	var served atomic.Int64
	addr := serve(t, summed{s}, func(s *Server) {
		s.beat = 10 * time.Millisecond
		s.opts.Served = func(Range, time.Duration, int64, error) { served.Add(1) }
	})
	c := newClient(t, 0)
	o := object("x", size)
	for _, many := range []int{1, 2, 31, 100} {
		ranges, dst := make([]Range, many), make([][]byte, many)
		for i := range ranges {
			n := []int64{1, 4096, smallRange, smallRange + 1, 3 << 20}[i%5]
			ranges[i] = Range{Object: o, Off: int64(i) * 70_001 % (size - n), N: n}
			dst[i] = make([]byte, n)
		}
		start := time.Now()
		for i, err := range fetchMany(t.Context(), c, addr, ranges, dst) {
			r := ranges[i]
			switch {
			case r.Off%3 == 1:
				if !errors.Is(err, ErrNotCached) {
					t.Errorf("%d of %d: %v", i, many, err)
				}
			case err != nil:
				t.Errorf("%d of %d: %v", i, many, err)
			case !bytes.Equal(dst[i], s.data[r.Off:r.Off+r.N]):
				t.Errorf("%d of %d: wrong bytes", i, many)
			}
		}
		if slow := time.Duration(many) * 10 * time.Millisecond; many == 100 && time.Since(start) > slow+20*time.Second {
			t.Errorf("%d ranges took %s: one waited for the other", many, time.Since(start))
		}
	}
	until(t, "not every range was counted", func() bool { return served.Load() == 134 })
	if n := len(c.idle[addr]); n != 1 {
		t.Errorf("%d connections are kept", n)
	}
}

func TestRangesWithinOneAnswerAreAllAskedForAgainWhenThePeerDies(t *testing.T) {
	addr := liar(t, func(c net.Conn) {
		c.Write(append(appendAnswer(nil, answer{length: 3}), "abc"...))
	})
	c := newClient(t, 0)
	dst := [][]byte{make([]byte, 3), make([]byte, 3)}
	r := Range{Object: object("x", 3), N: 3}
	errs := fetchMany(t.Context(), c, addr, []Range{r, r}, dst)
	if errs[0] != nil || string(dst[0]) != "abc" || !errors.Is(errs[1], ErrPeer) {
		t.Errorf("%v, %q", errs, dst)
	}
}

func TestBytesThatDoNotVerifyAreAskedForOnceMoreWithDoubt(t *testing.T) {
	s := newServed(t, 2*sumsBlock)
	var doubts atomic.Int64
	s.before = func(_ context.Context, r Range) error {
		if r.Flags&FlagDoubt != 0 {
			doubts.Add(1)
			s.sums.Clear() // it has looked, and made it good
		}
		return nil
	}
	s.sums.Store(int64(sumsBlock), uint32(1))
	addr := serve(t, summed{s}, nil)
	c := newClient(t, 0)
	p := make([]byte, 2*sumsBlock)
	r := Range{Object: object("x", 2*sumsBlock), N: 2 * sumsBlock}
	if err := c.Fetch(t.Context(), addr, r, p); err != nil || !bytes.Equal(p, s.data) || doubts.Load() != 1 {
		t.Errorf("%v, %d doubts", err, doubts.Load())
	}
	s.before = nil
	s.sums.Store(int64(0), uint32(1))
	if err := c.Fetch(t.Context(), addr, r, p); !errors.Is(err, ErrCorrupt) || c.Suspect(addr) {
		t.Errorf("%v, suspect %t", err, c.Suspect(addr))
	}
}

// rudeServer runs a server and gives connections to it.
func rudeServer(t *testing.T, h RangeHandler) (s *Server, dial func() net.Conn) {
	t.Helper()
	var made *Server
	addr := serve(t, h, func(s *Server) { made = s })
	return made, func() net.Conn {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
}

func TestAClientThatTricklesGarblesOrDoesNotReadLosesItsConnection(t *testing.T) {
	request := func(change func([]byte)) []byte {
		b, err := appendRequest(nil, Range{Object: object("x", 64<<20), N: 64 << 20})
		if err != nil {
			t.Fatal(err)
		}
		change(b)
		return b
	}
	for name, rude := range map[string]func(c net.Conn){
		"garbage":              func(c net.Conn) { c.Write(bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 100)) },
		"another version":      func(c net.Conn) { c.Write(request(func(b []byte) { b[3] = '9' })) },
		"a huge object":        func(c net.Conn) { c.Write(request(func(b []byte) { b[6], b[7] = 0xff, 0xff })) },
		"a range beyond":       func(c net.Conn) { c.Write(request(func(b []byte) { b[8] = 1 })) },
		"a range without end":  func(c net.Conn) { c.Write(request(func(b []byte) { b[19] = 0xff })) },
		"an object of another": func(c net.Conn) { c.Write(request(func(b []byte) { b[len(b)-1] ^= 1 })) },
		"half a request":       func(c net.Conn) { c.Write(request(func([]byte) {})[:30]) },
		"a request by bytes": func(c net.Conn) {
			for _, b := range request(func([]byte) {}) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(300 * time.Millisecond)
			}
		},
		"requests, and reads nothing": func(c net.Conn) {
			c.(*net.TCPConn).SetReadBuffer(4096)
			for range 3 {
				c.Write(request(func([]byte) {}))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			served := newServed(t, 64<<20)
			s, dial := rudeServer(t, served)
			c := dial()
			go rude(c)
			if name == "requests, and reads nothing" {
				until(t, "nothing is served", func() bool { return s.Connections() == 1 })
			} else {
				c.SetReadDeadline(time.Now().Add(2 * time.Minute))
				if _, err := io.Copy(io.Discard, c); isTimeout(err) {
					t.Fatal("it keeps its connection")
				}
			}
			for deadline := time.Now().Add(2 * time.Minute); s.Connections() > 0; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("it keeps its connection")
				}
			}
			served.mu.Lock()
			defer served.mu.Unlock()
			if served.leases != 0 {
				t.Errorf("%d leases are left", served.leases)
			}
		})
	}
}

// TestAThousandIdleConnectionsAreCheap also fills the share of one host: one
// more takes the place of the one that was idle longest.
func TestAThousandIdleConnectionsAreCheap(t *testing.T) {
	served := newServed(t, 1<<20)
	s, dial := rudeServer(t, served)
	measure := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	before := measure()
	request, err := appendRequest(nil, Range{Object: object("x", 1<<20), N: 1 << 20, Flags: flagSums})
	if err != nil {
		t.Fatal(err)
	}
	use := func(c net.Conn) error {
		if _, err := c.Write(request); err != nil {
			return err
		}
		c.SetReadDeadline(time.Now().Add(2 * time.Minute))
		_, err := io.CopyN(io.Discard, c, answerHeader+1<<20)
		return err
	}
	conns := make([]net.Conn, maxHostConns)
	for i := range conns {
		conns[i] = dial()
		if err := use(conns[i]); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "they are not all served", func() bool { return s.Connections() == maxHostConns })
	if grown := int64(measure()) - int64(before); grown > 32<<20 {
		t.Errorf("%d idle connections take %d bytes", maxHostConns, grown)
	} else {
		t.Logf("%d idle connections take %d bytes, both ends of them", maxHostConns, grown)
	}
	if err := use(dial()); err != nil {
		t.Errorf("one more: %v", err)
	}
	if err := use(conns[len(conns)-1]); err != nil {
		t.Errorf("one that was used lately: %v", err)
	}
	conns[0].SetReadDeadline(time.Now().Add(2 * time.Minute))
	if _, err := conns[0].Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the one that was idle longest: %v", err)
	}
	if n := s.Connections(); n > maxHostConns {
		t.Errorf("%d connections", n)
	}
}

// FuzzAnswers has a client take whatever a peer sends.
func FuzzAnswers(f *testing.F) {
	whole := append(appendAnswer(nil, answer{length: 5, sums: true}), appendSums(nil, Sums{CRCs: []uint32{0}})...)
	f.Add(append(whole, "hello"...), 5)
	f.Add(append(appendAnswer(nil, answer{status: wirepb.Status_STATUS_DENIED, length: 2}), "no"...), 5)
	f.Add(appendAnswer(appendAnswer(nil, answer{status: statusWorking}), answer{length: 1}), 1)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n < 0 || n > 1<<20 {
			return
		}
		c := NewClient(ClientOptions{})
		one := &fetch{Range: Range{Object: &wirepb.Object{Path: "x"}}, dst: make([]byte, n)}
		in := bufio.NewReader(bytes.NewReader(b))
		_, said, err := c.take(in, nil, one, func(time.Duration) {})
		if err != nil && !errors.Is(err, ErrPeer) {
			t.Error(err)
		}
		if err == nil && said == nil && n > 0 && !bytes.Contains(b, one.dst) {
			t.Error("bytes that nobody sent")
		}
	})
}

// FuzzRequests has a server take whatever a client sends.
func FuzzRequests(f *testing.F) {
	good, _ := appendRequest(nil, Range{Object: object("x", 100), N: 100, Flags: FlagFetch})
	f.Add(bytes.Repeat(good, 3))
	f.Add(append(bytes.Clone(good), good[:10]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bufio.NewReaderSize(bytes.NewReader(b), requestBuffer)
		for n := 0; ; n++ {
			r, err := readRequest(in)
			if err != nil {
				return
			}
			if err := r.check(); err != nil || n > len(b)/requestHeader {
				t.Fatalf("took %+v: %v", r, err)
			}
			wholeRequest(in)
		}
	})
}

// FuzzOpen has a client of the local protocol take whatever the worker sends.
func FuzzOpen(f *testing.F) {
	f.Add(message{kind: kindOpened, id: 1, handle: 1, n: 4 << 20, body: []byte{1}}.append(nil), int64(100))
	f.Add(message{kind: kindOpenedBlind, id: 1, handle: 1, n: 1}.append(nil), int64(1<<62))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		m, err := parseMessage(b)
		if err != nil || size < 0 || m.n < minLocalBlock {
			return
		}
		if n := BitmapBytes(size, m.n); n < 0 {
			t.Errorf("a bitmap of %d bytes", n)
		} else if n <= maxBitmap {
			present := make(Bitmap, n)
			copy(present, m.body)
			present.Has(0)
			present.Full(blocksOf(size, m.n))
		}
	})
}
