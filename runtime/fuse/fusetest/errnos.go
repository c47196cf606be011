package fusetest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Errnos are system calls whose outcome has to be that of a local file system
// which is mounted read-only. They are this project's own, in the manner of the
// pjdfstest suite: every call that would change something, and the ways in
// which paths and arguments can be wrong. Their names are headings of
// docs/semantics.md.
var Errnos = map[string][]Call{
	"no call can change a file": {
		{"open to write", func(d string) error { return open(d+"/file", unix.O_WRONLY) }},
		{"open to read and write", func(d string) error { return open(d+"/file", unix.O_RDWR) }},
		{"open to append", func(d string) error { return open(d+"/file", unix.O_WRONLY|unix.O_APPEND) }},
		{"open and truncate", func(d string) error { return open(d+"/file", unix.O_WRONLY|unix.O_TRUNC) }},
		{"open to read and truncate", func(d string) error { return open(d+"/file", unix.O_RDONLY|unix.O_TRUNC) }},
		{"truncate", func(d string) error { return unix.Truncate(d+"/file", 0) }},
		{"truncate a directory", func(d string) error { return unix.Truncate(d+"/dir", 0) }},
		{"truncate what is not there", func(d string) error { return unix.Truncate(d+"/none", 0) }},
		{"write to what is open to be read", with("file", func(fd int) error { _, err := unix.Write(fd, []byte("x")); return err })},
		{"pwrite to what is open to be read", with("file", func(fd int) error { _, err := unix.Pwrite(fd, []byte("x"), 0); return err })},
		{"ftruncate", with("file", func(fd int) error { return unix.Ftruncate(fd, 0) })},
		{"fallocate", with("file", func(fd int) error { return unix.Fallocate(fd, 0, 0, 4096) })},
		{"copy_file_range into it", with("file", func(fd int) error { _, err := unix.CopyFileRange(fd, nil, fd, nil, 1, 0); return err })},
		{"chmod", func(d string) error { return unix.Chmod(d+"/file", 0o600) }},
		{"fchmod", with("file", func(fd int) error { return unix.Fchmod(fd, 0o600) })},
		{"chown", func(d string) error { return unix.Chown(d+"/file", 1, 1) }},
		{"lchown a link", func(d string) error { return unix.Lchown(d+"/link", 1, 1) }},
		{"fchown", with("file", func(fd int) error { return unix.Fchown(fd, 1, 1) })},
		{"utimensat", func(d string) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, d+"/file", []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0)
		}},
		{"setxattr", func(d string) error { return unix.Setxattr(d+"/file", "user.x", []byte("y"), 0) }},
		{"removexattr", func(d string) error { return unix.Removexattr(d+"/file", "user.x") }},
	},
	"no call can change a directory": {
		{"create", func(d string) error { return open(d+"/new", unix.O_CREAT|unix.O_WRONLY) }},
		{"create to read", func(d string) error { return open(d+"/new", unix.O_CREAT|unix.O_RDONLY) }},
		{"create what is there, to read", func(d string) error { return open(d+"/file", unix.O_CREAT|unix.O_RDONLY) }},
		{"create what is there, exclusively", func(d string) error { return open(d+"/file", unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY) }},
		{"create below what is not there", func(d string) error { return open(d+"/none/new", unix.O_CREAT|unix.O_WRONLY) }},
		{"create a nameless file", func(d string) error { return open(d, unix.O_TMPFILE|unix.O_RDWR) }},
		{"mkdir", func(d string) error { return unix.Mkdir(d+"/new", 0o755) }},
		{"mkdir of what is there", func(d string) error { return unix.Mkdir(d+"/dir", 0o755) }},
		{"mkdir below a file", func(d string) error { return unix.Mkdir(d+"/file/new", 0o755) }},
		{"rmdir", func(d string) error { return unix.Rmdir(d + "/empty") }},
		{"rmdir of a full directory", func(d string) error { return unix.Rmdir(d + "/dir") }},
		{"rmdir of a file", func(d string) error { return unix.Rmdir(d + "/file") }},
		{"rmdir of what is not there", func(d string) error { return unix.Rmdir(d + "/none") }},
		{"unlink", func(d string) error { return unix.Unlink(d + "/file") }},
		{"unlink a directory", func(d string) error { return unix.Unlink(d + "/dir") }},
		{"unlink what is not there", func(d string) error { return unix.Unlink(d + "/none") }},
		{"rename", func(d string) error { return unix.Rename(d+"/file", d+"/new") }},
		{"rename onto another", func(d string) error { return unix.Rename(d+"/file", d+"/dir/below") }},
		{"rename what is not there", func(d string) error { return unix.Rename(d+"/none", d+"/new") }},
		{"exchange", func(d string) error {
			return unix.Renameat2(unix.AT_FDCWD, d+"/file", unix.AT_FDCWD, d+"/dir/below", unix.RENAME_EXCHANGE)
		}},
		{"link", func(d string) error { return unix.Link(d+"/file", d+"/new") }},
		{"link to a name that is there", func(d string) error { return unix.Link(d+"/file", d+"/dir/below") }},
		{"symlink", func(d string) error { return unix.Symlink("x", d+"/new") }},
		{"symlink of a name that is there", func(d string) error { return unix.Symlink("x", d+"/file") }},
		{"mkfifo", func(d string) error { return unix.Mkfifo(d+"/new", 0o600) }},
		{"mknod of a device", func(d string) error { return unix.Mknod(d+"/new", unix.S_IFCHR|0o600, 0x103) }},
	},
	"wrong paths are told as on a local disk": {
		{"what is not there", func(d string) error { return open(d+"/none", unix.O_RDONLY) }},
		{"below what is not there", func(d string) error { return open(d+"/none/none", unix.O_RDONLY) }},
		{"below a file", func(d string) error { return open(d+"/file/none", unix.O_RDONLY) }},
		{"a file with a slash at its end", func(d string) error { return open(d+"/file/", unix.O_RDONLY) }},
		{"a file as a directory", func(d string) error { return open(d+"/file", unix.O_RDONLY|unix.O_DIRECTORY) }},
		{"a directory to write", func(d string) error { return open(d+"/dir", unix.O_WRONLY) }},
		{"a link that leads nowhere", func(d string) error { return open(d+"/dangling", unix.O_RDONLY) }},
		{"a link that leads to itself", func(d string) error { return open(d+"/loop", unix.O_RDONLY) }},
		{"below a link that leads to itself", func(d string) error { return open(d+"/loop/x", unix.O_RDONLY) }},
		{"a link that is not to be followed", func(d string) error { return open(d+"/link", unix.O_RDONLY|unix.O_NOFOLLOW) }},
		{"a link to a directory", func(d string) error { return open(d+"/dirlink/below", unix.O_RDONLY) }},
		{"a name of 255 bytes", func(d string) error { return open(d+"/"+strings.Repeat("n", 255), unix.O_RDONLY) }},
		{"a name of 256 bytes", func(d string) error { return open(d+"/"+strings.Repeat("n", 256), unix.O_RDONLY) }},
		{"a path of 4096 bytes", func(d string) error { return open(d+"/"+strings.Repeat("./", 2048), unix.O_RDONLY) }},
		{"no name at all", func(string) error { return open("", unix.O_RDONLY) }},
		{"readlink of a file", func(d string) error { _, err := unix.Readlink(d+"/file", make([]byte, 10)); return err }},
		{"readlink of a link", func(d string) error { _, err := unix.Readlink(d+"/link", make([]byte, 10)); return err }},
		{"chdir to a file", func(d string) error {
			fd, err := unix.Open(d+"/file", unix.O_PATH, 0)
			return errors.Join(err, chdirTo(fd))
		}},
		{"mount point of a file", func(d string) error { var st unix.Statfs_t; return unix.Statfs(d+"/file/x", &st) }},
		{"execute what is no program", func(d string) error { return unix.Access(d+"/file", unix.X_OK) }},
		{"execute a program", func(d string) error { return unix.Access(d+"/program", unix.X_OK) }},
	},
	"wrong arguments are told as on a local disk": {
		{"read a directory", with("dir", func(fd int) error { _, err := unix.Read(fd, make([]byte, 1)); return err })},
		{"list a file", with("file", func(fd int) error { _, err := unix.Getdents(fd, make([]byte, 1000)); return err })},
		{"list into too small a buffer", with("dir", func(fd int) error { _, err := unix.Getdents(fd, make([]byte, 1)); return err })},
		{"pread at a negative offset", with("file", func(fd int) error { _, err := unix.Pread(fd, make([]byte, 1), -1); return err })},
		{"seek to a negative offset", with("file", func(fd int) error { _, err := unix.Seek(fd, -1, unix.SEEK_SET); return err })},
		{"seek in no known way", with("file", func(fd int) error { _, err := unix.Seek(fd, 0, 99); return err })},
		{"map to write and share", with("file", func(fd int) error {
			_, err := unix.Mmap(fd, 0, 4096, unix.PROT_WRITE, unix.MAP_SHARED)
			return err
		})},
		{"map at an odd offset", with("file", func(fd int) error {
			_, err := unix.Mmap(fd, 5, 4096, unix.PROT_READ, unix.MAP_SHARED)
			return err
		})},
		{"map a directory", with("dir", func(fd int) error {
			_, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
			return err
		})},
		{"lock to write", with("file", func(fd int) error {
			return unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		})},
		{"fsync", with("file", unix.Fsync)},
		{"fdatasync", with("file", unix.Fdatasync)},
		{"fsync of a directory", with("dir", unix.Fsync)},
		{"syncfs", with("dir", unix.Syncfs)},
		{"tell what will be read", with("file", func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_WILLNEED) })},
		{"read ahead", with("file", func(fd int) error {
			_, _, no := unix.Syscall(unix.SYS_READAHEAD, uintptr(fd), 0, 4096)
			if no != 0 {
				return no
			}
			return nil
		})},
	},
}

