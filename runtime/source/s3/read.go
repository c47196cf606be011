package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/millrace/millrace/runtime/source"
)

const (
	// resumes of one range whose connections break off, each from where the
	// last one ended.
	resumes = 4
	// firstPause before a resume, doubled by each.
	firstPause = 100 * time.Millisecond
	// minRate in bytes a second is what a server must give on average over the
	// timeout, lest it is taken for one that is down.
	minRate = 1 << 10

	// A range of wideBytes and more is read over partsAhead connections in parts
	// of partBytes. maxWide of such reads bound the memory: 4 × 4 × 4 MiB.
	wideBytes  = 16 << 20
	partBytes  = 4 << 20
	partsAhead = 4
	maxWide    = 4
)

// Open reads a range of the version o: If-Match makes the server refuse another.
// A source without ETags is held to size and modification time.
func (s *Store) Open(ctx context.Context, o source.Object, off, n int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, s.failed("read", o.Path, err)
	}
	if off < 0 {
		return nil, s.failed("read", o.Path, fmt.Errorf("%w: offset %d", source.ErrInvalid, off))
	}
	n = min(n, o.Size-off)
	if n <= 0 {
		return io.NopCloser(strings.NewReader("")), nil
	}
	if n >= wideBytes {
		select {
		case s.wide <- struct{}{}:
			return s.openWide(ctx, o, off, n)
		default: // many read as it is
		}
	}
	return s.open(ctx, o, off, n)
}

// open reads a range over one connection at a time.
func (s *Store) open(ctx context.Context, o source.Object, off, n int64) (*body, error) {
	ctx, cancel := context.WithCancel(ctx)
	b := &body{ctx: ctx, cancel: cancel, store: s, object: o, off: off, end: off + n}
	in, err := s.get(ctx, o, off, n)
	if err != nil {
		cancel()
		return nil, err
	}
	b.in = in
	return b, nil
}

// get asks for a range once, with the SDK's retries.
func (s *Store) get(ctx context.Context, o source.Object, off, n int64) (*stream, error) {
	in := &s3.GetObjectInput{Bucket: &s.bucket, Key: aws.String(s.prefix + o.Path), Range: aws.String(fmt.Sprintf("bytes=%d-%d", off, off+n-1)), RequestPayer: s.payer}
	if o.ETag != "" {
		in.IfMatch = &o.ETag
	}
	ctx, cancel := context.WithCancelCause(ctx)
	silence := time.AfterFunc(2*s.timeout, func() { cancel(errSilent) })
	out, err := s.client.GetObject(ctx, in)
	silence.Stop()
	if err != nil {
		err = s.failed("read", o.Path, because(ctx, err))
		cancel(nil)
		return nil, err
	}
	st := &stream{ctx: ctx, cancel: cancel, silence: silence, timeout: s.timeout, in: out.Body}
	if err := check(out, o, off, n); err != nil {
		st.close()
		return nil, s.failed("read", o.Path, err)
	}
	return st, nil
}

// check compares an answer with what was asked for.
func check(out *s3.GetObjectOutput, o source.Object, off, n int64) error {
	if o.ETag != "" && out.ETag != nil && *out.ETag != o.ETag || o.ETag == "" && !o.ModTime.IsZero() && !modTime(out.LastModified).Equal(o.ModTime) {
		return source.ErrChanged
	}
	length := aws.ToInt64(out.ContentLength)
	if raw, ok := awsmiddleware.GetRawResponse(out.ResultMetadata).(*smithyhttp.Response); ok && raw.StatusCode == http.StatusOK {
		// Not a part: right only if all was asked for.
		switch {
		case length != o.Size:
			return source.ErrChanged
		case n != o.Size:
			return fmt.Errorf("%w: the server gives the whole object in place of a range", source.ErrInvalid)
		}
		return nil
	}
	if size, ok := strings.CutPrefix(aws.ToString(out.ContentRange), fmt.Sprintf("bytes %d-%d/", off, off+n-1)); ok {
		if total, err := strconv.ParseInt(size, 10, 64); err == nil && total != o.Size {
			return source.ErrChanged
		}
	} else if out.ContentRange != nil && length == n {
		return fmt.Errorf("%w: the server gives %s in place of %d bytes at %d", source.ErrUnavailable, *out.ContentRange, n, off)
	}
	if length >= 0 && length != n {
		return source.ErrChanged
	}
	return nil
}

// stream is one answer. Reads of it end when the server is silent for too long
// or all but silent.
type stream struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	silence *time.Timer
	timeout time.Duration
	in      io.ReadCloser
	got     int64
	waited  time.Duration // for got bytes
}

