package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/millrace/millrace/runtime/wire/wirepb"
)

const (
	// maxRequests of one client are worked on at once.
	maxRequests = 256
	// maxClients is far more than a node has FUSE processes.
	maxClients = 1024
)

// LocalContent is an open cached file, leased until Close.
type LocalContent interface {
	Content
	// Blocks gives the bitmap, or that the file is complete.
	Blocks() (present Bitmap, complete bool)
	// BlockBytes is the unit of the bitmap.
	BlockBytes() int64
	// Ensure returns when the range is present, or why it will not be.
	Ensure(ctx context.Context, off, n int64) error
	// Sent tells that the client has the descriptor of File: this process needs
	// its own no more. It may be called during or after Close.
	Sent()
}

// LocalHandler opens files for a LocalServer. first is how many bytes the
// client wants present before it is answered; that they cannot be is no error.
type LocalHandler interface {
	OpenLocal(ctx context.Context, o *wirepb.Object, first int64) (LocalContent, error)
}

// LocalServer hands descriptors of cached files to the processes of its node.
type LocalServer struct {
	handler LocalHandler
	log     *slog.Logger
	beat    time.Duration
	slots   chan struct{}
	wg      sync.WaitGroup
}

// NewLocalServer makes a server; Serve runs it.
func NewLocalServer(h LocalHandler, log *slog.Logger) *LocalServer {
	return &LocalServer{handler: h, log: log, beat: beat, slots: make(chan struct{}, maxClients)}
}

// ListenLocal listens at path, in place of whoever listened there before.
func ListenLocal(path string) (*net.UnixListener, error) {
	next := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%d.sock", os.Getpid()))
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: next, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // by then the path may be a successor's
	if err := os.Rename(next, path); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Serve answers on l until ctx ends; then it closes l and every connection and
// returns nil when all is quiet.
func (s *LocalServer) Serve(ctx context.Context, l *net.UnixListener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer s.wg.Wait()
	for {
		c, err := accept(ctx, s.log, l, l.AcceptUnix)
		if c == nil {
			return err
		}
		select {
		case s.slots <- struct{}{}:
		default:
			c.Close()
			continue
		}
		s.wg.Go(func() {
			defer func() { <-s.slots }()
			newLocalSession(s, c).run(ctx)
		})
	}
}

// localSession is one client and what it has open.
type localSession struct {
	server *LocalServer
	conn   *net.UnixConn
	work   chan struct{}
	wg     sync.WaitGroup

	mu    sync.Mutex
	next  uint64
	files map[uint64]*openContent
}

// openContent counts the requests that use a content, so that a close that
// overtakes them does not pull it from under them.
type openContent struct {
	LocalContent
	users int // requests under way, and one for being open
}

func newLocalSession(s *LocalServer, c *net.UnixConn) *localSession {
	return &localSession{server: s, conn: c, work: make(chan struct{}, maxRequests), files: map[uint64]*openContent{}}
}

// run serves the client until either side ends; then nothing of it is open.
func (s *localSession) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { s.conn.Close() })
	defer func() {
		cancel()
		stop()
		s.conn.Close()
		s.wg.Wait()
		for id := range s.files {
			s.release(id)
		}
	}()
	packet := make([]byte, maxLocal+1)
	for {
		n, oobn, _, _, err := s.conn.ReadMsgUnix(packet, nil)
		if err != nil || n == 0 || oobn > 0 {
			return
		}
		m, err := parseMessage(packet[:n])
		if err != nil {
			s.server.log.Warn("bad message on the local socket", "err", err)
			return
		}
		switch m.kind {
		case kindOpen:
			o, err := parseOpen(m)
			if err != nil {
				s.fail(m, err)
				continue
			}
			s.do(ctx, m, func(ctx context.Context) { s.open(ctx, m, o) })
		case kindEnsure:
			f := s.use(m.handle)
			if f == nil {
				s.fail(m, fmt.Errorf("%w: no such handle", errLocal))
				continue
			}
			s.do(ctx, m, func(ctx context.Context) {
				defer s.release(m.handle)
				if err := f.Ensure(ctx, m.off, m.n); err != nil {
					s.fail(m, err)
					return
				}
				s.send(message{kind: kindEnsured, id: m.id}, nil)
			})
		case kindClose:
			s.close(m.handle)
		case kindHello:
			s.send(message{kind: kindHello, id: m.id}, nil)
		default:
			return
		}
	}
}

// do works on a request in its own goroutine, with signs of life.
func (s *localSession) do(ctx context.Context, m message, work func(context.Context)) {
	select {
	case s.work <- struct{}{}:
	case <-ctx.Done():
		return
	}
	s.wg.Go(func() {
		defer func() { <-s.work }()
		stop := beating(s.server.beat, func() error { return s.send(message{kind: kindWorking, id: m.id}, nil) })
		defer stop()
		work(ctx)
	})
}

func (s *localSession) open(ctx context.Context, m message, o *wirepb.Object) {
	content, err := s.server.handler.OpenLocal(ctx, o, m.n)
	if err != nil {
		s.fail(m, err)
		return
	}
	present, complete := content.Blocks()
	answer := message{kind: kindOpened, id: m.id, n: content.BlockBytes(), body: present}
	switch {
	case complete:
		answer.kind, answer.body = kindOpenedComplete, nil
	case len(present) > maxLocal-localHeader:
		answer.kind, answer.body = kindOpenedBlind, nil
	}
	s.mu.Lock()
	s.next++
	answer.handle = s.next
	s.files[answer.handle] = &openContent{content, 1}
	s.mu.Unlock()
	s.send(answer, content.File())
	content.Sent()
}

// use finds a content and keeps it open until release.
func (s *localSession) use(handle uint64) *openContent {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[handle]
	if f != nil {
		f.users++
	}
	return f
}

func (s *localSession) release(handle uint64) {
	s.mu.Lock()
	f := s.files[handle]
	f.users--
	last := f.users == 0
	if last {
		delete(s.files, handle)
	}
	s.mu.Unlock()
	if last {
		if err := f.Close(); err != nil {
			s.server.log.Warn("close a cached file", "err", err)
		}
	}
}

// close ends the client's use of a handle; a second close of it is nothing.
func (s *localSession) close(handle uint64) {
	s.mu.Lock()
	f := s.files[handle]
	s.mu.Unlock()
	if f != nil {
		s.release(handle)
	}
}

func (s *localSession) fail(m message, err error) {
	s.send(message{kind: kindFailed, id: m.id, status: StatusOf(err), body: []byte(words(err))}, nil)
}

// send writes one message. A client that does not take its messages loses its
// connection.
func (s *localSession) send(m message, f *os.File) error {
	var oob []byte
	packet := m.append(make([]byte, 0, localHeader+len(m.body)))
	write := func() error {
		s.conn.SetWriteDeadline(time.Now().Add(silence))
		_, _, err := s.conn.WriteMsgUnix(packet, oob, nil)
		return err
	}
	err := func() error {
		if f == nil {
			return write()
		}
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		var errWrite error
		err = raw.Control(func(fd uintptr) {
			oob = syscall.UnixRights(int(fd))
			errWrite = write()
		})
		return errors.Join(err, errWrite)
	}()
	if err != nil {
		s.conn.Close()
	}
	return err
}
