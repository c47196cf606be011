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
	"github.com/millrace/millrace/runtime/peers"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// fullFor is for how long a worker without room is not asked for more.
const fullFor = time.Second

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

	pattern pattern
}

var _ fuse.File = (*file)(nil)

// open opens a version. Only ErrChanged and ErrNotExist are errors: for all else
// there are other ways.
func (r *Reader) open(ctx context.Context, e *wirepb.Entry) (*file, error) {
	f := &file{r: r, ino: e.GetIno(), o: e.GetObject(), size: e.GetSize()}
	var first int64
	if f.size <= wholeBytes && !r.paced() {
		first = f.size
	}
	err := f.attach(ctx, first)
	if err == nil && f.size <= wholeBytes && first < f.size {
		err = f.fill(ctx)
	}
	if stale(err) || ctx.Err() != nil {
		_ = f.Close()
		return nil, errors.Join(err, ctx.Err())
	}
	return f, nil
}

// fill has the worker take in the whole file, at the mount's pace.
func (f *file) fill(ctx context.Context) error {
	f.mu.Lock()
	local := f.local
	f.mu.Unlock()
	if local == nil || local.Complete() {
		return nil
	}
	if err := f.r.pace(ctx, f.size); err != nil {
		return err
	}
	return local.Ensure(ctx, 0, f.size)
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
	local, err := f.here(ctx, off, int64(len(p)))
	if err != nil {
		return err
	}
	if _, err := local.File().ReadAt(p, off); err != nil {
		return fmt.Errorf("read the cached file of %s at %d: %w", f.o.GetPath(), off, err)
	}
	f.r.m.local(int64(len(p)))
	return nil
}

// here is the copy of the worker on this node when it has a range.
func (f *file) here(ctx context.Context, off, n int64) (*wire.LocalFile, error) {
	if err := f.attach(ctx, 0); err != nil {
		return nil, err
	}
	f.mu.Lock()
	local, full := f.local, time.Now().Before(f.full)
	f.mu.Unlock()
	if local == nil {
		return nil, errNoWorker
	}
	if !local.Complete() {
		if err := f.ensure(ctx, local, off, n, full); err != nil {
			return nil, err
		}
	}
	return local, nil
}

// ensure has the worker make a range present. The worker itself reads ahead of
// a sequential reader; a strided one is told to it here.
func (f *file) ensure(ctx context.Context, local *wire.LocalFile, off, n int64, full bool) error {
	at := f.pattern.saw(off, n, f.size)
	if at.strided && !full {
		for _, s := range at.ahead {
			f.r.ensureSoon(local, s)
		}
	}
	if local.Has(off, n) {
		return nil
	}
	if full {
		return wire.ErrNoSpace
	}
	if err := f.r.pace(ctx, n); err != nil {
		return err
	}
	err := local.Ensure(ctx, off, n)
	if err == nil {
		return nil
	}
	if errors.Is(err, wire.ErrNoSpace) {
		f.mu.Lock()
		f.full = time.Now().Add(fullFor)
		f.mu.Unlock()
	}
	f.r.m.fallbacks.WithLabelValues(reason(err)).Inc()
	return err
}

// maxEnsures is how many ranges the worker fetches ahead at a time for the
// strided readers of a mount.
const maxEnsures = 16

// ensureSoon has the worker make a range present while nobody waits. The lease
// of the file may end before: then the worker refuses, and no harm is done.
func (r *Reader) ensureSoon(local *wire.LocalFile, s span) {
	if local.Has(s.off, s.n) || r.paced() {
		return
	}
	select {
	case r.ensures <- struct{}{}:
	default:
		return
	}
	started := r.background(func(ctx context.Context) {
		defer func() { <-r.ensures }()
		_ = local.Ensure(ctx, s.off, s.n) // who reads it meets the error himself
	})
	if !started {
		<-r.ensures
	}
}

