package wire

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

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
	// patience is longer than a source may take for a block.
	patience = 3 * time.Minute
	// minRate in bytes a second is below what any network of a cache gives.
	minRate = 1 << 20
	// receiveChunk is waited for, received and verified at once: it stays in the
	// processor's cache meanwhile.
	receiveChunk = 512 << 10
	// answerBuffer is what an exchange reads ahead.
	answerBuffer = 16 << 10
	// maxAhead requests are sent before their answers have come, of maxAheadBytes
	// in all: what sockets hold, so that neither side waits for the other to read.
	maxAhead      = maxBatch
	maxAheadBytes = 16 << 10
)

// ClientOptions of a Client; zero values have defaults.
type ClientOptions struct {
	// Silence is for how long a peer may say nothing before it is taken for dead.
	Silence time.Duration
	// Patience is for how long a peer may say that it works on an answer.
	Patience time.Duration
	// SuspectFor is for how long nobody asks a peer that failed.
	SuspectFor time.Duration
	// TLS, if not nil, is spoken to peers at host:port.
	TLS *TLS
	// Fetched, if not nil, is told of each range that was asked for: how long it
	// took, and how it ended.
	Fetched func(r Range, took time.Duration, err error)
}

// Client reads ranges from peers. It keeps connections, and remembers who has
// failed lately so that a dead peer costs its timeout once and not for every
// range.
type Client struct {
	opts   ClientOptions
	dialer net.Dialer
	gather time.Duration // gatherFor, but for tests

	// ctx is the life of the batches, which wg counts.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	idle    map[string][]*clientConn
	suspect map[string]suspicion
	queues  map[string]*queue
}

type suspicion struct {
	until time.Time
	last  time.Duration
}

type clientConn struct {
	net.Conn
	used time.Time
	raw  syscall.RawConn // nil if it is not plain TCP
	low  int             // bytes that a wait for more is for
}

// waitFor has a wait for more bytes end when there are n of them, or the
// connection ends: who is woken for each segment spends his time on waking up.
func (c *clientConn) waitFor(n int) {
	if c == nil || c.raw == nil || c.low == n {
		return
	}
	c.low = n
	_ = c.raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, n) })
}