// Call is one system call, or a few, below a directory.
type Call struct {
	Name string
	Do   func(dir string) error
}

func open(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err
}

// with opens a file to read and does the call with it.
func with(name string, do func(fd int) error) func(string) error {
	return func(dir string) error {
		fd, err := unix.Open(filepath.Join(dir, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open: %w", err)
		}
		defer unix.Close(fd)
		return do(fd)
	}
}

// chdirTo tries only what leads to an error: the directory is the process's.
func chdirTo(fd int) error {
	defer unix.Close(fd)
	return unix.Fchdir(fd)
}

// ErrnoFiles is the content that Errnos need.
func ErrnoFiles() Content {
	return Content{
		"file": {Data: Bytes(1, 10_000)}, "dir/below": {Data: []byte("x")}, "empty": {Dir: true}, "program": {Data: []byte("#!/bin/true\n")},
		"link": {Link: "file"}, "dirlink": {Link: "dir"}, "dangling": {Link: "none"}, "loop": {Link: "loop"},
	}
}

// TestErrnos compares the mount with the same content on a local file system
// that is mounted read-only.
func TestErrnos(t *testing.T, mount string) {
	local := t.TempDir()
	if err := ErrnoFiles().WriteTo(local); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(local, "program"), 0o755); err != nil {
		t.Fatal(err)
	}
	readOnly := t.TempDir()
	if err := unix.Mount(local, readOnly, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(readOnly, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", readOnly, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for name, calls := range Errnos {
		t.Run(name, func(t *testing.T) {
			for _, c := range calls {
				want, got := c.Do(readOnly), c.Do(mount)
				if errnoOf(got) != errnoOf(want) {
					t.Errorf("%s: %v, on a local disk %v", c.Name, got, want)
				}
			}
		})
	}
}

func errnoOf(err error) syscall.Errno {
	var no syscall.Errno
	errors.As(err, &no)
	return no
}
