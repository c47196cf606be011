package posix

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/source"
)

// pieceBytes is how much of a file that others serve one call reads, into
// memory that the call may keep.
const pieceBytes = 1 << 20

// Open reads a range of the version o. Its version is compared before the first
// byte and after the last, so bytes of another version end in ErrChanged.
func (s *Store) Open(ctx context.Context, o source.Object, off, n int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if off < 0 {
		return nil, fmt.Errorf("open %s at %d: %w", s.uri(o.Path), off, source.ErrInvalid)
	}
	f, st, err := s.openFile(ctx, o.Path)
	if err != nil {
		return nil, s.failed("open", o.Path, err)
	}
	end := min(off, o.Size)
	if n > 0 {
		end = off + min(n, max(0, o.Size-off))
	}
	r := &reader{ctx: ctx, store: s, file: f, object: o, off: off, end: end, dataEnd: off}
	if settle(ctx, st) {
		st, err = r.stat()
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = r.compare(st)
	}
	if err != nil {
		r.Close()
		return nil, s.failed("open", o.Path, err)
	}
	if sparse := st.Blocks*512 < st.Size; !sparse {
		r.dataEnd = end
	}
	return r, nil
}

// openFile opens a regular file and nothing else: to open a pipe or a device may
// wait for long, or do something.
func (s *Store) openFile(ctx context.Context, p string) (*os.File, *unix.Statx_t, error) {
	type opened struct {
		file *os.File
		st   unix.Statx_t
	}
	got, err := call(ctx, s.gate, func() (o opened, err error) {
		at, err := s.open(p, unix.O_PATH)
		if err != nil {
			return o, err
		}
		defer unix.Close(at)
		if err := statx(at, "", unix.AT_EMPTY_PATH, &o.st); err != nil {
			return o, err
		}
		if o.st.Mode&unix.S_IFMT != unix.S_IFREG {
			return o, fmt.Errorf("%w: it is no file any more", source.ErrChanged)
		}
		// The very inode that was looked at, whatever has its name now.
		fd, err := eintr(func() (int, error) {
			return unix.Open("/proc/self/fd/"+strconv.Itoa(at), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		})
		if err != nil {
			return o, err
		}
		o.file = os.NewFile(uintptr(fd), p)
		// A network file system asks its server when a file is opened.
		if s.gate != nil {
			if err := statx(fd, "", unix.AT_EMPTY_PATH, &o.st); err != nil {
				o.file.Close()
				return o, err
			}
		}
		return o, nil
	}, func(o opened) { o.file.Close() })
	return got.file, &got.st, err
}

// settle waits until a write to a file that was just modified would change its
// times, and tells whether it had to: kernels count in ticks of up to 10 ms, some
// file systems in whole seconds. Before that, one version may have two contents.
func settle(ctx context.Context, st *unix.Statx_t) (waited bool) {
	modified := when(st.Mtime)
	if changed := when(st.Ctime); changed.After(modified) {
		modified = changed
	}
	tick := 20 * time.Millisecond
	if st.Mtime.Nsec == 0 && st.Ctime.Nsec == 0 {
		tick = time.Second
	}
	wait := time.Until(modified.Add(tick))
	if wait <= 0 || wait > tick { // the latter is a clock that goes ahead
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return true
}

// reader gives the bytes of one range.
type reader struct {
	ctx    context.Context
	store  *Store
	object source.Object
	end    int64
	// dataEnd is up to where the file is known to have data from off on; what
	// is known to be a hole is not asked for.
	dataEnd int64
	stale   bool // it was opened anew after its handle went stale

	mu   sync.Mutex // file may be replaced while Close wants it
	file *os.File
	off  int64
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if r.off >= r.end {
		if err := r.unchanged(); err != nil {
			return 0, r.failed(err)
		}
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), r.end-r.off)]
	if len(p) == 0 {
		return 0, nil
	}
	n, err := r.some(p)
	if errors.Is(err, unix.ESTALE) && r.reopen() == nil {
		n, err = r.some(p)
	}
	r.off += int64(n)
	if errors.Is(err, io.EOF) {
		// Shorter than it was listed: it has been cut meanwhile.
		if err = r.unchanged(); err == nil && r.off < r.end {
			err = io.ErrUnexpectedEOF
		}
	}
	if err == nil && r.off >= r.end {
		err = r.unchanged()
	}
	if err != nil {
		return n, r.failed(err)
	}
	return n, nil
}

