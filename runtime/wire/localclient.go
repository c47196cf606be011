package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// Local is a connection to the worker on this node.
type Local struct {
	conn    *net.UnixConn
	silence time.Duration
	done    chan struct{}

	mu      sync.Mutex
	err     error // why it is dead
	next    uint32
	waiting map[uint32]*waiter
}

// waiter is a request that has no answer yet.
type waiter struct {
	answered chan localAnswer // has room for the one answer
	heard    time.Time        // last sign of life
}

type localAnswer struct {
	message
	file *os.File
}

// DialLocal connects to the worker whose socket is at path, and returns when it
// has answered: the kernel accepts connections also for a process that hangs.
// quiet is for how long it may say nothing about a request before it is taken
// for dead; 0 means the default.
func DialLocal(ctx context.Context, path string, quiet time.Duration) (*Local, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixpacket", path)
	if err != nil {
		return nil, err
	}
	if quiet <= 0 {
		quiet = silence
	}
	l := &Local{conn: c.(*net.UnixConn), silence: quiet, done: make(chan struct{}), waiting: map[uint32]*waiter{}}
	go l.run()
	if _, err := l.ask(ctx, message{kind: kindHello}); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Done is closed when the connection is dead.
func (l *Local) Done() <-chan struct{} { return l.done }

// Close ends the connection. The descriptors that came over it stay good.
func (l *Local) Close() {
	l.conn.Close()
	<-l.done
}

// run takes in the answers.
func (l *Local) run() {
	defer close(l.done)
	defer l.conn.Close()
	packet := make([]byte, maxLocal+1)
	oob := make([]byte, syscall.CmsgSpace(4))
	for {
		l.conn.SetReadDeadline(time.Now().Add(l.silence / 2))
		n, oobn, _, _, err := l.conn.ReadMsgUnix(packet, oob)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if l.overdue() {
				l.die(fmt.Errorf("%w: the worker on this node does not answer", ErrPeer))
				return
			}
			continue
		}
		if err == nil && n == 0 {
			err = net.ErrClosed
		}
		if err != nil {
			l.die(fmt.Errorf("%w: the worker on this node is gone: %w", ErrPeer, err))
			return
		}
		file := receivedFile(oob[:oobn])
		m, err := parseMessage(packet[:n])
		if err != nil {
			if file != nil {
				file.Close()
			}
			l.die(fmt.Errorf("%w: %w", ErrPeer, err))
			return
		}
		m.body = append([]byte(nil), m.body...)
		l.deliver(localAnswer{m, file})
	}
}

// receivedFile takes the descriptor out of a control message.
func receivedFile(oob []byte) *os.File {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var file *os.File
	for _, m := range messages {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if file != nil {
				syscall.Close(fd)
				continue
			}
			file = os.NewFile(uintptr(fd), "cached file")
		}
	}
	return file
}

func (l *Local) overdue() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.waiting {
		if time.Since(w.heard) > l.silence {
			return true
		}
	}
	return false
}

func (l *Local) die(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
	for id, w := range l.waiting {
		delete(l.waiting, id)
		close(w.answered)
	}
}

// deliver gives an answer to who waits for it. A file that nobody waits for any
// more is closed on both sides.
func (l *Local) deliver(a localAnswer) {
	l.mu.Lock()
	w := l.waiting[a.id]
	if w != nil && a.kind == kindWorking {
		w.heard = time.Now()
		l.mu.Unlock()
		return
	}
	delete(l.waiting, a.id)
	l.mu.Unlock()
	if w != nil {
		w.answered <- a
		return
	}
	l.abandon(a)
}

func (l *Local) abandon(a localAnswer) {
	if a.file != nil {
		a.file.Close()
	}
	if a.handle != 0 {
		l.send(message{kind: kindClose, handle: a.handle})
	}
}

func (l *Local) send(m message) error {
	l.conn.SetWriteDeadline(time.Now().Add(l.silence))
	_, err := l.conn.Write(m.append(make([]byte, 0, localHeader+len(m.body))))
	if err != nil {
		l.conn.Close()
		return fmt.Errorf("%w: the worker on this node is gone: %w", ErrPeer, err)
	}
	return nil
}