// NewClient makes a client; Close ends it.
func NewClient(opts ClientOptions) *Client {
	if opts.Silence <= 0 {
		opts.Silence = silence
	}
	if opts.Patience <= 0 {
		opts.Patience = patience
	}
	if opts.SuspectFor <= 0 {
		opts.SuspectFor = suspectFor
	}
	if opts.Fetched == nil {
		opts.Fetched = func(Range, time.Duration, error) {}
	}
	c := &Client{
		opts: opts, dialer: net.Dialer{Timeout: min(dialTimeout, opts.Silence), KeepAlive: 30 * time.Second},
		idle: map[string][]*clientConn{}, suspect: map[string]suspicion{}, queues: map[string]*queue{}, gather: gatherFor,
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Close closes the connections that are not in use, and ends what was asked for
// in batches; the others are closed when their range ends.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	for addr := range c.idle {
		c.dropLocked(addr)
	}
	c.cancel()
	for addr, q := range c.queues {
		c.departLocked(addr, q) // to their end
	}
	c.mu.Unlock()
	c.wg.Wait()
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
		conn.close()
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
// sign of life. Bytes that do not match the checksums that come with them are
// asked for once more, for the peer to look at them again; then it is ErrCorrupt.
// Small ranges that are wanted at the same time go together, see queue.
func (c *Client) Fetch(ctx context.Context, addr string, r Range, dst []byte) error {
	one, err := newFetch(r, dst)
	if err != nil {
		return err
	}
	if err = c.send(ctx, addr, one); !errors.Is(err, ErrCorrupt) {
		return err
	}
	r.Flags |= FlagDoubt
	if one, err = newFetch(r, dst); err != nil {
		return err
	}
	return c.alone(ctx, addr, one)
}

// Keep tells the peer at addr to take in a range from whoever has it, in its own
// time. ErrNoSpace: it has too much to do.
func (c *Client) Keep(ctx context.Context, addr string, r Range) error {
	r.Flags = flagKeep
	one, err := newFetch(r, nil)
	if err != nil {
		return err
	}
	return c.alone(ctx, addr, one)
}

// fetch is one range that is asked for.
type fetch struct {
	Range
	dst     []byte
	request []byte
	done    bool  // answered
	err     error // the peer's answer
	ticket  *ticket
}

func newFetch(r Range, dst []byte) (*fetch, error) {
	r.Flags |= flagSums
	f := &fetch{Range: r, dst: dst}
	if int64(len(dst)) != f.expects() {
		return nil, fmt.Errorf("a buffer of %d bytes for a range of %d", len(dst), r.N)
	}
	var err error
	f.request, err = appendRequest(nil, r)
	return f, err
}

// alone has one range answered.
func (c *Client) alone(ctx context.Context, addr string, f *fetch) error {
	if err := c.all(ctx, addr, []*fetch{f}); err != nil {
		return err
	}
	return f.err
}

// all has the ranges answered over one connection. Its error is that of the
// peer, and goes for the ranges that are not done.
func (c *Client) all(ctx context.Context, addr string, fetches []*fetch) error {
	start := time.Now()
	for {
		conn, reused, err := c.conn(ctx, addr)
		begun := false
		if err == nil {
			if begun, err = c.exchange(ctx, conn, fetches, start); err == nil {
				if ctx.Err() != nil { // its deadline may be the one of the cancel
					conn.close()
				} else {
					c.put(addr, conn)
				}
				return nil
			}
			conn.close()
		}
		if reused && !begun && ctx.Err() == nil && !isTimeout(err) {
			continue // the peer had closed it, maybe long ago
		}
		err = c.failed(ctx, addr, err)
		for _, f := range fetches {
			if !f.done {
				c.opts.Fetched(f.Range, time.Since(start), err)
			}
		}
		return err
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
		conn.close()
	}
	c.mu.Unlock()
	conn, err := c.dial(ctx, addr)
	if err != nil {
		return nil, false, err
	}
	made := &clientConn{Conn: conn, low: 1}
	if plain, ok := conn.(*net.TCPConn); ok {
		made.raw, _ = plain.SyscallConn()
	}
	return made, false, nil
}

// close ends the connection without a word, which could have to wait.
func (c *clientConn) close() {
	if t, ok := c.Conn.(*tls.Conn); ok {
		t.NetConn().Close()
		return
	}
	c.Close()
}

func (c *Client) dial(ctx context.Context, address string) (net.Conn, error) {
	network, addr := network(address)
	conn, err := c.dialer.DialContext(ctx, network, addr)
	if err != nil || c.opts.TLS == nil || network == "unix" {
		return conn, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.Silence)
	defer cancel()
	secure := tls.Client(conn, c.opts.TLS.Client())
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("speak TLS: %w", err)
	}
	return secure, nil
}

func (c *Client) put(addr string, conn *clientConn) {
	conn.used = time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.idle[addr]) >= maxIdle {
		conn.close()
		return
	}
	c.idle[addr] = append(c.idle[addr], conn)
	delete(c.suspect, addr)
}

var answers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, answerBuffer) }}

// exchange sends requests and takes in their answers. begun tells that a part of
// an answer came.
func (c *Client) exchange(ctx context.Context, conn *clientConn, fetches []*fetch, start time.Time) (begun bool, err error) {
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
	in := answers.Get().(*bufio.Reader)
	in.Reset(conn)
	defer func() {
		in.Reset(nil)
		answers.Put(in)
	}()
	sent, ahead := 0, 0 // requests sent, and their bytes that are not answered
	for i, f := range fetches {
		var more []byte
		for sent < len(fetches) && (sent == i || sent-i < maxAhead && ahead+len(fetches[sent].request) <= maxAheadBytes) {
			more = append(more, fetches[sent].request...)
			ahead += len(fetches[sent].request)
			sent++
		}
		if len(more) > 0 {
			extend(c.opts.Silence)
			if _, err := conn.Write(more); err != nil {
				return begun, fmt.Errorf("%w: send a request: %w", ErrPeer, err)
			}
		}
		some, said, err := c.take(in, conn, f, extend)
		begun = begun || some
		if err != nil {
			return begun, err
		}
		c.opts.Fetched(f.Range, time.Since(start), said)
		f.settle(said)
		ahead -= len(f.request)
	}
	if in.Buffered() > 0 {
		return true, fmt.Errorf("%w: it answers what was not asked", ErrPeer)
	}
	return true, nil
}