// some reads at off: zeros without asking as far as there is a hole.
func (r *reader) some(p []byte) (int, error) {
	f := r.handle()
	if r.off >= r.dataEnd {
		data, end, err := r.extent(f)
		if err != nil {
			return 0, err
		}
		if data > r.off {
			n := int(min(int64(len(p)), data-r.off))
			clear(p[:n])
			return n, nil
		}
		r.dataEnd = end
	}
	if r.store.gate == nil {
		return f.ReadAt(p, r.off)
	}
	p = p[:min(len(p), pieceBytes)]
	off := r.off
	piece, err := call(r.ctx, r.store.gate, func() (*piece, error) {
		b := pieces.Get().(*piece)
		b.n, b.err = f.ReadAt(b.data[:len(p)], off)
		return b, nil
	}, func(b *piece) { pieces.Put(b) })
	if err != nil {
		return 0, err
	}
	defer pieces.Put(piece)
	return copy(p, piece.data[:piece.n]), piece.err
}

type piece struct {
	data []byte
	n    int
	err  error
}

var pieces = sync.Pool{New: func() any { return &piece{data: make([]byte, pieceBytes)} }}

// extent is the next data at or after off, within the range. File systems that
// cannot tell say that everything is data.
func (r *reader) extent(f *os.File) (data, end int64, err error) {
	type extent struct{ data, end int64 }
	off, limit := r.off, r.end
	e, err := call(r.ctx, r.store.gate, func() (extent, error) {
		data, err := f.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return extent{limit, limit}, nil
		}
		if err != nil {
			return extent{off, limit}, nil
		}
		end, err := f.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			end = limit
		}
		return extent{min(data, limit), min(end, limit)}, nil
	}, nil)
	return e.data, e.end, err
}

// reopen replaces a handle that its server no longer knows, once, if the file is
// still the one that is read.
func (r *reader) reopen() error {
	if r.stale {
		return unix.ESTALE
	}
	r.stale = true
	f, st, err := r.store.openFile(r.ctx, r.object.Path)
	if err != nil {
		return err
	}
	if err := r.compare(st); err != nil {
		f.Close()
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil {
		f.Close()
		return fs.ErrClosed
	}
	r.store.closeLater(r.file)
	r.file = f
	return nil
}

func (r *reader) handle() *os.File {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.file
}

// Close may be called while a Read waits.
func (r *reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file != nil {
		r.store.closeLater(r.file)
		r.file = nil
	}
	return nil
}

// closeLater closes a file that was only read. One that others serve is not
// waited for.
func (s *Store) closeLater(f *os.File) {
	if s.gate == nil {
		f.Close()
		return
	}
	go f.Close() // ends with the server's answer, as the calls that hold a slot
}

func (r *reader) failed(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read %s at %d: %w", r.store.uri(r.object.Path), r.off, err)
	}
	return fmt.Errorf("read %s at %d: %w", r.store.uri(r.object.Path), r.off, classify(err))
}

func (r *reader) stat() (*unix.Statx_t, error) {
	f := r.handle()
	if f == nil {
		return nil, fs.ErrClosed
	}
	return call(r.ctx, r.store.gate, func() (st *unix.Statx_t, err error) {
		raw, err := f.SyscallConn()
		if err != nil {
			return nil, err
		}
		st = &unix.Statx_t{}
		if errControl := raw.Control(func(fd uintptr) { err = statx(int(fd), "", unix.AT_EMPTY_PATH, st) }); errControl != nil {
			err = errControl
		}
		return st, err
	}, nil)
}

func (r *reader) unchanged() error {
	st, err := r.stat()
	if errors.Is(err, unix.ESTALE) {
		if err = r.reopen(); err != nil { // it compares
			return err
		}
		return nil
	}
	if err != nil {
		return err
	}
	return r.compare(st)
}

func (r *reader) compare(st *unix.Statx_t) error {
	now := source.Object{Size: int64(st.Size), ModTime: when(st.Mtime), ETag: r.store.identity.tag(st)}
	was := r.object
	if was.ETag == "" { // all that whoever listed it knew is size and modification time
		now.ETag = ""
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || now.Version() != was.Version() || now.Size != was.Size {
		return fmt.Errorf("%w: %d bytes modified %s, listed with %d of %s", source.ErrChanged,
			now.Size, now.ModTime.Format(time.RFC3339Nano), was.Size, was.ModTime.Format(time.RFC3339Nano))
	}
	return nil
}
