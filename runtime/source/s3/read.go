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
)

// Open reads a range of the version o: If-Match makes the server refuse another.
// A source without ETags is held to size and modification time. It is read over
// one connection; who wants more opens several ranges at once.
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
	if off == 0 && n == o.Size {
		in.Range = nil // cheaper for servers, which matters with small objects
	}
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
	length := int64(-1) // not told
	if out.ContentLength != nil {
		length = *out.ContentLength
	}
	if raw, ok := awsmiddleware.GetRawResponse(out.ResultMetadata).(*smithyhttp.Response); ok && raw.StatusCode == http.StatusOK {
		// Not a part: right only if all was asked for.
		switch {
		case length >= 0 && length != o.Size:
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
