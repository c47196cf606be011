package reader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

const (
	// maxWindow is the read-ahead of a steady sequential reader, in blocks.
	maxWindow = 8
	// fullFor is for how long a worker without room is not asked for more.
	fullFor = time.Second
)

var errNoWorker = errors.New("no worker on this node")

// file is one version of a file, open.
type file struct {
	r    *Reader
	ino  uint64
	o    *wirepb.Object
	size int64

	mu sync.Mutex
	// local is the worker's copy, nil while there is none; with says over which
	// connection it was asked for, so that a new worker is asked once.
	local *wire.LocalFile
	with  *wire.Local
	// former are the copies of workers that are gone: reads may still use them.
	former []*wire.LocalFile
	full   time.Time // until when the worker is not asked for more
	// next is where a sequential reader goes on, window how many blocks are
	// fetched ahead of it.
	next, window int64
}

var _ fuse.File = (*file)(nil)

// open opens a version. Only ErrChanged and ErrNotExist are errors: for all else
// there are other ways.
func (r *Reader) open(ctx context.Context, e *wirepb.Entry) (*file, error) {
	f := &file{r: r, ino: e.GetIno(), o: e.GetObject(), size: e.GetSize()}
	var first int64
	if f.size <= wholeBytes {
		first = f.size
	}
	if err := f.attach(ctx, first); stale(err) || ctx.Err() != nil {
		return nil, errors.Join(err, ctx.Err())
	}
	return f, nil
}

// attach asks the worker of this node for its copy, if it has not been asked yet.
func (f *file) attach(ctx context.Context, first int64) error {
	worker := f.r.local.worker()
	f.mu.Lock()
	defer f.mu.Unlock()
	if worker == nil || worker == f.with || f.size == 0 {
		return nil
	}
	f.with = worker
	local, err := worker.Open(ctx, f.o, first)
	if err != nil {
		f.r.m.fallbacks.WithLabelValues(reason(err)).Inc()
		return fmt.Errorf("open %s at the worker of this node: %w", f.o.GetPath(), err)
	}
	if f.local != nil {
		f.former = append(f.former, f.local)
	}
	f.local, f.full = local, time.Time{}
	return nil
}

// Version implements fuse.File.
func (f *file) Version() string { return f.o.GetKey() }

// Backing implements fuse.File.
func (f *file) Backing() *os.File {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.local == nil || !f.local.Complete() {
		return nil
	}
	raw, err := f.local.File().SyscallConn()
	if err != nil {
		return nil
	}
	var dup *os.File
	err = raw.Control(func(fd uintptr) {
		if n, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			dup = os.NewFile(uintptr(n), f.o.GetPath())
		}
	})
	if err != nil {
		return nil
	}
	return dup
}

// Close implements fuse.File.
func (f *file) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, l := range append(f.former, f.local) {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	f.local, f.former = nil, nil
	return errors.Join(errs...)
}

// ReadAt implements fuse.File.
func (f *file) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, unix.EINVAL
	}
	if off >= f.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), f.size-off)]
	errLocal := f.readLocal(ctx, want, off)
	if errLocal != nil {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err := f.readRemote(ctx, want, off); err != nil {
			if stale(err) {
				f.r.refreshSoon(f.ino)
			}
			return 0, err
		}
	}
	if len(want) < len(p) {
		return len(want), io.EOF
	}
	return len(want), nil
}

// readLocal reads from the copy of the worker on this node, which fetches what
// is missing in it.
func (f *file) readLocal(ctx context.Context, p []byte, off int64) error {
	if err := f.attach(ctx, 0); err != nil {
		return err
	}
	f.mu.Lock()
	local, full := f.local, time.Now().Before(f.full)
	f.mu.Unlock()
	if local == nil {
		return errNoWorker
	}
	if !local.Has(off, int64(len(p))) {
		if full {
			return wire.ErrNoSpace
		}
		if err := local.Ensure(ctx, off, int64(len(p))); err != nil {
			if errors.Is(err, wire.ErrNoSpace) {
				f.mu.Lock()
				f.full = time.Now().Add(fullFor)
				f.mu.Unlock()
			}
			f.r.m.fallbacks.WithLabelValues(reason(err)).Inc()
			return err
		}
	}
	if _, err := local.File().ReadAt(p, off); err != nil {
		return fmt.Errorf("read the cached file of %s at %d: %w", f.o.GetPath(), off, err)
	}
	f.r.m.read.WithLabelValues("local").Add(float64(len(p)))
	return nil
}

// readRemote reads from owners or the source, a block at a time.
func (f *file) readRemote(ctx context.Context, p []byte, off int64) error {
	f.readAhead(ctx, off, int64(len(p)))
	for len(p) > 0 {
		b, err := f.block(ctx, off/blockBytes, true)
		if err != nil {
			return err
		}
		select {
		case <-b.ready:
		case <-ctx.Done():
			f.r.blocks.put(b)
			return ctx.Err()
		}
		if err := b.err; err != nil {
			f.r.blocks.put(b)
			return err
		}
		n := copy(p, b.data[off%blockBytes:])
		f.r.blocks.put(b)
		p, off = p[n:], off+int64(n)
	}
	return nil
}

func (f *file) block(ctx context.Context, i int64, patient bool) (*block, error) {
	n := min(blockBytes, f.size-i*blockBytes)
	return f.r.blocks.get(ctx, blockKey{f.o.GetKey(), i}, n, patient, func(ctx context.Context, p []byte) error {
		return f.r.fetch(ctx, f.o, p, i*blockBytes)
	})
}

// readAhead has the next blocks of a sequential reader fetched while it reads
// this one: each time it comes to where it was expected, the window doubles.
func (f *file) readAhead(ctx context.Context, off, n int64) {
	f.mu.Lock()
	first, last := off/blockBytes, (off+n-1)/blockBytes
	switch {
	case last < f.next && first >= f.next-maxWindow: // in what was read lately
	case first >= f.next-1 && first <= f.next+f.window:
		f.window = min(max(2*f.window, 1), maxWindow, max(1, f.r.cfg.MemoryBytes/blockBytes/2))
		f.next = last + 1
	default:
		f.window, f.next = 0, last+1
	}
	from, to := f.next, min(f.next+f.window, (f.size+blockBytes-1)/blockBytes)
	f.mu.Unlock()
	for i := from; i < to; i++ {
		b, err := f.block(ctx, i, false)
		if err != nil || b == nil {
			return
		}
		f.r.blocks.put(b)
	}
}

// fetch fills p from the first owner that gives the bytes, else from the source.
func (r *Reader) fetch(ctx context.Context, o *wirepb.Object, p []byte, off int64) error {
	var answer error // of an owner that has asked the source
	for _, m := range r.view.Owners(o.GetKey(), off) {
		if r.client.Suspect(m.GetAddress()) {
			continue
		}
		err := r.client.Fetch(ctx, m.GetAddress(), wire.Range{Object: o, Off: off, N: int64(len(p)), Flags: wire.FlagFetch | wire.FlagReader}, p)
		if err == nil {
			r.m.read.WithLabelValues("remote").Add(float64(len(p)))
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.m.fallbacks.WithLabelValues(reason(err)).Inc()
		if answer == nil || stale(err) {
			answer = err
		}
	}
	err := r.sources.ReadAt(ctx, o, p, off)
	if err == nil {
		r.m.read.WithLabelValues("source").Add(float64(len(p)))
		return nil
	}
	if stale(answer) && !stale(err) {
		err = fmt.Errorf("%w; and here: %w", answer, err)
	}
	return err
}
