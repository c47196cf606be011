package fuse_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/fuse/fusetest"
)

// lending is a Tree whose partial files lend what lend gives them.
type lending struct {
	*fusetest.Tree
	data        []byte // of every file
	lend        func(p []byte) (parts [][]byte, err error)
	lent, ended atomic.Int64
}

type lendingFile struct {
	fuse.File
	tree *lending
}

var _ fuse.Lender = lendingFile{}

func (l *lending) Open(ctx context.Context, ino uint64) (fuse.File, error) {
	f, err := l.Tree.Open(ctx, ino)
	if err != nil {
		return nil, err
	}
	return lendingFile{f, l}, nil
}

func (f lendingFile) Lend(_ context.Context, off, n int64) ([][]byte, func(), error) {
	parts, err := f.tree.lend(f.tree.data[off : off+n])
	if parts == nil {
		return nil, nil, err
	}
	f.tree.lent.Add(1)
	return parts, func() { f.tree.ended.Add(1) }, nil
}

// mountLending mounts one partial file, and gives its path.
func mountLending(t *testing.T, lend func(p []byte) ([][]byte, error)) (*lending, string, *fuse.Server) {
	t.Helper()
	data := fusetest.Bytes(7, 9<<20+4321)
	l := &lending{Tree: newTree(t, fusetest.Content{"f": {Data: data}}), data: data, lend: lend}
	l.SetComplete(false)
	dir, server := fusetest.MountWith(t, l, fuse.Options{})
	return l, dir + "/f", server
}

// ended waits until no READ is in hand, and checks that each loan was ended.
func (l *lending) wantEnded(t *testing.T, server *fuse.Server) {
	t.Helper()
	if err := server.Unmount(); err != nil {
		t.Fatal(err)
	}
	if lent, ended := l.lent.Load(), l.ended.Load(); lent == 0 || lent != ended {
		t.Errorf("%d loans, of which %d were ended", lent, ended)
	}
}

func TestWhatAFileLendsIsRead(t *testing.T) {
	for name, lend := range map[string]func(p []byte) ([][]byte, error){
		"in one part": func(p []byte) ([][]byte, error) { return [][]byte{p}, nil },
		"in many parts": func(p []byte) (parts [][]byte, _ error) {
			for n := 1; len(p) > 0; n = 3*n + 1 {
				n = min(n, len(p))
				parts, p = append(parts, p[:n]), p[n:]
			}
			return parts, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, file, server := mountLending(t, lend)
			wantBytes(t, file, l.data)
			l.wantEnded(t, server)
		})
	}
}

func TestAFileThatLendsNothingIsRead(t *testing.T) {
	l, file, _ := mountLending(t, func([]byte) ([][]byte, error) { return nil, nil })
	wantBytes(t, file, l.data)
	if l.Reads.Load() == 0 {
		t.Error("nothing was read")
	}
}

func TestALoanThatFailsIsAnErrorOfItsReadAlone(t *testing.T) {
	unreadable, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(unreadable) })
	for name, tc := range map[string]struct {
		lend func(p []byte) ([][]byte, error)
		want syscall.Errno
	}{
		"an error":    {func([]byte) ([][]byte, error) { return nil, syscall.EACCES }, syscall.EACCES},
		"a short one": {func(p []byte) ([][]byte, error) { return [][]byte{p[:len(p)-1]}, nil }, syscall.EIO},
		"one that cannot be read": {func(p []byte) ([][]byte, error) {
			return [][]byte{p[:4096], unreadable[:len(p)-4096]}, nil
		}, syscall.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			fails := atomic.Bool{}
			l, file, _ := mountLending(t, func(p []byte) ([][]byte, error) {
				if fails.Load() {
					return tc.lend(p)
				}
				return [][]byte{p}, nil
			})
			// Direct: the kernel makes a cached read that failed again, page by page.
			fd, err := unix.Open(file, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			f := os.NewFile(uintptr(fd), file)
			defer f.Close()
			p := aligned(1 << 20)
			fails.Store(true)
			if _, err := f.ReadAt(p, 1<<20); !errors.Is(err, tc.want) {
				t.Errorf("it is %v, want %v", err, tc.want)
			}
			fails.Store(false)
			if _, err := f.ReadAt(p, 1<<20); err != nil || !bytes.Equal(p, l.data[1<<20:2<<20]) {
				t.Errorf("the next read is wrong: %v", err)
			}
			if _, err := f.ReadAt(p, 9<<20); !errors.Is(err, io.EOF) {
				t.Errorf("the read of the end: %v", err)
			}
		})
	}
}

// aligned are n bytes that begin with a page.
func aligned(n int) []byte {
	page := os.Getpagesize()
	p := make([]byte, n+page)
	at := (page - int(uintptr(unsafe.Pointer(&p[0]))%uintptr(page))) % page
	return p[at : at+n]
}
