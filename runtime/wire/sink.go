package wire

import (
	"crypto/tls"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// smallRange is up to where a range is copied into the answer rather than
	// sent from its file.
	smallRange = 64 << 10
	// sinkBytes is what is gathered before it is sent.
	sinkBytes = 2*smallRange + 32<<10
	// sendChunk is the most that one sendfile call moves, so that the write
	// deadline is moved often enough.
	sendChunk = 4 << 20
	// copyChunk is read at once from a file where sendfile cannot be used.
	copyChunk = sinkBytes
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	// chunks are buffers of sinkBytes, which connections have only while they
	// answer.
	chunks = sync.Pool{New: func() any {
		b := make([]byte, sinkBytes)
		return &b
	}}
)

// sink sends answers over one connection. Small ones are gathered until one is
// the last.
type sink struct {
	conn net.Conn
	raw  syscall.RawConn // nil: the bytes have to pass through conn
	held *[]byte         // from chunks, while something is gathered
	n    int             // bytes that are gathered
}

func newSink(c net.Conn) (*sink, error) {
	s := &sink{conn: c}
	if plain, ok := c.(syscall.Conn); ok {
		var err error
		if s.raw, err = plain.SyscallConn(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// grow gives the place of the next n bytes, at most sinkBytes.
func (s *sink) grow(n int) ([]byte, error) {
	if s.held != nil && s.n+n > sinkBytes {
		if err := s.flush(); err != nil {
			return nil, err
		}
	}
	if s.held == nil {
		s.held = chunks.Get().(*[]byte)
	}
	return (*s.held)[s.n : s.n+n : s.n+n], nil
}

// commit takes in n bytes that are at their place.
func (s *sink) commit(n int, last bool) error {
	s.n += n
	if last {
		return s.flush()
	}
	return nil
}

func (s *sink) write(p []byte, last bool) error {
	b, err := s.grow(len(p))
	if err != nil {
		return err
	}
	return s.commit(copy(b, p), last)
}

func (s *sink) flush() error {
	if s.held == nil {
		return nil
	}
	_, err := s.conn.Write((*s.held)[:s.n])
	chunks.Put(s.held)
	s.held, s.n = nil, 0
	if err != nil {
		return err
	}
	return s.push()
}

// push has what TLS gathers sent.
func (s *sink) push() error {
	if t, ok := s.conn.(*tls.Conn); ok {
		if g, ok := t.NetConn().(*gathering); ok {
			return g.flush()
		}
	}
	return nil
}

// file sends head and a range of f, from the page cache if it can.
func (s *sink) file(head []byte, f *os.File, off, n int64) error {
	if s.raw == nil {
		return s.copyFile(head, f, off, n)
	}
	if err := s.flush(); err != nil {
		return err
	}
	if err := sendMore(s.raw, head); err != nil {
		return err
	}
	return sendfile(s.conn, s.raw, f, off, n)
}

func (s *sink) copyFile(head []byte, f *os.File, off, n int64) error {
	if err := s.write(head, false); err != nil {
		return err
	}
	if err := s.flush(); err != nil {
		return err
	}
	held := chunks.Get().(*[]byte)
	defer chunks.Put(held)
	for n > 0 {
		p := (*held)[:min(n, copyChunk)]
		if _, err := f.ReadAt(p, off); err != nil {
			return fmt.Errorf("read %d bytes at %d of a cached file: %w", len(p), off, err)
		}
		s.conn.SetWriteDeadline(time.Now().Add(silence))
		if _, err := s.conn.Write(p); err != nil {
			return err
		}
		off, n = off+int64(len(p)), n-int64(len(p))
	}
	return s.push()
}

// sendMore sends p in one packet with what comes after it.
func sendMore(raw syscall.RawConn, p []byte) error {
	for len(p) > 0 {
		var n int
		var errSend error
		err := raw.Write(func(fd uintptr) bool {
			n, errSend = unix.SendmsgN(int(fd), p, nil, nil, unix.MSG_MORE|unix.MSG_NOSIGNAL)
			return errSend != unix.EAGAIN && errSend != unix.EINTR
		})
		switch {
		case err != nil:
			return err
		case errSend != nil:
			return os.NewSyscallError("sendmsg", errSend)
		}
		p = p[n:]
	}
	return nil
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

// gathering is a connection below TLS. It gathers records, which are small, and
// sends them together: when there are many, at flush, or when an answer is
// waited for.
type gathering struct {
	net.Conn
	mu   sync.Mutex
	held *[]byte
	n    int
}

func newGathering(c net.Conn) *gathering { return &gathering{Conn: c} }

// Write implements net.Conn.
func (g *gathering) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n+len(p) > sinkBytes {
		if err := g.flushLocked(); err != nil {
			return 0, err
		}
	}
	if len(p) > sinkBytes {
		return g.Conn.Write(p)
	}
	if g.held == nil {
		g.held = chunks.Get().(*[]byte)
	}
	g.n += copy((*g.held)[g.n:], p)
	return len(p), nil
}

// Read implements net.Conn.
func (g *gathering) Read(p []byte) (int, error) {
	if err := g.flush(); err != nil {
		return 0, err
	}
	return g.Conn.Read(p)
}

func (g *gathering) flush() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.flushLocked()
}

func (g *gathering) flushLocked() error {
	if g.held == nil {
		return nil
	}
	_, err := g.Conn.Write((*g.held)[:g.n])
	chunks.Put(g.held)
	g.held, g.n = nil, 0
	return err
}
