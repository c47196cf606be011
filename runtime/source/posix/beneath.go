package posix

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/source"
)

// handle is a descriptor that several calls use; the last closes it.
type handle struct {
	fd    int
	users atomic.Int64
}

func newHandle(fd int) *handle {
	h := &handle{fd: fd}
	h.users.Store(1)
	return h
}

func (h *handle) release() {
	if h != nil && h.users.Add(-1) == 0 {
		unix.Close(h.fd)
	}
}

func openRoot(dir, sub string) (*handle, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	fd, err := eintr(func() (int, error) { return unix.Open(dir, flags, 0) })
	if err != nil || sub == "" {
		return newHandle(fd), err
	}
	defer unix.Close(fd)
	below, err := beneath(fd, fromText(sub), unix.O_PATH|unix.O_DIRECTORY)
	return newHandle(below), err
}

// hold gives the root and keeps it open until it is released.
func (s *Store) hold() (*handle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fs.ErrClosed
	}
	s.root.users.Add(1)
	return s.root, nil
}

// open opens p below the root. When the root itself has gone stale, because a
// server was replaced or a mount came back, it is opened anew once.
func (s *Store) open(p string, flags int) (int, error) {
	name := fromText(p)
	for again := false; ; again = true {
		root, err := s.hold()
		if err != nil {
			return -1, err
		}
		fd, err := beneath(root.fd, name, flags)
		root.release()
		if again || !errors.Is(err, unix.ESTALE) && !errors.Is(err, unix.ENOTCONN) {
			return fd, err
		}
		fresh, errOpen := openRoot(s.dir, s.sub)
		if errOpen != nil {
			return -1, err
		}
		// Without its mount the directory is another, most likely an empty one:
		// nothing in it is missing.
		if fileSystemOf(fresh).from != s.from {
			fresh.release()
			return -1, err
		}
		s.mu.Lock()
		if s.closed {
			fresh.release()
		} else {
			s.root.release()
			s.root = fresh
		}
		s.mu.Unlock()
	}
}

// maxPath is what one system call takes, its final zero included.
const maxPath = unix.PathMax - 1

// beneath opens a path below the directory root and nothing else: the kernel
// follows links only as long as they stay there.
func beneath(root int, p string, flags int) (int, error) {
	if p == "" {
		p = "."
	}
	at := root
	for len(p) > maxPath { // deeper than one call can name
		cut := strings.LastIndexByte(p[:maxPath], '/')
		if cut < 0 {
			return -1, unix.ENAMETOOLONG
		}
		next, err := beneath(at, p[:cut], unix.O_PATH|unix.O_DIRECTORY)
		if at != root {
			unix.Close(at)
		}
		if err != nil {
			return -1, err
		}
		at, p = next, p[cut+1:]
	}
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	// EAGAIN: something was renamed while the kernel looked. It does not last.
	fd, err := eintr(func() (int, error) { return unix.Openat2(at, p, &how) })
	for try := 0; errors.Is(err, unix.EAGAIN) && try < 100; try++ {
		fd, err = unix.Openat2(at, p, &how)
	}
	if at != root {
		unix.Close(at)
	}
	return fd, err
}

func eintr(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func statx(at int, name string, flags int, st *unix.Statx_t) error {
	_, err := eintr(func() (int, error) {
		return 0, unix.Statx(at, name, flags|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS, st)
	})
	return err
}

func readlink(at int, name string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := eintr(func() (int, error) { return unix.Readlinkat(at, name, b) })
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// classify gives an error of the system the meaning that sources share.
func classify(err error) error {
	kind := source.ErrUnavailable
	for _, known := range []error{source.ErrNotExist, source.ErrDenied, source.ErrChanged, source.ErrUnavailable, source.ErrInvalid} {
		if errors.Is(err, known) {
			return err
		}
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENAMETOOLONG),
		errors.Is(err, syscall.ELOOP): // links that lead in a circle lead to nothing
		kind = source.ErrNotExist
	case errors.Is(err, syscall.EXDEV):
		return fmt.Errorf("%w: it leads out of the mount", source.ErrDenied)
	case errors.Is(err, fs.ErrPermission):
		kind = source.ErrDenied
	case errors.Is(err, syscall.ESTALE):
		// A network file system: the file was replaced at its server.
		kind = source.ErrChanged
	}
	return fmt.Errorf("%w: %w", kind, err)
}
