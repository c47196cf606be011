package fuse

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"github.com/millrace/millrace/runtime/source"
)

// errno is the one place where an error of a FileSystem becomes what the
// application sees. What is not known here is EIO: a read that cannot be right
// fails. EINTR is only for a request that the kernel has interrupted: runtimes
// such as Go's try again for ever upon it.
func errno(ctx context.Context, err error) syscall.Errno {
	var no syscall.Errno
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		return syscall.EINTR
	case errors.Is(err, source.ErrChanged):
		return syscall.ESTALE
	case errors.Is(err, source.ErrDenied):
		return syscall.EACCES
	case errors.Is(err, source.ErrNotExist):
		return syscall.ENOENT
	case errors.As(err, &no):
		return no
	case errors.Is(err, fs.ErrNotExist):
		return syscall.ENOENT
	case errors.Is(err, fs.ErrPermission):
		return syscall.EACCES
	default:
		return syscall.EIO
	}
}
