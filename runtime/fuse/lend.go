package fuse

import (
	"context"
	"fmt"
	"io"
	"sync"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// lendBytes is from where a READ is worth the calls that lending takes.
const lendBytes = 128 << 10

// loan is what answers a READ from where it lies.
type loan struct {
	parts [][]byte
	n     int
	done  func()
}

// loans are those of the READs in hand: go-fuse, which makes the head of each
// reply, has no way to pass them on.
type loans struct {
	mu     sync.Mutex
	byRead map[uint64]*loan // by the request's number
}

func newLoans() *loans { return &loans{byRead: map[uint64]*loan{}} }

func (l *loans) put(unique uint64, given *loan) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byRead[unique] = given
}

// take gives the loan of a request for the caller to end, nil if it has none.
func (l *loans) take(unique uint64) *loan {
	l.mu.Lock()
	defer l.mu.Unlock()
	given := l.byRead[unique]
	delete(l.byRead, unique)
	return given
}

// lend has the File lend what a READ asks for; nil if it does not.
func (o *opened) lend(ctx context.Context, off, n int64) (*loan, error) {
	lender, ok := o.file.(Lender)
	n = min(n, o.node.Size-off)
	if !ok || n < lendBytes {
		return nil, nil
	}
	parts, done, err := lender.Lend(ctx, off, n)
	if err != nil || parts == nil {
		return nil, err
	}
	given := &loan{parts: parts, done: done}
	for _, p := range parts {
		given.n += len(p)
	}
	if int64(given.n) != n { // the kernel would take less for the file's end
		done()
		return nil, fmt.Errorf("%d bytes in place of %d at %d: %w", given.n, n, off, io.ErrUnexpectedEOF)
	}
	return given, nil
}

// lent is the result of a READ whose bytes are not in the reply.
type lent int

func (n lent) Bytes([]byte) ([]byte, gofuse.Status) { return nil, gofuse.EIO }
func (n lent) Size() int                            { return int(n) }
func (n lent) Done()                                {}
func (n lent) Readv([][]byte) (int, gofuse.Status)  { return int(n), gofuse.OK }
