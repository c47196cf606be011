package fuse

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// FSType is the type of our mounts in /proc/self/mountinfo.
const FSType = "fuse.millrace"

// fsName is the source of our mounts, the first column of df.
const fsName = "millrace"

// maxRead is the largest READ that the kernel sends, in bytes: 256 pages, the
// most that fs.fuse.max_pages_limit allows by default.
const maxRead = 1 << 20

// Device is the kernel's end of one mount. The mount need not be this
// process's own: whoever holds /dev/fuse may outlive the server.
type Device interface {
	// Read takes one request, waiting for it. It returns syscall.ENODEV when
	// the mount is gone.
	Read(p []byte) (int, error)
	// Write gives one reply or notification, which may lie in parts.
	Write(parts ...[]byte) (int, error)
	// RegisterBacking gives the kernel a file to read in place of the server.
	// The kernel keeps the file until UnregisterBacking, and until the last
	// open that was answered with the id is gone.
	RegisterBacking(fd uintptr) (id int32, err error)
	UnregisterBacking(id int32) error
	// Unmount ends the session: requests fail, Reads return.
	Unmount() error
	// Close gives the descriptor back; no other method may run or follow.
	Close() error
}

var _ Device = (*kernelDevice)(nil)

// kernelDevice is a mount that this process made.
type kernelDevice struct {
	fd  int
	dir string
	// minor identifies the connection in /sys/class/bdi and /sys/fs/fuse.
	major, minor int
}

// mountKernel opens /dev/fuse and mounts it at dir, read-only. Dead mounts that
// a predecessor left there are taken away first. It needs CAP_SYS_ADMIN.
//
// The mount has no default_permissions: sources such as S3 have no owners, so
// whoever may see the volume may read it.
func mountKernel(dir string) (*kernelDevice, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := Detach(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the mount point: %w", err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, fmt.Errorf("resolve the mount point: %w", err)
	}
	// O_CLOEXEC: a copy that leaks into a child would keep the connection alive.
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	opts := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,max_read=%d", fd, maxRead)
	// MS_RDONLY also keeps atime from going stale with every read, which
	// would turn each following stat into a GETATTR.
	if err := unix.Mount(fsName, dir, FSType, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("mount %s at %s: %w", FSType, dir, err)
	}
	d := &kernelDevice{fd: fd, dir: dir}
	if layers, err := mountsAt(dir); err == nil && len(layers) > 0 {
		top := layers[len(layers)-1]
		d.major, d.minor = top.Major, top.Minor
	}
	return d, nil
}

func (d *kernelDevice) Read(p []byte) (int, error) { return unix.Read(d.fd, p) }

func (d *kernelDevice) Write(parts ...[]byte) (int, error) {
	if len(parts) == 1 {
		return unix.Write(d.fd, parts[0])
	}
	return unix.Writev(d.fd, parts)
}

// ioctls of linux/fuse.h.
const (
	iocBackingOpen  = 0x4010e501
	iocBackingClose = 0x4004e502
)

func (d *kernelDevice) RegisterBacking(fd uintptr) (int32, error) {
	m := struct {
		fd    int32
		flags uint32
		_     uint64
	}{fd: int32(fd)}
	id, _, no := unix.Syscall(unix.SYS_IOCTL, uintptr(d.fd), iocBackingOpen, uintptr(unsafe.Pointer(&m)))
	if no != 0 {
		return 0, no
	}
	return int32(id), nil
}

func (d *kernelDevice) UnregisterBacking(id int32) error {
	if _, _, no := unix.Syscall(unix.SYS_IOCTL, uintptr(d.fd), iocBackingClose, uintptr(unsafe.Pointer(&id))); no != 0 {
		return no
	}
	return nil
}

// Unmount aborts the connection (MNT_FORCE), so that nobody waits for a server
// that has left, and takes the mount away even while it is in use (MNT_DETACH).
// Files that are open in passthrough mode stay readable.
func (d *kernelDevice) Unmount() error {
	layers, err := mountsAt(d.dir)
	if err != nil {
		return err
	}
	if n := len(layers); n == 0 || layers[n-1].Minor != d.minor || layers[n-1].Major != d.major {
		return d.abort() // someone else has unmounted it; open files may still hold it
	}
	if err := unix.Unmount(d.dir, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", d.dir, err)
	}
	return nil
}

// abort ends the connection of a mount that is no longer in our sight.
func (d *kernelDevice) abort() error {
	err := writeKernelFile("fusectl", fmt.Sprintf("%d/abort", d.minor), "1")
	if os.IsNotExist(err) {
		return nil // the last user has left already
	}
	return err
}

// writeKernelFile writes to a file of sysfs or fusectl through a mount of our
// own: containers see /sys read-only, and fusectl not at all.
func writeKernelFile(fstype, name, value string) error {
	dir, err := os.MkdirTemp("", fstype)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(dir) }()
	if err := unix.Mount(fstype, dir, fstype, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount %s: %w", fstype, err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	return os.WriteFile(filepath.Join(dir, name), []byte(value), 0)
}

func (d *kernelDevice) Close() error { return unix.Close(d.fd) }

// setReadAhead raises the kernel's read-ahead beyond the 128 KiB that INIT can
// ask for: a quarter faster where pages are cold. The mount works without.
func (d *kernelDevice) setReadAhead() error {
	name, kib := fmt.Sprintf("class/bdi/%d:%d/read_ahead_kb", d.major, d.minor), fmt.Sprint(maxRead>>10)
	if err := os.WriteFile("/sys/"+name, []byte(kib), 0); err == nil {
		return nil
	}
	return writeKernelFile("sysfs", name, kib)
}

// stopPolls makes one POLL request, which is answered with ENOSYS so that the
// kernel sends no more of them. The Go runtime of this very process polls each
// file that it opens with a system call that it believes to be short; one that
// waits for this server could take the last P.
// The name is known to go-fuse's protocol server.
func (d *kernelDevice) stopPolls() {
	fd, err := unix.Open(d.dir+"/.go-fuse-epoll-hack", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	_ = unix.Close(fd)
}

// mountsAt lists what is mounted at dir, the visible one last. It reads the
// mount table only: a dead mount cannot make it wait.
func mountsAt(dir string) ([]*mountinfo.Info, error) {
	return mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != dir, false })
}

// Detach takes away every mount of ours at dir, dead or alive, without looking
// into any of them. Mounts of others stay.
func Detach(dir string) error {
	for range 64 { // more layers than any crash loop leaves
		layers, err := mountsAt(dir)
		if err != nil {
			return err
		}
		if n := len(layers); n == 0 || layers[n-1].FSType != FSType {
			return nil
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("detach the former mount at %s: %w", dir, err)
		}
	}
	return fmt.Errorf("detach the former mounts at %s: too many layers", dir)
}
