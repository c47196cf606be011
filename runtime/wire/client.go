package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/millrace/millrace/runtime/wire/wirepb"
)

const (
	dialTimeout = 2 * time.Second
	// maxIdle is how many unused connections to one peer are kept.
	maxIdle = 8
	// suspectFor is for how long a peer that failed is left alone; twice as long
	// each time it fails again, up to maxSuspect.
	suspectFor = 3 * time.Second
	maxSuspect = time.Minute
	// minRate in bytes a second is below what any network of a cache gives.
	minRate = 1 << 20
)

// ClientOptions of a Client; zero values have defaults.
type ClientOptions struct {
	// Silence is for how long a peer may say nothing before it is taken for dead.
	Silence time.Duration
	// SuspectFor is for how long nobody asks a peer that failed.
	SuspectFor time.Duration
}

// Client reads ranges from peers. It keeps connections, and remembers who has
// failed lately so that a dead peer costs its timeout once and not for every
// range.
type Client struct {
	opts   ClientOptions
	dialer net.Dialer

	mu      sync.Mutex
	closed  bool
	idle    map[string][]*clientConn
	suspect map[string]suspicion
}

type suspicion struct {
	until time.Time
	last  time.Duration
}

type clientConn struct {
	net.Conn
	used time.Time
}

// NewClient makes a client; Close ends it.
func NewClient(opts ClientOptions) *Client {
	if opts.Silence <= 0 {
		opts.Silence = silence
	}
	if opts.SuspectFor <= 0 {
		opts.SuspectFor = suspectFor
	}
	return &Client{
		opts: opts, dialer: net.Dialer{Timeout: min(dialTimeout, opts.Silence), KeepAlive: 30 * time.Second},
		idle: map[string][]*clientConn{}, suspect: map[string]suspicion{},
	}
}

// Close closes the connections that are not in use; the others are closed when
// their range ends.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for addr := range c.idle {
		c.dropLocked(addr)
	}
}

// Forget closes what is kept for peers that are not in the list.
func (c *Client) Forget(keep map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for addr := range c.idle {
		if !keep[addr] {
			c.dropLocked(addr)
		}
	}
	for addr := range c.suspect {
		if !keep[addr] {
			delete(c.suspect, addr)
		}
	}
}

func (c *Client) dropLocked(addr string) {
	for _, conn := range c.idle[addr] {
		conn.Close()
	}
	delete(c.idle, addr)
}

// Suspect tells that a peer failed so lately that it is not worth asking.
func (c *Client) Suspect(addr string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.suspect[addr].until)
}

// Fetch reads the range r from the peer at addr into dst, which has r.N bytes.
// It returns what the peer answers (ErrNotCached, ErrNoSpace, the source's
// errors), or ErrPeer if the peer fails, at the latest Silence after its last
// sign of life.
func (c *Client) Fetch(ctx context.Context, addr string, r Range, dst []byte) error {
	request, err := appendRequest(nil, r)
	if err != nil {
		return err
	}
	if int64(len(dst)) != r.N {
		return fmt.Errorf("a buffer of %d bytes for a range of %d", len(dst), r.N)
	}
	for {
		conn, reused, err := c.conn(ctx, addr)
		if err != nil {
			return c.failed(ctx, addr, err)
		}
		begun, err := c.exchange(ctx, conn, request, dst)
		if err == nil || !errors.Is(err, ErrPeer) {
			if ctx.Err() != nil { // its deadline may be the one of the cancel
				conn.Close()
			} else {
				c.put(addr, conn)
			}
			return err
		}
		conn.Close()
		if reused && !begun && ctx.Err() == nil && !isTimeout(err) {
			continue // the peer had closed it, maybe long ago
		}
		return c.failed(ctx, addr, err)
	}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// failed makes the peer suspect, unless it was the caller who gave up.
func (c *Client) failed(ctx context.Context, addr string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.mu.Lock()
	s := suspicion{last: c.opts.SuspectFor}
	if old, again := c.suspect[addr]; again {
		s.last = max(s.last, min(2*old.last, maxSuspect))
	}
	s.until = time.Now().Add(s.last)
	c.suspect[addr] = s
	c.dropLocked(addr)
	c.mu.Unlock()
	if !errors.Is(err, ErrPeer) {
		err = fmt.Errorf("%w: %w", ErrPeer, err)
	}
	return fmt.Errorf("peer %s: %w", addr, err)
}

// conn takes a kept connection or makes one.
func (c *Client) conn(ctx context.Context, addr string) (_ *clientConn, reused bool, _ error) {
	c.mu.Lock()
	for n := len(c.idle[addr]); n > 0; n = len(c.idle[addr]) {
		conn := c.idle[addr][n-1]
		c.idle[addr] = c.idle[addr][:n-1]
		if time.Since(conn.used) < connIdle/2 {
			c.mu.Unlock()
			return conn, true, nil
		}
		conn.Close()
	}
	c.mu.Unlock()
	conn, err := c.dial(ctx, addr)
	if err != nil {
		return nil, false, err
	}
	return &clientConn{Conn: conn}, false, nil
}

func (c *Client) dial(ctx context.Context, address string) (net.Conn, error) {
	network, addr := network(address)
	return c.dialer.DialContext(ctx, network, addr)
}

func (c *Client) put(addr string, conn *clientConn) {
	conn.used = time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.idle[addr]) >= maxIdle {
		conn.Close()
		return
	}
	c.idle[addr] = append(c.idle[addr], conn)
	delete(c.suspect, addr)
}

// exchange sends a request and takes in the answer. begun tells that a part of
// the answer came.
func (c *Client) exchange(ctx context.Context, conn *clientConn, request, dst []byte) (begun bool, err error) {
	var mu sync.Mutex // orders deadlines: the one of a cancel is the last
	cancelled := false
	stop := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		cancelled = true
		conn.SetDeadline(time.Unix(1, 0))
	})
	defer stop()
	extend := func(d time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		if !cancelled {
			conn.SetDeadline(time.Now().Add(d))
		}
	}
	extend(c.opts.Silence)
	if _, err := conn.Write(request); err != nil {
		return false, fmt.Errorf("%w: send a request: %w", ErrPeer, err)
	}
	var header [answerHeader]byte
	for {
		extend(c.opts.Silence)
		if n, err := io.ReadFull(conn, header[:]); err != nil {
			return begun || n > 0, fmt.Errorf("%w: wait for an answer: %w", ErrPeer, err)
		}
		begun = true
		a, err := parseAnswer(header[:], int64(len(dst)))
		switch {
		case err != nil:
			return true, fmt.Errorf("%w: %w", ErrPeer, err)
		case a.status == statusWorking:
			continue
		case a.status != wirepb.Status_STATUS_OK:
			text := make([]byte, a.length)
			if _, err := io.ReadFull(conn, text); err != nil {
				return true, fmt.Errorf("%w: read an answer: %w", ErrPeer, err)
			}
			return true, StatusError(a.status, string(text))
		}
		// One deadline for all of it: a peer that trickles is a dead one.
		extend(c.opts.Silence + time.Duration(len(dst))*time.Second/minRate)
		if n, err := io.ReadFull(conn, dst); err != nil {
			return true, fmt.Errorf("%w: byte %d of %d: %w", ErrPeer, n, len(dst), err)
		}
		return true, nil
	}
}