func (s *stream) read(p []byte) (int, error) {
	began := time.Now()
	s.silence.Reset(s.timeout)
	n, err := s.in.Read(p)
	s.silence.Stop()
	s.got += int64(n)
	s.waited += time.Since(began)
	if s.waited > s.timeout {
		if s.got < int64(s.waited.Seconds()*minRate) && err == nil {
			err = errSilent
		}
		s.got, s.waited = 0, 0
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = because(s.ctx, err)
	}
	return n, err
}

func (s *stream) close() {
	s.silence.Stop()
	s.cancel(nil)
	s.in.Close()
}

// body gives a range, over one connection after another if they break off.
type body struct {
	ctx      context.Context
	cancel   context.CancelFunc
	store    *Store
	object   source.Object
	off, end int64
	resumed  int

	mu     sync.Mutex // Close may come while Read waits
	in     *stream
	closed bool
}

func (b *body) Read(p []byte) (int, error) {
	if b.off >= b.end {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	p = p[:min(int64(len(p)), b.end-b.off)]
	for {
		b.mu.Lock()
		in, closed := b.in, b.closed
		b.mu.Unlock()
		if closed {
			return 0, b.store.failed("read", b.object.Path, context.Canceled)
		}
		n, err := in.read(p)
		b.off += int64(n)
		if err == nil || b.off >= b.end {
			return n, nil
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err = b.resume(err); err != nil || n > 0 {
			return n, err
		}
	}
}

// resume goes on where the connection that ended with cause has left off.
func (b *body) resume(cause error) error {
	if err := b.ctx.Err(); err != nil {
		return b.store.failed("read", b.object.Path, err)
	}
	if b.resumed == resumes || errors.Is(cause, errSilent) && b.resumed > 0 { // silence has taken its time
		return b.store.failed("read", b.object.Path, cause)
	}
	pause := time.NewTimer(firstPause << b.resumed)
	defer pause.Stop()
	b.resumed++
	select {
	case <-pause.C:
	case <-b.ctx.Done():
		return b.store.failed("read", b.object.Path, b.ctx.Err())
	}
	in, err := b.store.get(b.ctx, b.object, b.off, b.end-b.off)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.in.close()
	b.in = in
	if b.closed {
		in.close()
	}
	return nil
}

func (b *body) Close() error {
	b.cancel()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.in.close()
	return nil
}

// openWide reads a range in parts over several connections. The caller has
// taken a place of s.wide; the reader's Close gives it back.
func (s *Store) openWide(ctx context.Context, o source.Object, off, n int64) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &wide{ctx: ctx, cancel: cancel, store: s, object: o, next: off, end: off + n}
	for range partsAhead {
		w.ahead()
	}
	// What fails at once, fails here.
	if err := w.take(); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// wide gives a range whose parts come over several connections.
type wide struct {
	ctx       context.Context
	cancel    context.CancelFunc
	store     *Store
	object    source.Object
	next, end int64 // of what is not yet asked for

	mu     sync.Mutex // Close may come while Read waits
	wg     sync.WaitGroup
	closed bool

	coming []chan *part // in the order of the range
	now    *part
	rest   []byte // of now
}

type part struct {
	data []byte
	n    int
	err  error
}

var parts = sync.Pool{New: func() any { return &part{data: make([]byte, partBytes)} }}

// ahead asks for the next part, if there is one.
func (w *wide) ahead() {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(partBytes, w.end-w.next)
	if n <= 0 || w.closed {
		return
	}
	off, out := w.next, make(chan *part, 1)
	w.next += n
	w.coming = append(w.coming, out)
	w.wg.Go(func() {
		p := parts.Get().(*part)
		p.n = int(n)
		var b *body
		if b, p.err = w.store.open(w.ctx, w.object, off, n); p.err == nil {
			_, p.err = io.ReadFull(b, p.data[:n])
			b.Close()
		}
		out <- p
	})
}

// take waits for the next part and asks for one more.
func (w *wide) take() error {
	if w.now != nil {
		parts.Put(w.now)
		w.now = nil
	}
	if len(w.coming) == 0 {
		return io.EOF
	}
	select {
	case p := <-w.coming[0]:
		w.coming = w.coming[1:]
		if p.err != nil {
			defer parts.Put(p)
			return p.err
		}
		w.now, w.rest = p, p.data[:p.n]
		w.ahead()
		return nil
	case <-w.ctx.Done():
		return w.store.failed("read", w.object.Path, w.ctx.Err())
	}
}

func (w *wide) Read(p []byte) (int, error) {
	for len(w.rest) == 0 && len(p) > 0 {
		if err := w.take(); err != nil {
			return 0, err
		}
	}
	n := copy(p, w.rest)
	w.rest = w.rest[n:]
	return n, nil
}

// Close ends the parts that are under way and waits for them, which is short.
func (w *wide) Close() error {
	w.cancel()
	w.mu.Lock()
	again := w.closed
	w.closed = true
	w.mu.Unlock()
	if !again {
		w.wg.Wait()
		<-w.store.wide
	}
	return nil
}
