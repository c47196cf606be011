// Package posix reads a directory that is mounted here: a PersistentVolume, an
// NFS or other network mount, a host path.
package posix

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/runtime/source"
)

// Store reads below one directory and never leaves it: symbolic links are
// followed by the readers of the cache, not here, and paths with links that
// lead out are refused by the kernel.
type Store struct {
	root *os.Root
	name string
}

var _ source.Store = (*Store)(nil)

// Open opens dir; name is the mount point as its user wrote it, for errors.
func Open(dir, name string) (*Store, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open source %s: %w", name, classify(err))
	}
	return &Store{root: root, name: name}, nil
}

// String is the mount point.
func (s *Store) String() string { return s.name }

// Close lets go of the directory.
func (s *Store) Close() error { return s.root.Close() }

// Stat looks up one path without following a link at its end.
func (s *Store) Stat(_ context.Context, p string) (source.Object, error) {
	info, err := s.root.Lstat(local(p))
	if err != nil {
		return source.Object{}, s.failed("stat", p, err)
	}
	o, ok, err := s.object(p, info)
	if err != nil {
		return source.Object{}, err
	}
	if !ok {
		return source.Object{}, fmt.Errorf("stat %s/%s: a %s is not served: %w", s.name, p, info.Mode().Type(), source.ErrNotExist)
	}
	return o, nil
}

// List reads one directory. Sockets, pipes and devices are left out; entries
// that vanish while it reads are, too.
func (s *Store) List(ctx context.Context, dir string, each func(source.Object) error) error {
	f, err := s.root.Open(local(dir))
	if err != nil {
		return s.failed("list", dir, err)
	}
	defer f.Close()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		entries, err := f.ReadDir(1024)
		for _, e := range entries {
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return s.failed("list", dir, err)
			}
			o, ok, err := s.object(path.Join(dir, e.Name()), info)
			if errors.Is(err, source.ErrNotExist) || err == nil && !ok {
				continue
			}
			if err != nil {
				return err
			}
			if err := each(o); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return s.failed("list", dir, err)
		}
	}
}

// Open reads a range of the version o. Its version is compared before the first
// byte and after the last, so bytes of another version end in ErrChanged.
func (s *Store) Open(ctx context.Context, o source.Object, off, n int64) (io.ReadCloser, error) {
	// Without blocking: a pipe may have taken the place of the file.
	f, err := s.root.OpenFile(local(o.Path), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, s.failed("open", o.Path, err)
	}
	end := o.Size
	if n < o.Size-off {
		end = off + max(n, 0)
	}
	r := &reader{store: s, file: f, object: o, off: off, end: end}
	if err := settle(ctx, o.ModTime); err != nil {
		f.Close()
		return nil, err
	}
	if err := r.unchanged(); err != nil {
		f.Close()
		return nil, err
	}
	return r, nil
}

// settle waits until a write to a file that was just modified would change its
// modification time: kernels count in ticks of up to 10 ms, some file systems
// in whole seconds. Before that, one version may have two contents.
func settle(ctx context.Context, modified time.Time) error {
	tick := 20 * time.Millisecond
	if modified.Nanosecond() == 0 {
		tick = time.Second
	}
	wait := time.Until(modified.Add(tick))
	if wait <= 0 || wait > tick { // the latter is a clock that goes ahead
		return nil
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) object(p string, info fs.FileInfo) (o source.Object, ok bool, err error) {
	o = source.Object{Path: p, ModTime: info.ModTime(), Mode: uint32(info.Mode().Perm())}
	switch info.Mode().Type() {
	case 0:
		o.Size = info.Size()
	case fs.ModeDir:
		o.Dir = true
	case fs.ModeSymlink:
		if o.Link, err = s.root.Readlink(local(p)); err != nil {
			return o, false, s.failed("read link", p, err)
		}
	default:
		return o, false, nil
	}
	return o, true, nil
}

func (s *Store) failed(what, p string, err error) error {
	return fmt.Errorf("%s %s: %w", what, path.Join(s.name, p), classify(err))
}

// local is how os.Root wants a path: the root itself has no name.
func local(p string) string {
	if p == "" {
		return "."
	}
	return p
}

func classify(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENAMETOOLONG):
		return fmt.Errorf("%w: %w", source.ErrNotExist, err)
	case errors.Is(err, fs.ErrPermission), strings.Contains(err.Error(), "path escapes from parent"):
		// The last is what os.Root says of a link that leads out; it has no sentinel.
		return fmt.Errorf("%w: %w", source.ErrDenied, err)
	case errors.Is(err, syscall.ESTALE):
		// A network file system: the file was replaced at its server.
		return fmt.Errorf("%w: %w", source.ErrChanged, err)
	default:
		return fmt.Errorf("%w: %w", source.ErrUnavailable, err)
	}
}

// reader gives the bytes of one range.
type reader struct {
	store    *Store
	file     *os.File
	object   source.Object
	off, end int64
}

func (r *reader) Read(p []byte) (int, error) {
	if r.off >= r.end {
		if err := r.unchanged(); err != nil {
			return 0, err
		}
		return 0, io.EOF
	}
	n, err := r.file.ReadAt(p[:min(int64(len(p)), r.end-r.off)], r.off)
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
	if err != nil && !known(err) {
		err = classify(err)
	}
	if err != nil {
		return n, fmt.Errorf("read %s at %d: %w", path.Join(r.store.name, r.object.Path), r.off, err)
	}
	return n, nil
}

// known errors have their meaning already.
func known(err error) bool {
	return errors.Is(err, source.ErrChanged) || errors.Is(err, io.ErrUnexpectedEOF)
}

func (r *reader) Close() error { return r.file.Close() }

func (r *reader) unchanged() error {
	info, err := r.file.Stat()
	if err != nil {
		return r.store.failed("stat", r.object.Path, err)
	}
	now := source.Object{Size: info.Size(), ModTime: info.ModTime()}
	if !info.Mode().IsRegular() || now.Version() != r.object.Version() {
		return fmt.Errorf("read %s: modified %s, listed with %s: %w", path.Join(r.store.name, r.object.Path),
			info.ModTime().Format(time.RFC3339Nano), r.object.ModTime.Format(time.RFC3339Nano), source.ErrChanged)
	}
	return nil
}
