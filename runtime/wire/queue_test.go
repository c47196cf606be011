package wire

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// gate is a handler's before that holds ranges up until open is closed.
type gate struct {
	came chan Range
	open chan struct{}
}

func newGate() *gate { return &gate{came: make(chan Range, 1000), open: make(chan struct{})} }

func (g *gate) before(ctx context.Context, r Range) error {
	g.came <- r
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// asked is a range that somebody fetches.
type asked struct {
	p    []byte
	off  int64
	err  error
	done chan struct{}
}

func askFor(ctx context.Context, c *Client, addr string, o *wirepb.Object, off, n int64) *asked {
	a := &asked{p: make([]byte, n), off: off, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.err = c.Fetch(ctx, addr, Range{Object: o, Off: off, N: n}, a.p)
	}()
	return a
}

func (a *asked) wait(t *testing.T) error {
	t.Helper()
	select {
	case <-a.done:
	case <-time.After(time.Minute):
		t.Fatalf("the range at %d has no answer", a.off)
	}
	return a.err
}

// crowded is a peer whose lanes are taken by ranges that wait at the gate, and
// a client that does not send the others before a lane is free.
func crowded(t *testing.T, size int64) (s *served, g *gate, c *Client, addr string, first []*asked) {
	t.Helper()
	g = newGate()
	s = newServed(t, size)
	s.before = g.before
	addr = serve(t, summed{s}, nil)
	c = newClient(t, 0)
	c.gather = time.Hour
	for i := range lanes {
		first = append(first, askFor(t.Context(), c, addr, object("x", size), int64(i), 1000))
		<-g.came
	}
	return s, g, c, addr, first
}

// queued waits until so many ranges wait for a lane.
func queued(t *testing.T, c *Client, addr string, n int) {
	t.Helper()
	until(t, "the ranges do not wait for a lane", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		q := c.queues[addr]
		return q != nil && len(q.waiting) == n
	})
}

func TestSmallRangesThatAreWantedAtOnceGoTogether(t *testing.T) {
	const size = 1 << 20
	s, g, c, addr, all := crowded(t, size)
	for i := range 20 {
		all = append(all, askFor(t.Context(), c, addr, object("x", size), int64(i)*40_000, smallRange-int64(i)))
	}
	queued(t, c, addr, 20)
	close(g.open)
	for _, a := range all {
		if err := a.wait(t); err != nil {
			t.Errorf("at %d: %v", a.off, err)
		} else if !bytes.Equal(a.p, s.data[a.off:][:len(a.p)]) {
			t.Errorf("at %d: wrong bytes", a.off)
		}
	}
	until(t, "lanes are taken although all is done", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.queues) == 0
	})
	if n := len(c.idle[addr]); n > lanes {
		t.Errorf("%d connections for %d lanes", n, lanes)
	}
}

func TestAFullBatchAndALargeRangeWaitForNoLane(t *testing.T) {
	const size = 1 << 20
	_, g, c, addr, all := crowded(t, size)
	all = append(all, askFor(t.Context(), c, addr, object("x", size), 0, smallRange+1))
	if r := <-g.came; r.N != smallRange+1 {
		t.Errorf("%d bytes came first", r.N)
	}
	for i := range maxBatch {
		all = append(all, askFor(t.Context(), c, addr, object("x", size), int64(i), 10))
	}
	for range maxBatch {
		<-g.came
	}
	close(g.open)
	for _, a := range all {
		if err := a.wait(t); err != nil {
			t.Errorf("at %d: %v", a.off, err)
		}
	}
}

func TestSlowAnswersHoldNobodyUp(t *testing.T) {
	const size = 1 << 20
	_, g, c, addr, all := crowded(t, size)
	c.gather = time.Millisecond
	for i := range 10 {
		all = append(all, askFor(t.Context(), c, addr, object("x", size), int64(i), 10))
		<-g.came // though no lane is free
	}
	close(g.open)
	for _, a := range all {
		if err := a.wait(t); err != nil {
			t.Errorf("at %d: %v", a.off, err)
		}
	}
}

func TestWhoeverGoesAwayLeavesTheOthersTheirAnswers(t *testing.T) {
	const size = 1 << 20
	s, g, c, addr, first := crowded(t, size)
	waits, leave := context.WithCancel(t.Context())
	gone := askFor(waits, c, addr, object("x", size), 7, 100)
	stays := askFor(t.Context(), c, addr, object("x", size), 8, 100)
	queued(t, c, addr, 2)
	leave()
	if err := gone.wait(t); !errors.Is(err, context.Canceled) { // from the queue
		t.Errorf("who went away before it was asked for: %v", err)
	}
	queued(t, c, addr, 1)

	rides, alight := context.WithCancel(t.Context())
	late := askFor(rides, c, addr, object("x", size), 9, 100)
	queued(t, c, addr, 2)
	c.mu.Lock()
	c.departLocked(addr, c.queues[addr])
	c.mu.Unlock()
	<-g.came
	<-g.came
	alight()
	if err := late.wait(t); !errors.Is(err, context.Canceled) { // from the batch
		t.Errorf("who went away while it was asked for: %v", err)
	}
	close(g.open)
	for _, a := range append(first, stays) {
		if err := a.wait(t); err != nil || !bytes.Equal(a.p, s.data[a.off:][:len(a.p)]) {
			t.Errorf("at %d: %v", a.off, err)
		}
	}
	if !bytes.Equal(late.p, make([]byte, 100)) {
		t.Error("a buffer was written to after its caller had gone")
	}
}