// ask sends a request and waits for its answer.
func (l *Local) ask(ctx context.Context, m message) (localAnswer, error) {
	w := &waiter{answered: make(chan localAnswer, 1), heard: time.Now()}
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return localAnswer{}, l.err
	}
	l.next++
	m.id = l.next
	l.waiting[m.id] = w
	l.mu.Unlock()
	if err := l.send(m); err != nil {
		l.forget(m.id, w)
		return localAnswer{}, err
	}
	select {
	case a, ok := <-w.answered:
		if !ok {
			return localAnswer{}, l.err
		}
		if a.kind == kindFailed {
			return localAnswer{}, StatusError(a.status, string(a.body))
		}
		return a, nil
	case <-ctx.Done():
		l.forget(m.id, w)
		return localAnswer{}, ctx.Err()
	}
}

// forget ends the wait for an answer, also if it has just come.
func (l *Local) forget(id uint32, w *waiter) {
	l.mu.Lock()
	_, waits := l.waiting[id]
	delete(l.waiting, id)
	l.mu.Unlock()
	if waits {
		return
	}
	if a, ok := <-w.answered; ok {
		l.abandon(a)
	}
}

// Open leases the cached file of o. The worker first makes the first bytes
// present, if it can.
func (l *Local) Open(ctx context.Context, o *wirepb.Object, first int64) (*LocalFile, error) {
	body, err := proto.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode object %s: %w", o.GetPath(), err)
	}
	if len(body) > maxObject {
		return nil, fmt.Errorf("%w: object of %d bytes", errLocal, len(body))
	}
	a, err := l.ask(ctx, message{kind: kindOpen, n: first, body: body})
	if err != nil {
		return nil, err
	}
	opened := a.kind == kindOpened || a.kind == kindOpenedComplete || a.kind == kindOpenedBlind
	if !opened || a.file == nil || a.n < minLocalBlock || a.handle == 0 || BitmapBytes(o.GetSize(), a.n) > maxBitmap {
		l.abandon(a)
		return nil, fmt.Errorf("%w: %w", ErrPeer, errLocal)
	}
	f := &LocalFile{local: l, handle: a.handle, file: a.file, size: o.GetSize(), block: a.n, complete: a.kind == kindOpenedComplete}
	if !f.complete {
		f.present = make(Bitmap, BitmapBytes(f.size, f.block))
		copy(f.present, a.body)
	}
	return f, nil
}

// LocalFile is a cached file of the worker on this node. What it has once told
// to be present stays readable, also when the worker is gone.
type LocalFile struct {
	local  *Local
	handle uint64
	file   *os.File
	size   int64
	block  int64

	mu       sync.Mutex
	present  Bitmap
	complete bool
}

// File is the sparse file; only what Has tells is good in it.
func (f *LocalFile) File() *os.File { return f.file }

// Complete tells whether every byte is there.
func (f *LocalFile) Complete() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.complete
}

// Has tells whether the whole range is there.
func (f *LocalFile) Has(off, n int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.complete {
		return true
	}
	for i := off / f.block; i*f.block < off+n; i++ {
		if !f.present.Has(i) {
			return false
		}
	}
	return true
}

// Ensure has the worker make the range present. ErrNoSpace and ErrPeer mean
// that the bytes are to be found elsewhere.
func (f *LocalFile) Ensure(ctx context.Context, off, n int64) error {
	n = min(n, f.size-off)
	if n <= 0 || f.Has(off, n) {
		return nil
	}
	a, err := f.local.ask(ctx, message{kind: kindEnsure, handle: f.handle, off: off, n: n})
	if err != nil {
		return err
	}
	if a.kind != kindEnsured {
		f.local.abandon(a)
		return fmt.Errorf("%w: %w", ErrPeer, errLocal)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := off / f.block; i*f.block < off+n && !f.complete; i++ {
		f.present.Set(i)
	}
	f.complete = f.complete || f.present.Full(blocksOf(f.size, f.block))
	return nil
}

// Close ends the lease and closes the descriptor.
func (f *LocalFile) Close() error {
	if !f.local.Dead() {
		f.local.send(message{kind: kindClose, handle: f.handle})
	}
	return f.file.Close()
}

// Dead tells that Done is closed.
func (l *Local) Dead() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}
