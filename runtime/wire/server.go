package wire

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// Times and bounds of the data plane.
const (
	// beat is the pause between two signs of life of an answer in the making.
	beat = time.Second
	// silence is for how long a peer may say nothing before it is taken for dead.
	silence = 5 * time.Second
	// connIdle closes a connection that nobody uses.
	connIdle = 2 * time.Minute
	// maxConns connections are served, maxHostConns of them of one address. One
	// more takes the place of the one that was idle longest.
	maxConns     = 4096
	maxHostConns = 1024
	// maxServed ranges are worked on at once, maxBatch of one connection.
	maxServed = 1024
	maxBatch  = 32
	// requestBuffer is what a connection holds while it is idle; it takes some
	// thirty requests.
	requestBuffer = 4 << 10
)

// Content is a stretch of a cached file, leased until Close.
type Content interface {
	File() *os.File
	Close() error
}

// Summed is a Content that knows the checksums of a range; ok is false if it
// does not.
type Summed interface {
	Content
	Sums(off, n int64) (s Sums, ok bool)
}

// RangeHandler serves the ranges of a Server. Its errors become a status
// (StatusOf).
type RangeHandler interface {
	// ServeRange gives a Content that has all bytes of the range present.
	ServeRange(ctx context.Context, r Range) (Content, error)
	// Keep notes that a range is to be taken in from a peer that has it. It does
	// not wait for that.
	Keep(r Range) error
}

// ServerOptions of a Server; zero values have defaults.
type ServerOptions struct {
	// TLS, if not nil, is spoken by all who connect.
	TLS *TLS
	// Served, if not nil, is told of each range: how long it took, how many bytes
	// of it were sent, and how it ended.
	Served func(r Range, took time.Duration, bytes int64, err error)
	Logger *slog.Logger
}

// Server answers ranges on TCP.
type Server struct {
	handler RangeHandler
	opts    ServerOptions
	log     *slog.Logger
	beat    time.Duration
	work    chan struct{}
	served  atomic.Int64 // ranges that are worked on

	mu    sync.Mutex
	conns map[*serverConn]struct{}
	hosts map[string]int
	wg    sync.WaitGroup
}

// serverConn is one connection.
type serverConn struct {
	net.Conn // TLS or plain
	host     string
	// idle is since when it waits for a request, in Unix nanoseconds; 0: it
	// does not.
	idle atomic.Int64
}

// NewServer makes a server; Serve runs it.
func NewServer(h RangeHandler, o ServerOptions) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Served == nil {
		o.Served = func(Range, time.Duration, int64, error) {}
	}
	return &Server{
		handler: h, opts: o, log: o.Logger, beat: beat, work: make(chan struct{}, maxServed),
		conns: map[*serverConn]struct{}{}, hosts: map[string]int{},
	}
}

// Connections is how many peers are connected.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// InFlight is how many ranges are worked on now.
func (s *Server) InFlight() int64 { return s.served.Load() }

// Serve answers on l until ctx ends; then it closes l and every connection and
// returns nil when all is quiet.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() {
		l.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.conns {
			c.closeNow()
		}
	})
	defer stop()
	defer s.wg.Wait()
	for {
		c, err := accept(ctx, s.log, l, l.Accept)
		if c == nil {
			return err
		}
		conn := s.admit(c)
		if conn == nil {
			c.Close()
			continue
		}
		if ctx.Err() != nil {
			conn.closeNow()
		}
		s.wg.Go(func() {
			defer s.dismiss(conn)
			s.serve(ctx, conn)
		})
	}
}

// accept takes the next connection of l; none, and no error, when ctx has ended.
func accept[C net.Conn](ctx context.Context, log *slog.Logger, l net.Listener, next func() (C, error)) (none C, _ error) {
	for {
		c, err := next()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return none, nil
		case err == nil:
			return c, nil
		case !acceptAgain(err):
			return none, fmt.Errorf("accept on %s: %w", l.Addr(), err)
		}
		log.Warn("accept a connection", "address", l.Addr(), "err", err)
		time.Sleep(10 * time.Millisecond)
	}
}