// take takes in one answer: what the peer said, or an error of the peer itself.
func (c *Client) take(in *bufio.Reader, conn *clientConn, f *fetch, extend func(time.Duration)) (begun bool, said, err error) {
	var header [answerHeader]byte
	for start := time.Now(); ; {
		extend(c.opts.Silence)
		if n, err := io.ReadFull(in, header[:]); err != nil {
			return begun || n > 0, nil, fmt.Errorf("%w: wait for an answer: %w", ErrPeer, err)
		}
		begun = true
		a, err := parseAnswer(header[:], int64(len(f.dst)))
		switch {
		case err != nil:
			return true, nil, fmt.Errorf("%w: %w", ErrPeer, err)
		case a.status == statusWorking && time.Since(start) > c.opts.Patience:
			return true, nil, fmt.Errorf("%w: no answer in %s", ErrPeer, c.opts.Patience)
		case a.status == statusWorking:
			continue
		case a.status != wirepb.Status_STATUS_OK:
			text := make([]byte, a.length)
			if _, err := io.ReadFull(in, text); err != nil {
				return true, nil, fmt.Errorf("%w: read an answer: %w", ErrPeer, err)
			}
			return true, StatusError(a.status, string(text)), nil
		}
		// One deadline for all of it: a peer that trickles is a dead one.
		extend(c.opts.Silence + time.Duration(len(f.dst))*time.Second/minRate)
		var sums Sums
		if a.sums {
			if sums, err = readSums(in, int64(len(f.dst))); err != nil {
				return true, nil, fmt.Errorf("%w: read checksums: %w", ErrPeer, err)
			}
		}
		good := false
		err = f.fill(func(dst []byte) error {
			good, err = receive(in, conn, dst, sums)
			return err
		})
		if err != nil {
			return true, nil, fmt.Errorf("%w: %w", ErrPeer, err)
		}
		if !good {
			said = fmt.Errorf("%w: %d+%d of %s", ErrCorrupt, f.Off, f.N, f.Object.GetPath())
		}
		return true, said, nil
	}
}

// readSums reads the checksums of a range of n bytes.
func readSums(in io.Reader, n int64) (Sums, error) {
	var word [4]byte
	if _, err := io.ReadFull(in, word[:]); err != nil {
		return Sums{}, err
	}
	each := binary.LittleEndian.Uint32(word[:])
	count, err := sumsCount(each, n)
	if err != nil {
		return Sums{}, err
	}
	s := Sums{Bytes: int64(each), CRCs: make([]uint32, count)}
	if count == 1 {
		s.Bytes = n
	}
	for i := range s.CRCs {
		if _, err := io.ReadFull(in, word[:]); err != nil {
			return Sums{}, err
		}
		s.CRCs[i] = binary.LittleEndian.Uint32(word[:])
	}
	return s, nil
}

// receive fills dst and verifies each stretch while it is in the processor's
// cache.
func receive(in *bufio.Reader, conn *clientConn, dst []byte, sums Sums) (good bool, err error) {
	if len(sums.CRCs) == 0 {
		sums.Bytes = int64(len(dst))
	}
	defer conn.waitFor(1)
	good = true
	for got, i := 0, 0; got < len(dst); i++ {
		var crc uint32
		for end := int(min(int64(len(dst)), int64(got)+sums.Bytes)); got < end; {
			if len(dst) > receiveChunk && in.Buffered() == 0 {
				conn.waitFor(min(len(dst)-got, receiveChunk))
			}
			n, err := in.Read(dst[got:min(end, got+receiveChunk)])
			if i < len(sums.CRCs) {
				crc = crc32.Update(crc, castagnoli, dst[got:got+n])
			}
			got += n
			if err != nil && got < end {
				return false, fmt.Errorf("byte %d of %d: %w", got, len(dst), err)
			}
		}
		good = good && (i >= len(sums.CRCs) || crc == sums.CRCs[i])
	}
	return good, nil
}
