package http

import (
	"context"
	"errors"
	"io"
	"time"
)

// minRate is how fast a server must be on average, in bytes a second. The time
// that a reader takes between its reads does not count.
const minRate = 16 << 10

// body ends a connection that is silent for timeout, or that sends less than
// minRate after twice that long.
type body struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	timeout time.Duration
	in      io.ReadCloser
	timer   *time.Timer
	waited  time.Duration
	got     int64
}

// newBody reads in, which belongs to a request with ctx; cancel is called by Close.
func newBody(ctx context.Context, cancel context.CancelCauseFunc, timeout time.Duration, in io.ReadCloser) *body {
	timer := time.AfterFunc(timeout, func() { cancel(errSilent) })
	timer.Stop()
	return &body{ctx: ctx, cancel: cancel, timeout: timeout, in: in, timer: timer}
}

func (b *body) Read(p []byte) (int, error) {
	began := time.Now()
	b.timer.Reset(b.timeout)
	n, err := b.in.Read(p)
	b.timer.Stop()
	b.waited += time.Since(began)
	b.got += int64(n)
	if err == nil && b.waited > 2*b.timeout+time.Duration(b.got)*(time.Second/minRate) {
		b.cancel(errSlow)
		err = errSlow
	}
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (b *body) Close() error {
	b.timer.Stop()
	b.cancel(nil)
	return b.in.Close()
}

// part is a range of an object within a body. It ends with an error if the body
// ends before it.
type part struct {
	*body
	left   int64
	failed func(error) error
}

func (p *part) Read(buf []byte) (int, error) {
	if p.left <= 0 {
		return 0, io.EOF
	}
	n, err := p.body.Read(buf[:min(int64(len(buf)), p.left)])
	p.left -= int64(n)
	switch {
	case errors.Is(err, io.EOF) && p.left > 0:
		err = p.failed(io.ErrUnexpectedEOF)
	case errors.Is(err, io.EOF):
	case err != nil:
		err = p.failed(err)
	}
	return n, err
}

// skip reads n bytes for nobody.
func (b *body) skip(n int64) error {
	_, err := io.CopyN(io.Discard, b, n)
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
