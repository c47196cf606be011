package stage

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/time/rate"
)

// RemoteStore mounts the files of dir at mountpoint and gives out at most
// bytesPerSecond of them to all readers together, as a remote file system does.
// Reads bypass the page cache, so a second read is as slow as the first. It
// serves until ctx ends.
func RemoteStore(ctx context.Context, dir, mountpoint string, bytesPerSecond int64) error {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return fmt.Errorf("stat %s: %w", dir, err)
	}
	limit := rate.NewLimiter(rate.Limit(bytesPerSecond), maxRead)
	root := &fs.LoopbackRoot{Path: dir, Dev: st.Dev}
	top := &slowNode{LoopbackNode: fs.LoopbackNode{RootData: root}, limit: limit}
	if err := os.MkdirAll(mountpoint, 0o755); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	_ = syscall.Unmount(mountpoint, syscall.MNT_DETACH) // of a predecessor that was killed
	server, err := fs.Mount(mountpoint, top, &fs.Options{
		MountOptions: fuse.MountOptions{AllowOther: true, DirectMountStrict: true, FsName: "remote", Name: "remote", MaxWrite: maxRead},
	})
	if err != nil {
		return fmt.Errorf("mount remote store at %s: %w", mountpoint, err)
	}
	stopped := context.AfterFunc(ctx, func() {
		if err := server.Unmount(); err != nil {
			_ = syscall.Unmount(mountpoint, syscall.MNT_DETACH)
		}
	})
	defer stopped()
	server.Wait()
	return ctx.Err()
}

const maxRead = 1 << 20 // bytes of one FUSE read

type slowNode struct {
	fs.LoopbackNode
	limit *rate.Limiter
}

var (
	_ fs.NodeOpener      = (*slowNode)(nil)
	_ fs.NodeWrapChilder = (*slowNode)(nil)
)

// WrapChild makes every entry below slow as well.
func (n *slowNode) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	return &slowNode{LoopbackNode: fs.LoopbackNode{RootData: child.(*fs.LoopbackNode).RootData}, limit: n.limit}
}

func (n *slowNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	f, _, errno := n.LoopbackNode.Open(ctx, flags)
	if errno != 0 {
		return nil, 0, errno
	}
	return &slowFile{inner: f.(fs.FileReader), limit: n.limit}, fuse.FOPEN_DIRECT_IO, 0
}

// slowFile hides every method of the inner file but Read, passthrough above all.
type slowFile struct {
	inner fs.FileReader
	limit *rate.Limiter
}

var _ fs.FileReader = (*slowFile)(nil)
var _ fs.FileReleaser = (*slowFile)(nil)

func (f *slowFile) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if err := f.limit.WaitN(ctx, min(len(dest), maxRead)); err != nil {
		return nil, syscall.EINTR
	}
	return f.inner.Read(ctx, dest, off)
}

func (f *slowFile) Release(ctx context.Context) syscall.Errno {
	return f.inner.(fs.FileReleaser).Release(ctx)
}
