package hdfs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/colinmarc/hdfs/v2"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/egress"
)

const (
	// maxSessions bounds what one store does at the same time. Each is a
	// connection to the NameNode, and one to a DataNode while it reads.
	maxSessions = 32
	// maxIdle sessions are kept for idleTime, with their streams.
	maxIdle  = 8
	idleTime = 5 * time.Second
	// maxDials to DataNodes without a byte from any of them. The library goes
	// on for ever where a replica is shorter than the NameNode says.
	maxDials = 12
	// receiveBuffer of a DataNode's connection. It sends the whole rest of a
	// block; what lies here when a range is closed has come in vain.
	receiveBuffer = 1 << 20
	// packetBuffer holds the small parts of a packet, so that they cost one
	// system call; larger reads pass it by.
	packetBuffer = 8 << 10
)

var (
	errEnded    = errors.New("the session has ended")
	errReplicas = errors.New("no replica has the rest of the block")
	errClosed   = errors.New("the source is closed")
	errLogin    = errors.New("log in to Kerberos")
)

// session is one client of the library with its connections, for one caller at
// a time. The library cannot be cancelled, waits for ever, and leaves
// connections open that it has given up; so they are known here, are silent for
// no longer than the timeout, and end when the session does.
type session struct {
	client *hdfs.Client
	policy egress.Policy

	// file is what was read last, open at pos: a later range of it needs no
	// question to the NameNode, and the next bytes not even a new stream.
	file   *hdfs.FileReader
	object source.Object
	pos    int64
	since  time.Time   // when it was read last
	expire *time.Timer // of an idle session

	timeout  time.Duration
	mu       sync.Mutex
	conns    map[*conn]struct{}
	dials    int // since the last byte
	streams  int // that were opened to DataNodes, ever
	ended    bool
	nameNode string // that was dialed last
	dialErr  error  // of the last dial; the library keeps only its text
}

// newSession connects to the first NameNode that answers.
func (s *Store) newSession(ctx context.Context) (*session, error) {
	out := &session{policy: s.policy, timeout: s.setup.timeout, conns: map[*conn]struct{}{}}
	stop := context.AfterFunc(ctx, out.cut)
	defer stop()
	options := s.setup.client
	options.Addresses = s.order.list()
	options.NamenodeDialFunc, options.DatanodeDialFunc = out.dialNameNode, out.dialDataNode
	if options.KerberosClient != nil {
		if err := options.KerberosClient.AffirmLogin(); err != nil {
			return nil, fmt.Errorf("%w: %w", errLogin, err)
		}
	}
	var err error
	if out.client, err = hdfs.NewClient(options); err != nil {
		s.order.last(out.dialed())
		return nil, out.because(err)
	}
	return out, nil
}

// cut ends all connections, and with them what the library is doing.
func (s *session) cut() {
	s.mu.Lock()
	s.ended = true
	conns := s.conns
	s.conns = map[*conn]struct{}{}
	s.mu.Unlock()
	for c := range conns {
		c.Conn.Close()
	}
}

// end gives everything back. It may wait for a call of the library to notice
// that its connection is gone.
func (s *session) end() {
	s.cut()
	_ = s.client.Close() // of a connection that is closed
}

// because gives the dial error that the library has turned into text.
func (s *session) because(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && s.dialErr != nil && strings.Contains(err.Error(), s.dialErr.Error()) {
		return fmt.Errorf("%w", s.dialErr)
	}
	return err
}

func (s *session) dialNameNode(_ context.Context, network, address string) (net.Conn, error) {
	s.mu.Lock()
	s.nameNode = address
	s.mu.Unlock()
	c, err := s.dial(network, address)
	if err != nil {
		return nil, err // not a nil *conn, which is no nil net.Conn
	}
	return c, nil
}

// dialDataNode dials the next replica. The ones before have failed: the library
// reads one block at a time.
func (s *session) dialDataNode(_ context.Context, network, address string) (net.Conn, error) {
	s.mu.Lock()
	s.dials++
	s.streams++
	tooMany := s.dials > maxDials
	var old []*conn
	for c := range s.conns {
		if c.data {
			old = append(old, c)
			delete(s.conns, c)
		}
	}
	s.mu.Unlock()
	for _, c := range old {
		c.Conn.Close()
	}
	if tooMany {
		return nil, errReplicas
	}
	c, err := s.dial(network, address)
	if err != nil {
		return nil, err
	}
	c.data, c.in = true, bufio.NewReaderSize(c.Conn, packetBuffer)
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(receiveBuffer) // else it is the system's
	}
	return c, nil
}

func (s *session) dial(network, address string) (*conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
	defer cancel()
	raw, err := s.policy.DialContext(ctx, network, address)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dialErr = err
	if err != nil {
		return nil, err
	}
	if s.ended {
		raw.Close()
		return nil, errEnded
	}
	c := &conn{Conn: raw, session: s}
	s.conns[c] = struct{}{}
	return c, nil
}