func TestABatchThatNobodyWantsAnyMoreEnds(t *testing.T) {
	const size = 1 << 20
	_, g, c, addr, first := crowded(t, size)
	ctx, leave := context.WithCancel(t.Context())
	var all []*asked
	for i := range 5 {
		all = append(all, askFor(ctx, c, addr, object("x", size), int64(i), 100))
	}
	queued(t, c, addr, 5)
	c.mu.Lock()
	c.departLocked(addr, c.queues[addr])
	c.mu.Unlock()
	for range 5 {
		<-g.came
	}
	leave()
	for _, a := range all {
		if err := a.wait(t); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	until(t, "the batch goes on", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.queues[addr].busy == lanes
	})
	if c.Suspect(addr) {
		t.Error("the peer is blamed for callers that went away")
	}
	close(g.open)
	for _, a := range first {
		if err := a.wait(t); err != nil {
			t.Error(err)
		}
	}
}

func TestCloseEndsWhoWaitsForALane(t *testing.T) {
	const size = 1 << 20
	_, g, c, addr, first := crowded(t, size)
	waits := askFor(t.Context(), c, addr, object("x", size), 7, 100)
	queued(t, c, addr, 1)
	c.Close()
	if err := waits.wait(t); err == nil {
		t.Error("a closed client has asked for a range")
	}
	close(g.open)
	for _, a := range first { // they are on their way
		if err := a.wait(t); err != nil {
			t.Error(err)
		}
	}
}

// TestAPeerThatKnowsNoBatchesIsAskedAllTheSame: one that takes a request only
// when it has answered the one before, as the first workers did.
func TestAPeerThatKnowsNoBatchesIsAskedAllTheSame(t *testing.T) {
	var conns atomic.Int64
	open := make(chan struct{})
	addr := liarOf(t, func(c net.Conn, in *bufio.Reader) {
		conns.Add(1)
		<-open
		for {
			r, err := readRequest(in)
			if err != nil {
				return
			}
			a := appendAnswer(nil, answer{length: uint64(r.N)})
			if _, err := c.Write(append(a, bytes.Repeat([]byte{byte(r.Off)}, int(r.N))...)); err != nil {
				return
			}
		}
	})
	c := newClient(t, 0)
	var all []*asked
	for i := range 100 {
		all = append(all, askFor(t.Context(), c, addr, object("x", 1<<20), int64(i), 50+int64(i)))
	}
	until(t, "nobody connects", func() bool { return conns.Load() >= lanes })
	close(open)
	for _, a := range all {
		if err := a.wait(t); err != nil || !bytes.Equal(a.p, bytes.Repeat([]byte{byte(a.off)}, len(a.p))) {
			t.Errorf("at %d: %v", a.off, err)
		}
	}
}

func TestOfABatchThatBreaksOffWhatCameIsGoodAndTheRestFails(t *testing.T) {
	var mu sync.Mutex
	held := []net.Conn{}
	addr := liarOf(t, func(c net.Conn, in *bufio.Reader) {
		var got []Range
		for len(got) == 0 || in.Buffered() > 0 {
			r, err := readRequest(in)
			if err != nil {
				return
			}
			got = append(got, r)
		}
		if len(got) == 1 { // it has a lane of its own
			mu.Lock()
			held = append(held, c)
			mu.Unlock()
			_, _ = in.Peek(1)
			return
		}
		for _, r := range got[:2] {
			_, _ = c.Write(append(appendAnswer(nil, answer{length: uint64(r.N)}), make([]byte, r.N)...))
		}
	})
	c := newClient(t, 0)
	c.gather = time.Hour
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	var first, all []*asked
	for i := range lanes {
		first = append(first, askFor(ctx, c, addr, object("x", 1<<20), int64(i), 10))
	}
	until(t, "the lanes are not taken", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(held) == lanes
	})
	for i := range 5 {
		all = append(all, askFor(t.Context(), c, addr, object("x", 1<<20), int64(i), 10))
	}
	queued(t, c, addr, 5)
	c.mu.Lock()
	c.departLocked(addr, c.queues[addr])
	c.mu.Unlock()
	good, bad := 0, 0
	for _, a := range all {
		switch err := a.wait(t); {
		case err == nil:
			good++
		case errors.Is(err, ErrPeer):
			bad++
		default:
			t.Error(err)
		}
	}
	if good != 2 || bad != 3 || !c.Suspect(addr) {
		t.Errorf("%d are good and %d bad, suspect %t", good, bad, c.Suspect(addr))
	}
	leave()
	for _, a := range first {
		_ = a.wait(t)
	}
}
