package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// Times of the data plane.
const (
	// beat is the pause between two signs of life of an answer in the making.
	beat = time.Second
	// silence is for how long a peer may say nothing before it is taken for dead.
	silence = 5 * time.Second
	// connIdle closes a connection that nobody uses.
	connIdle = 2 * time.Minute
	// sendChunk is the most that one sendfile call moves, so that the write
	// deadline is looked at often enough.
	sendChunk = 4 << 20
	maxConns  = 4096
)

// Content is a stretch of a cached file, leased until Close.
type Content interface {
	File() *os.File
	Close() error
}

// RangeHandler serves the ranges of a Server. The Content has all bytes of the
// range present. Its error becomes a status (StatusOf).
type RangeHandler interface {
	ServeRange(ctx context.Context, r Range) (Content, error)
}

// Server answers ranges on TCP.
type Server struct {
	handler RangeHandler
	log     *slog.Logger
	beat    time.Duration
	slots   chan struct{}

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	wg    sync.WaitGroup
}

// NewServer makes a server; Serve runs it.
func NewServer(h RangeHandler, log *slog.Logger) *Server {
	return &Server{handler: h, log: log, beat: beat, slots: make(chan struct{}, maxConns), conns: map[net.Conn]struct{}{}}
}

// Serve answers on l until ctx ends; then it closes l and every connection and
// returns nil when all is quiet.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() {
		l.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.conns {
			c.Close()
		}
	})
	defer stop()
	defer s.wg.Wait()
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return nil
		case err != nil && acceptAgain(err):
			s.log.Warn("accept on the data plane", "err", err)
			time.Sleep(10 * time.Millisecond)
			continue
		case err != nil:
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		}
		select {
		case s.slots <- struct{}{}:
		default:
			c.Close()
			continue
		}
		s.mu.Lock()
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		if ctx.Err() != nil {
			c.Close()
		}
		s.wg.Go(func() { s.serve(ctx, c) })
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

func (s *Server) serve(ctx context.Context, c net.Conn) {
	defer func() {
		c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		<-s.slots
	}()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return
	}
	var header [requestHeader]byte
	object := make([]byte, 0, 512)
	for {
		c.SetDeadline(time.Now().Add(connIdle))
		if _, err := io.ReadFull(c, header[:1]); err != nil {
			return
		}
		c.SetDeadline(time.Now().Add(silence))
		if _, err := io.ReadFull(c, header[1:]); err != nil {
			return
		}
		n, err := requestObjectBytes(header[:])
		if err != nil {
			return
		}
		object = append(object[:0], make([]byte, n)...)
		if _, err := io.ReadFull(c, object); err != nil {
			return
		}
		r, err := parseRequest(header[:], object)
		if err != nil {
			s.log.Warn("bad request on the data plane", "peer", c.RemoteAddr(), "err", err)
			return
		}
		if err := s.answer(ctx, c, raw, r); err != nil {
			return
		}
	}
}

// answer serves one range. An error means that the connection is of no more use.
func (s *Server) answer(ctx context.Context, c net.Conn, raw syscall.RawConn, r Range) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := beating(s.beat, func() error {
		c.SetWriteDeadline(time.Now().Add(silence))
		_, err := c.Write(appendAnswer(nil, answer{status: statusWorking}))
		if err != nil {
			cancel() // nobody waits any more
		}
		return err
	})
	content, err := s.handler.ServeRange(ctx, r)
	stop()
	c.SetWriteDeadline(time.Now().Add(silence))
	if err != nil {
		text := words(err)
		b := appendAnswer(make([]byte, 0, answerHeader+len(text)), answer{StatusOf(err), uint64(len(text))})
		_, err := c.Write(append(b, text...))
		return err
	}
	defer content.Close()
	if _, err := c.Write(appendAnswer(nil, answer{wirepb.Status_STATUS_OK, uint64(r.N)})); err != nil {
		return err
	}
	return sendfile(c, raw, content.File(), r.Off, r.N)
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

// sendfile moves a range from the page cache into the socket. It keeps its own
// offset, so one descriptor serves many connections.
func sendfile(c net.Conn, raw syscall.RawConn, f *os.File, off, n int64) error {
	file, err := f.SyscallConn()
	if err != nil {
		return err
	}
	for n > 0 {
		c.SetWriteDeadline(time.Now().Add(silence))
		var sent int
		var errSend error
		errFile := file.Control(func(src uintptr) {
			err = raw.Write(func(dst uintptr) bool {
				sent, errSend = unix.Sendfile(int(dst), int(src), &off, int(min(n, sendChunk)))
				return errSend != unix.EAGAIN && errSend != unix.EINTR
			})
		})
		switch {
		case errFile != nil:
			return errFile
		case err != nil:
			return err
		case errSend != nil:
			return os.NewSyscallError("sendfile", errSend)
		case sent == 0:
			return io.ErrUnexpectedEOF
		}
		n -= int64(sent)
	}
	return nil
}
