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
// fails.
func errno(err error) syscall.Errno {
	var no syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
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