// readRemote reads from owners or the source.
func (f *file) readRemote(ctx context.Context, p []byte, off int64) error {
	unit := f.startRemote(off, int64(len(p)))
	for len(p) > 0 {
		b, err := f.block(ctx, off, unit)
		if err != nil {
			return err
		}
		n := copy(p, b.data[off%b.key.unit:])
		f.r.blocks.put(b)
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// startRemote has a range fetched, and what will be wanted next as far as there
// is room, and gives the unit.
func (f *file) startRemote(off, n int64) (unit int64) {
	at := f.pattern.saw(off, n, f.size)
	f.startAll(span{off, n}, at.unit, nil)
	for _, s := range at.ahead {
		if !f.startAll(s, at.aheadUnit, &f.pattern) {
			f.pattern.wasted()
			break
		}
	}
	return at.unit
}

// block is the block of a byte when it is there, for the caller to put back. It
// is fetched if need be.
func (f *file) block(ctx context.Context, off, unit int64) (*block, error) {
	k := f.blockAt(off, unit)
	b, err := f.r.blocks.get(ctx, k, f.blockLength(k), f.fetch)
	if err != nil {
		return nil, err
	}
	select {
	case <-b.ready:
		err = b.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		f.r.blocks.put(b)
		return nil, err
	}
	return b, nil
}

func (f *file) blockAt(off, unit int64) blockKey { return blockKey{f.o.GetKey(), unit, off / unit} }

func (f *file) blockLength(k blockKey) int64 { return min(k.unit, f.size-k.index*k.unit) }

func (f *file) fetch(ctx context.Context, p []byte, off int64) error {
	return f.r.fetch(ctx, f.o, p, off)
}

// startAll has the blocks of a range fetched as long as there is room.
func (f *file) startAll(s span, unit int64, ahead *pattern) bool {
	for off := s.off / unit * unit; off < s.off+s.n; off += unit {
		k := f.blockAt(off, unit)
		if !f.r.blocks.start(k, f.blockLength(k), ahead, f.fetch) {
			return false
		}
	}
	return true
}

// silentFor is how long an owner says nothing before another one is asked to
// read the source in its place.
const silentFor = time.Second

// fetch fills p from an owner, else from the source.
func (r *Reader) fetch(ctx context.Context, o *wirepb.Object, p []byte, off int64) error {
	if err := r.pace(ctx, int64(len(p))); err != nil {
		return err
	}
	began := time.Now()
	owners := r.view.Present(o.GetKey(), off, r.client.Suspect)
	said, err := r.fetchFromOwners(ctx, owners, o, p, off)
	if err == nil {
		r.came("remote", len(p), began)
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	began = time.Now()
	err = r.sources.ReadAt(ctx, o, p, off)
	if err == nil {
		r.came("source", len(p), began)
		return nil
	}
	if stale(said) && !stale(err) {
		err = fmt.Errorf("%w; and here: %w", said, err)
	}
	return err
}

// came counts bytes that were fetched.
func (r *Reader) came(from string, n int, began time.Time) {
	r.m.read.WithLabelValues(from).Add(float64(n))
	r.m.requests.WithLabelValues(from).Inc()
	r.m.fetchSeconds.WithLabelValues(from).Observe(time.Since(began).Seconds())
}

// fetchFromOwners asks the owners in order, and a second one beside a slow
// first. said is the answer of an owner that has asked the source.
func (r *Reader) fetchFromOwners(ctx context.Context, owners []*wirepb.Member, o *wirepb.Object, p []byte, off int64) (said, err error) {
	if len(owners) == 0 {
		return nil, errNoWorker
	}
	r.hedges.order(owners)
	ok, hedged, won, failed := r.hedges.race(ctx, owners, p, r.blocks, func(ctx context.Context, m *wirepb.Member, p []byte, silent time.Duration) error {
		ask := wire.Range{Object: o, Off: off, N: int64(len(p)), Flags: wire.FlagFetch | wire.FlagReader}
		if silent == 0 {
			return r.client.Fetch(ctx, m.GetAddress(), ask, p)
		}
		// A hedge gets what is cached; the source is not read twice because
		// it is slow, only when the first owner seems to be gone.
		ask.Flags = wire.FlagReader
		err := r.client.Fetch(ctx, m.GetAddress(), ask, p)
		if !errors.Is(err, wire.ErrNotCached) {
			return err
		}
		if peers.Sleep(ctx, silentFor-silent); ctx.Err() != nil {
			return ctx.Err()
		}
		ask.Flags |= wire.FlagFetch
		return r.client.Fetch(ctx, m.GetAddress(), ask, p)
	})
	if hedged {
		outcome := "lost"
		if won {
			outcome = "won"
		}
		r.m.hedged.WithLabelValues(outcome).Inc()
	}
	if ok {
		return nil, nil
	}
	for _, e := range failed {
		if ctx.Err() == nil {
			r.m.fallbacks.WithLabelValues(reason(e)).Inc()
		}
		if err == nil || stale(e) {
			err = e
		}
	}
	return err, errors.Join(err, ctx.Err(), errNoOwner)
}

var errNoOwner = errors.New("no owner gives the bytes")
