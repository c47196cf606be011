package hdfs

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/runtime/source"
)

const (
	// maxRead bounds what is held back until its checksums are known to be right.
	maxRead = 1 << 20
	// lessThanAChunk is fewer bytes than any file has for each checksum; they
	// are 512 unless its writer has said otherwise.
	lessThanAChunk = 64
)

// Open reads a range of the version o. A file that is replaced, cut or appended
// to is noticed when its blocks are looked up and when the range ends.
func (s *Store) Open(ctx context.Context, o source.Object, off, n int64) (io.ReadCloser, error) {
	n = min(n, o.Size-off)
	if n <= 0 {
		return io.NopCloser(strings.NewReader("")), nil
	}
	if !valid(o.Path) {
		return nil, s.failed("read", o.Path, source.ErrNotExist)
	}
	one, err := s.with(ctx, "read", o.Path, &o, off, func(one *session) error { return s.seek(one, o, off) })
	if err != nil {
		return nil, err
	}
	b := &body{store: s, object: o, pos: off, left: n}
	b.ctx, b.cancel = context.WithCancelCause(ctx)
	b.hold(one)
	return b, nil
}

// seek makes the session read o at off.
func (s *Store) seek(one *session, o source.Object, off int64) error {
	one.progress()
	if one.fits(&o, off, 0) < sameFile {
		one.leave()
		f, err := one.client.Open(s.at(o.Path))
		if err != nil {
			return err
		}
		if err := unchanged(o, object(o.Path, f.Stat())); err != nil {
			return err
		}
		if err := readable(f.Stat().Sys()); err != nil {
			return err
		}
		one.file, one.object = f, o
	}
	if one.pos != off { // else the stream goes on; the library ends it even then
		if err := one.moveTo(off); err != nil {
			return err
		}
	}
	one.since = time.Now()
	return nil
}

// body reads a range. It goes on where it was when a server fails.
type body struct {
	store  *Store
	ctx    context.Context
	cancel context.CancelCauseFunc
	object source.Object

	mu        sync.Mutex // held by Read, which Close may interrupt
	pos, left int64

	one  *session // nil when it failed, and at the end
	stop func() bool
	err  error
}

// hold ends the session's connections when the reader is cancelled.
func (b *body) hold(one *session) {
	b.one, b.stop = one, context.AfterFunc(b.ctx, one.cut)
}

// release gives the session back. It is of no use after a failure.
func (b *body) release(sound bool) {
	if b.one == nil {
		return
	}
	one := b.one
	b.one = nil
	if b.stop() && sound {
		b.store.give(one)
	} else {
		b.store.drop(one)
	}
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.some(p[:min(int64(len(p)), b.left)])
	b.pos += int64(n)
	b.left -= int64(n)
	if err == nil && b.left == 0 {
		// Before the last bytes go out: they may be of blocks that were cut and
		// written anew while they were read.
		b.release(true)
		var now source.Object
		if now, err = b.store.Stat(b.ctx, b.object.Path); err == nil {
			if err = unchanged(b.object, now); err != nil {
				err = b.store.failed("read", b.object.Path, err)
			}
		}
	}
	if err != nil {
		b.err = err
		b.release(false)
		return 0, err
	}
	return n, nil
}

// some reads what comes next, at least one byte.
func (b *body) some(p []byte) (n int, err error) {
	if b.one != nil {
		if n, err = b.one.read(p); err == nil {
			return n, nil
		}
		b.release(false)
	}
	one, err := b.store.with(b.ctx, "read", b.object.Path, &b.object, b.pos, func(one *session) error {
		if err := b.store.seek(one, b.object, b.pos); err != nil {
			return err
		}
		n, err = one.read(p)
		return err
	})
	if err != nil {
		return 0, err
	}
	b.hold(one)
	return n, nil
}

// moveTo makes the next byte the one at off. It goes back to the beginning
// first, which ends the stream: where the library skips a few bytes of a stream
// it forgets that it did, and reads elsewhere when it needs another replica.
func (s *session) moveTo(off int64) error {
	for _, at := range []int64{0, off} {
		if _, err := s.file.Seek(at, io.SeekStart); err != nil {
			s.leave()
			return err
		}
	}
	s.pos = off
	return nil
}

// read fills p, or as much of it as lies in one block, with bytes that agree
// with their checksums.
//
// A read of a whole chunk and more gives bytes out whose checksum is wrong, and
// the library asks another replica only for those after them. A read of less is
// checked first. So the last byte is read alone: where that needed no new
// stream, all before it was right, and else all is read again in small steps.
func (s *session) read(p []byte) (int, error) {
	p = p[:min(int64(len(p)), s.blockEnd()-s.pos, maxRead)]
	first, last := s.pos, len(p)-1
	for n := 0; n < len(p); {
		streams := s.opened()
		to := len(p)
		if n < last {
			to = last
		}
		m, err := s.step(p[n:to])
		if err != nil {
			return 0, err
		}
		if n > 0 && s.opened() != streams {
			return s.readAgain(p, first)
		}
		n += m
	}
	return len(p), nil
}

func (s *session) readAgain(p []byte, off int64) (int, error) {
	if err := s.moveTo(off); err != nil {
		return 0, s.because(err)
	}
	for n := 0; n < len(p); {
		m, err := s.step(p[n:min(n+lessThanAChunk, len(p))])
		if err != nil {
			return 0, err
		}
		n += m
	}
	return len(p), nil
}

// blockEnd is where the block at pos ends, if all blocks have the file's size:
// those of a concatenated file may end before.
func (s *session) blockEnd() int64 {
	st := status(s.file.Stat().Sys())
	size := int64(st.GetBlocksize())
	if size <= 0 {
		return math.MaxInt64
	}
	return s.pos - s.pos%size + size
}

// step reads at least one byte of the session's file.
func (s *session) step(p []byte) (int, error) {
	for range maxDials {
		n, err := s.file.Read(p)
		s.pos += int64(n)
		if n > 0 {
			s.since = time.Now()
			s.progress()
			return n, nil
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			s.leave()
			return 0, s.because(err)
		}
	}
	s.leave()
	return 0, io.ErrNoProgress
}

func (b *body) Close() error {
	if !b.mu.TryLock() { // a read waits, maybe for long
		b.cancel(fs.ErrClosed)
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	b.release(b.err == nil)
	b.cancel(nil)
	if b.err == nil {
		b.err = fs.ErrClosed
	}
	return nil
}
