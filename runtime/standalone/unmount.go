package standalone

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/fuse"
)

// endWait is how long a daemon may take to end once its mount is gone, and how
// long one that is told to end may take before it is killed.
const (
	endWait  = 2 * time.Minute
	stopWait = 10 * time.Second
	// copyWait is how long the kernel may take to tell the daemon; after that,
	// another mount namespace must have a copy of the mount.
	copyWait = time.Second
)

// ErrBusy: the mount is in use.
var ErrBusy = errors.New("in use")

// Unmount takes the mount away and returns when the daemon has ended as well.
// A mount in use is left alone unless force is set; then it goes at once, and a
// daemon that hangs is killed. What a killed daemon left behind is cleaned up.
func Unmount(ctx context.Context, runDir, mountPoint string, force bool) error {
	p, s, inside, err := find(runDir, mountPoint)
	switch {
	case errors.Is(err, ErrNotMounted):
		return unmountStray(mountPoint)
	case err != nil:
		return err
	case inside != "/":
		return fmt.Errorf("%s is inside the mount %s: name that", mountPoint, s.MountPoint)
	}
	if p.alive() {
		if err := end(ctx, p, s, force); err != nil {
			return err
		}
	}
	// Whatever is left is of the dead.
	lock, err := p.lock(ctx, lockPatience)
	if err != nil {
		return fmt.Errorf("take %s: %w", s.MountPoint, err)
	}
	defer lock.Close()
	if err := fuse.Detach(s.MountPoint); err != nil {
		return err
	}
	return p.clean()
}

// end has a living daemon unmount and end.
func end(ctx context.Context, p place, s State, force bool) error {
	if !force {
		dev, mounted := deviceAt(s.MountPoint)
		switch err := unix.Unmount(s.MountPoint, unix.UMOUNT_NOFOLLOW); {
		case errors.Is(err, unix.EBUSY):
			return fmt.Errorf("%s is %w; end what uses it (fuser -vm %s), or take it away at once with --force", s.MountPoint, ErrBusy, s.MountPoint)
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT): // not mounted, or not yet
			if err := p.call(ctx, http.MethodPost, pathStop, nil); err != nil && p.alive() {
				return fmt.Errorf("%w; with --force it is killed", err)
			}
		case err != nil:
			return fmt.Errorf("unmount %s: %w", s.MountPoint, err)
		case mounted && p.gone(ctx, s, copyWait) != nil && ctx.Err() == nil:
			if err := p.endCopies(ctx, s, dev); err != nil {
				return err
			}
		}
		return p.gone(ctx, s, endWait)
	}
	short, cancel := context.WithTimeout(ctx, stopWait)
	defer cancel()
	if p.call(short, http.MethodPost, pathStop, nil) == nil && p.gone(short, s, stopWait) == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := s.kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill the daemon of %s, process %d: %w", s.MountPoint, s.PID, err)
	}
	return p.gone(ctx, s, stopWait)
}

// endCopies ends a daemon whose mount is gone here and lives on in another mount
// namespace, unless it is used there.
func (p place) endCopies(ctx context.Context, s State, dev device) error {
	if users := dev.users(); len(users) > 0 {
		return fmt.Errorf("%s is gone here and %w in another mount namespace, by process %d; its daemon ends with that, or at once with --force",
			s.MountPoint, ErrBusy, users[0])
	}
	if err := p.call(ctx, http.MethodPost, pathStop, nil); err != nil && p.alive() {
		return fmt.Errorf("%w; with --force it is killed", err)
	}
	return nil
}

// gone waits until the daemon has ended.
func (p place) gone(ctx context.Context, s State, patience time.Duration) error {
	for deadline := time.Now().Add(patience); p.alive(); {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: the daemon, process %d, does not end; with --force it is killed", s.MountPoint, s.PID)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond): // a lock cannot be waited for with a limit
		}
	}
	return nil
}

// unmountStray takes away a dead mount of ours that nobody wrote down, as after
// /run was emptied. Living mounts of others' run directories are left alone.
func unmountStray(mountPoint string) error {
	full, err := canonical(mountPoint)
	if err != nil {
		return err
	}
	found, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(full))
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if len(found) == 0 || found[0].FSType != fuse.FSType || !errors.Is(unix.Stat(full, &st), unix.ENOTCONN) {
		return fmt.Errorf("%s: %w", mountPoint, ErrNotMounted)
	}
	return fuse.Detach(full)
}