// acceptAgain tells errors of one connection or of a moment from those of the listener.
func acceptAgain(err error) bool {
	for _, no := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// admit takes a connection in, in place of an idle one if there are too many;
// nil if there is no room for it.
func (s *Server) admit(c net.Conn) *serverConn {
	conn := &serverConn{Conn: c, host: hostOf(c)}
	conn.idle.Store(time.Now().UnixNano())
	s.mu.Lock()
	defer s.mu.Unlock()
	of, full := "", len(s.conns) >= maxConns
	if s.hosts[conn.host] >= maxHostConns {
		of, full = conn.host, true
	}
	if full && !s.evictLocked(of) {
		return nil
	}
	if s.opts.TLS != nil && c.LocalAddr().Network() != "unix" {
		conn.Conn = tls.Server(newGathering(c), s.opts.TLS.Server())
	}
	s.conns[conn] = struct{}{}
	s.hosts[conn.host]++
	return conn
}

// evictLocked closes the connection that was idle longest, of one host or, for
// "", of any.
func (s *Server) evictLocked(host string) bool {
	var oldest *serverConn
	since := int64(0)
	for c := range s.conns {
		if idle := c.idle.Load(); idle != 0 && (host == "" || c.host == host) && (oldest == nil || idle < since) {
			oldest, since = c, idle
		}
	}
	if oldest == nil {
		return false
	}
	s.removeLocked(oldest)
	oldest.closeNow()
	return true
}

// closeNow ends the connection without a word, which could have to wait.
func (c *serverConn) closeNow() {
	if t, ok := c.Conn.(*tls.Conn); ok {
		t.NetConn().Close()
		return
	}
	c.Close()
}

func (s *Server) removeLocked(c *serverConn) {
	if _, in := s.conns[c]; !in {
		return
	}
	delete(s.conns, c)
	if s.hosts[c.host]--; s.hosts[c.host] == 0 {
		delete(s.hosts, c.host)
	}
}

func (s *Server) dismiss(c *serverConn) {
	c.closeNow()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeLocked(c)
}

func hostOf(c net.Conn) string {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return a.IP.String()
	}
	return ""
}

// serve answers what comes over one connection.
func (s *Server) serve(ctx context.Context, c *serverConn) {
	if t, ok := c.Conn.(*tls.Conn); ok {
		c.SetDeadline(time.Now().Add(silence))
		c.idle.Store(0)
		if err := t.HandshakeContext(ctx); err != nil {
			_ = t.NetConn().(*gathering).flush() // it says why
			s.log.Warn("a peer is refused", "peer", c.RemoteAddr(), "err", err)
			return
		}
	}
	out, err := newSink(c.Conn)
	if err != nil {
		return
	}
	in := bufio.NewReaderSize(c.Conn, requestBuffer)
	for {
		batch, err := s.receive(c, in)
		if err != nil {
			if errors.Is(err, errFrame) {
				s.log.Warn("bad request on the data plane", "peer", c.RemoteAddr(), "err", err)
			}
			return
		}
		if err := s.answer(ctx, c, out, batch); err != nil {
			return
		}
	}
}

// receive waits for a request, and takes those that came with it.
func (s *Server) receive(c *serverConn, in *bufio.Reader) ([]Range, error) {
	if in.Buffered() == 0 {
		now := time.Now()
		c.idle.Store(now.UnixNano())
		c.SetDeadline(now.Add(connIdle))
		_, err := in.Peek(1)
		c.idle.Store(0)
		if err != nil {
			return nil, err
		}
	}
	// One deadline for a whole request: who trickles loses the connection.
	c.SetDeadline(time.Now().Add(silence))
	r, err := readRequest(in)
	batch := []Range{r}
	for err == nil && len(batch) < maxBatch && wholeRequest(in) {
		if r, err = readRequest(in); err == nil {
			batch = append(batch, r)
		}
	}
	return batch, err
}

// wholeRequest tells that a request can be read without waiting.
func wholeRequest(in *bufio.Reader) bool {
	if in.Buffered() < requestHeader {
		return false
	}
	header, _ := in.Peek(requestHeader)
	n, err := requestObjectBytes(header)
	return err != nil || in.Buffered() >= requestHeader+n
}

func readRequest(in *bufio.Reader) (Range, error) {
	var header [requestHeader]byte
	if _, err := io.ReadFull(in, header[:]); err != nil {
		return Range{}, err
	}
	n, err := requestObjectBytes(header[:])
	if err != nil {
		return Range{}, err
	}
	object := make([]byte, n)
	if _, err := io.ReadFull(in, object); err != nil {
		return Range{}, err
	}
	return parseRequest(header[:], object)
}

// serving is a range that is worked on.
type serving struct {
	done    chan struct{}
	content Content
	err     error
}