// dialed is the NameNode that was dialed last.
func (s *session) dialed() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nameNode
}

// progress forgets the dials before the last byte.
func (s *session) progress() {
	s.mu.Lock()
	s.dials = 0
	s.mu.Unlock()
}

// opened is how many streams were opened.
func (s *session) opened() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams
}

// conn fails when the other side is silent for longer than the timeout.
type conn struct {
	net.Conn
	session *session
	data    bool          // it is a DataNode's
	in      *bufio.Reader // nil without
}

func (c *conn) Read(p []byte) (int, error) {
	if c.in != nil && c.in.Buffered() > 0 {
		return c.in.Read(p)
	}
	if err := c.SetReadDeadline(time.Now().Add(c.session.timeout)); err != nil {
		return 0, err
	}
	if c.in != nil {
		return c.in.Read(p)
	}
	return c.Conn.Read(p)
}

func (c *conn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.session.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// SetDeadline does nothing: the library sets none, and says so with a zero.
func (c *conn) SetDeadline(time.Time) error { return nil }

func (c *conn) Close() error {
	c.session.mu.Lock()
	delete(c.session.conns, c)
	c.session.mu.Unlock()
	return c.Conn.Close()
}

// addresses are the NameNodes, the one that is likely active first.
type addresses struct {
	mu  sync.Mutex
	all []string
}

func (a *addresses) list() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.all)
}

// first and last move an address.
func (a *addresses) first(address string) { a.move(address, true) }
func (a *addresses) last(address string)  { a.move(address, false) }

func (a *addresses) move(address string, first bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.Index(a.all, address)
	if i < 0 {
		return
	}
	to := 0
	if !first {
		to = len(a.all) - 1
	}
	a.all = slices.Insert(slices.Delete(a.all, i, i+1), to, address)
}

// take gives a session that was idle, or a new one. Of those that are idle it
// prefers one that reads o and stands at off.
func (s *Store) take(ctx context.Context, o *source.Object, off int64) (_ *session, idle bool, err error) {
	if ctx.Err() != nil {
		return nil, false, context.Cause(ctx)
	}
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
	got, err := s.takeIdle(o, off)
	if got != nil {
		return got, true, nil
	}
	if err == nil {
		got, err = s.newSession(ctx)
	}
	if err != nil {
		<-s.slots
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}
	return got, false, err
}

// takeIdle gives nil if a new session is better than any that is idle.
func (s *Store) takeIdle(o *source.Object, off int64) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	best, rank := -1, useless
	for i, one := range s.idle {
		if r := one.fits(o, off, len(s.idle)); r > rank || r == free && r == rank { // of free ones the youngest
			best, rank = i, r
		}
	}
	if best < 0 {
		return nil, nil
	}
	got := s.idle[best]
	s.idle = slices.Delete(s.idle, best, best+1)
	got.expire.Stop()
	return got, nil
}

// How well an idle session fits a read.
const (
	useless  = iota // its stream may go on yet
	oldest          // it may go on too, but there are enough
	free            // it reads nothing
	sameFile        // it knows where the blocks are
	inPlace         // its stream goes on
)

func (s *session) fits(o *source.Object, off int64, idle int) int {
	switch {
	case o == nil, s.file == nil:
		return free
	case s.object.Path == o.Path && s.object.Version() == o.Version():
		if s.pos == off {
			return inPlace
		}
		return sameFile
	case idle >= maxIdle:
		return oldest
	}
	return useless
}

// give takes a session back that can be used again.
func (s *Store) give(one *session) {
	defer func() { <-s.slots }()
	s.order.first(one.dialed())
	if one.file != nil && time.Since(one.since) > idleTime {
		one.leave()
	}
	s.mu.Lock()
	if s.closed || len(s.idle) >= maxIdle {
		s.mu.Unlock()
		one.end()
		return
	}
	one.expire = time.AfterFunc(idleTime, func() { s.forget(one) })
	s.idle = append(s.idle, one)
	s.mu.Unlock()
}

// leave closes the file that was read, and its stream.
func (s *session) leave() {
	if s.file != nil {
		_ = s.file.Close() // of a connection that is only read
		s.file, s.object, s.pos = nil, source.Object{}, 0
	}
}

// drop ends a session that failed, and all that are idle: they have likely lost
// the same server.
func (s *Store) drop(one *session) {
	defer func() { <-s.slots }()
	one.end()
	s.dropIdle()
}

func (s *Store) dropIdle() {
	s.mu.Lock()
	idle := s.idle
	s.idle = nil
	s.mu.Unlock()
	for _, one := range idle {
		one.expire.Stop()
		one.end()
	}
}

// forget ends a session that has been idle for long.
func (s *Store) forget(one *session) {
	s.mu.Lock()
	i := slices.Index(s.idle, one)
	if i >= 0 {
		s.idle = slices.Delete(s.idle, i, i+1)
	}
	s.mu.Unlock()
	if i >= 0 {
		one.end()
	}
}
