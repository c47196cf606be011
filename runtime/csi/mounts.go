package csi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Nothing here looks into a mount without a bound on the time: a FUSE whose
// server hangs would hold the caller for ever. The mount table is read, and
// statfs is asked in a goroutine that may be left behind.

// errNoAnswer: the file system did not answer in time.
var errNoAnswer = errors.New("the file system does not answer")

// prober asks file systems whether they live, at most once at a time each.
type prober struct {
	timeout time.Duration

	mu      sync.Mutex
	pending map[string]*probe
}

type probe struct {
	done chan struct{}
	st   unix.Statfs_t
	err  error
}

func newProber(timeout time.Duration) *prober {
	return &prober{timeout: timeout, pending: map[string]*probe{}}
}

// statfs is statfs(2), bounded. A path that hangs holds one goroutine and one
// thread until the kernel lets them go, however often it is asked about.
func (p *prober) statfs(ctx context.Context, path string) (unix.Statfs_t, error) {
	p.mu.Lock()
	pr := p.pending[path]
	if pr == nil {
		pr = &probe{done: make(chan struct{})}
		p.pending[path] = pr
		go func() {
			pr.err = unix.Statfs(path, &pr.st)
			p.mu.Lock()
			delete(p.pending, path)
			p.mu.Unlock()
			close(pr.done)
		}()
	}
	p.mu.Unlock()
	timeout := time.NewTimer(p.timeout)
	defer timeout.Stop()
	select {
	case <-pr.done:
		return pr.st, pr.err
	case <-timeout.C:
		return unix.Statfs_t{}, errNoAnswer
	case <-ctx.Done():
		return unix.Statfs_t{}, ctx.Err()
	}
}

// dead tells whether err is what a FUSE without a server says.
func dead(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
}

// mounts lists the mount table's entries at or below path, or at path alone.
func mounts(path string, alsoBelow bool) ([]*mountinfo.Info, error) {
	return mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.Mountpoint != path && (!alsoBelow || !below(m.Mountpoint, path)), false
	})
}

// topAt is the visible mount at path, nil if none.
func topAt(path string) (*mountinfo.Info, error) {
	layers, err := mounts(path, false)
	if err != nil || len(layers) == 0 {
		return nil, err
	}
	return layers[len(layers)-1], nil
}

// isFUSE tells whether a mount is a FUSE, of any engine.
func isFUSE(m *mountinfo.Info) bool {
	return m.FSType == "fuse" || strings.HasPrefix(m.FSType, "fuse.")
}

// tableLook is how long awaitFUSE trusts that the kernel tells of every change:
// a mount that comes by propagation from another mount namespace was seen not
// to wake poll(2) on the mount table (Linux 6.18).
const tableLook = 250 * time.Millisecond

// awaitFUSE waits until a FUSE that answers is mounted at path. It sleeps in
// poll(2) on the mount table, and looks again every tableLook.
func (p *prober) awaitFUSE(ctx context.Context, path string) (*mountinfo.Info, error) {
	// Opened before it is read, so that no change is missed.
	table, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer table.Close()
	ended, end, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ended.Close()
	var once sync.Once
	stop := context.AfterFunc(ctx, func() { once.Do(func() { end.Close() }) })
	defer func() {
		stop()
		once.Do(func() { end.Close() })
	}()
	tableFD, endedFD := int32(table.Fd()), int32(ended.Fd())
	last := errors.New("nothing is mounted there")
	for {
		m, err := topAt(path)
		if err != nil {
			return nil, err
		}
		switch {
		case m == nil:
		case !isFUSE(m):
			last = fmt.Errorf("a file system of type %s is mounted there", m.FSType)
		default:
			if _, err = p.statfs(ctx, path); err == nil {
				return m, nil
			}
			if ctx.Err() == nil {
				last = fmt.Errorf("a FUSE is mounted there, but: %w", err)
			}
		}
		if ctx.Err() != nil {
			return nil, last
		}
		_, err = unix.Poll([]unix.PollFd{
			{Fd: tableFD, Events: unix.POLLPRI},
			{Fd: endedFD, Events: unix.POLLIN},
		}, int(tableLook.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("watch the mount table: %w", err)
		}
	}
}

// openInside opens what sub names below root, and never anything elsewhere: not
// by dots, nor by links, of which a Dataset may have any.
// The file is opened as a place (O_PATH), for fstat and bind.
func openInside(root, sub string) (*os.File, error) {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	dir := os.NewFile(uintptr(fd), root)
	if sub == "" {
		return dir, nil
	}
	defer dir.Close()
	fd, err = unix.Openat2(fd, sub, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), filepath.Join(root, sub)), nil
}

// place is the path of an open file, whatever has become of its name.
func place(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// bind mounts what source stands for at target.
func bind(source *os.File, target string, readOnly bool) error {
	if err := unix.Mount(place(source), target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	flags := uintptr(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_NOSUID | unix.MS_NODEV)
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	if err := unix.Mount("", target, "", flags, ""); err != nil {
		return errors.Join(fmt.Errorf("bind read-only: %w", err), detachAll(target))
	}
	return nil
}

// detachAll takes away every layer mounted at or below path, the innermost
// first, without looking into any: it works on a dead FUSE and on a busy one.
func detachAll(path string) error {
	for range 256 { // more layers than any crash loop leaves
		layers, err := mounts(path, true)
		if err != nil || len(layers) == 0 {
			return err
		}
		m := layers[len(layers)-1] // later entries lie upon earlier ones
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
	}
	return fmt.Errorf("unmount %s: too many layers", path)
}

// makeTarget makes the target of a bind mount: a directory or an empty file.
func makeTarget(target string, dir bool) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	if st, err := os.Lstat(target); err == nil && st.Mode()&os.ModeSymlink != 0 {
		if err := os.Remove(target); err != nil { // published as a link before
			return err
		}
	}
	if dir {
		if err := os.Mkdir(target, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		return nil
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}

// targetLocks lets one call at a time work on a target.
type targetLocks struct {
	mu   sync.Mutex
	held map[string]bool
}

func newTargetLocks() *targetLocks { return &targetLocks{held: map[string]bool{}} }

func (l *targetLocks) try(target string) (unlock func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[target] {
		return nil, false
	}
	l.held[target] = true
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.held, target)
	}, true
}