// answer serves a batch, in its order. An error means that the connection is of
// no more use.
func (s *Server) answer(ctx context.Context, c *serverConn, out *sink, batch []Range) error {
	start := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex // held while an answer is written, so that no beat falls into it
	over := false
	stop := beating(s.beat, func() error {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return errOver
		}
		c.SetWriteDeadline(time.Now().Add(silence))
		err := out.write(appendAnswer(nil, answer{status: statusWorking}), true)
		if err != nil {
			cancel() // nobody waits any more
		}
		return err
	})
	defer stop()
	all := make([]*serving, len(batch))
	for i, r := range batch {
		all[i] = &serving{}
		if len(batch) > 1 { // each may wait for the source
			all[i].done = make(chan struct{})
			s.wg.Go(func() {
				defer close(all[i].done)
				all[i].content, all[i].err = s.work1(ctx, r)
			})
		}
	}
	var failed error
	for i, r := range batch {
		one := all[i]
		if one.done != nil {
			<-one.done
		} else {
			one.content, one.err = s.work1(ctx, r)
		}
		if failed == nil {
			mu.Lock()
			c.SetWriteDeadline(time.Now().Add(silence))
			over = i == len(batch)-1
			failed = s.write(c, out, r, one, over)
			over = over || failed != nil
			mu.Unlock()
			if failed != nil {
				cancel()
			}
		}
		if one.content != nil {
			one.content.Close()
		}
		err, sent := one.err, int64(0)
		switch {
		case err == nil && failed == nil:
			sent = r.expects()
		case err == nil:
			err = fmt.Errorf("%w: %w", ErrPeer, failed)
		}
		s.opts.Served(r, time.Since(start), sent, err)
	}
	return failed
}

var errOver = errors.New("the last answer was sent")

// work1 has the handler serve one range.
func (s *Server) work1(ctx context.Context, r Range) (Content, error) {
	select {
	case s.work <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.served.Add(1)
	defer func() {
		s.served.Add(-1)
		<-s.work
	}()
	if r.Flags&flagKeep != 0 {
		return nil, s.handler.Keep(r)
	}
	return s.handler.ServeRange(ctx, r)
}

// write sends one answer; last has what was gathered sent too.
func (s *Server) write(c *serverConn, out *sink, r Range, one *serving, last bool) error {
	if one.err != nil {
		text := words(one.err)
		b := appendAnswer(make([]byte, 0, answerHeader+len(text)), answer{status: StatusOf(one.err), length: uint64(len(text))})
		return out.write(append(b, text...), last)
	}
	a := answer{status: wirepb.Status_STATUS_OK, length: uint64(r.expects())}
	if one.content == nil {
		return out.write(appendAnswer(nil, a), last)
	}
	var sums Sums
	if r.Flags&flagSums != 0 {
		if content, ok := one.content.(Summed); ok {
			sums, a.sums = content.Sums(r.Off, r.N)
			a.sums = a.sums && len(sums.CRCs) <= maxSums
		}
	}
	file := one.content.File()
	if r.N > smallRange {
		head := appendAnswer(make([]byte, 0, answerHeader+4+4*len(sums.CRCs)), a)
		if a.sums {
			head = appendSums(head, sums)
		}
		return out.file(head, file, r.Off, r.N)
	}
	// One copy costs less than the calls that it saves, and the bytes are at hand
	// for a checksum where no whole block gives one.
	sum := !a.sums && r.Flags&flagSums != 0
	if sum {
		sums, a.sums = Sums{CRCs: make([]uint32, 1)}, true
	}
	head := answerHeader
	if a.sums {
		head += 4 + 4*len(sums.CRCs)
	}
	b, err := out.grow(head + int(r.N))
	if err != nil {
		return err
	}
	p := b[head:]
	if _, err := file.ReadAt(p, r.Off); err != nil {
		return fmt.Errorf("read %d bytes at %d of a cached file: %w", r.N, r.Off, err)
	}
	if sum {
		sums.CRCs[0] = crc32.Checksum(p, castagnoli)
	}
	if b = appendAnswer(b[:0], a); a.sums {
		appendSums(b, sums)
	}
	return out.commit(head+int(r.N), last)
}

// beating calls sign every period, until its stop returns or sign fails. No
// goroutine runs before the first period has passed.
func beating(period time.Duration, sign func() error) (stop func()) {
	var mu sync.Mutex
	stopped := false
	var timer *time.Timer
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(period, func() {
		mu.Lock()
		defer mu.Unlock()
		if !stopped && sign() == nil {
			timer.Reset(period)
		}
	})
	return func() {
		timer.Stop()
		mu.Lock()
		defer mu.Unlock()
		stopped = true
	}
}
