package posix_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/posix"
	"github.com/millrace/millrace/runtime/source/sourcetest"
	"github.com/millrace/millrace/runtime/source/sourcetest/sshserver"
)

// versions gives each file that it writes a second of its own: that is all that
// SFTP tells of a modification time.
type versions struct {
	dir string
	n   int
}

func (v *versions) put(t *testing.T, path string, data []byte) {
	t.Helper()
	file := filepath.Join(v.dir, path)
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	// Ready under another name, as those who care for their readers write.
	fresh := filepath.Join(t.TempDir(), "fresh")
	must(t, os.WriteFile(fresh, data, 0o644))
	v.n++
	when := time.Now().Add(time.Duration(v.n)*time.Second - time.Hour)
	must(t, os.Chtimes(fresh, when, when))
	must(t, os.Rename(fresh, file))
}

func TestSuiteOnARealNetworkMount(t *testing.T) {
	server := sshserver.Start(t)
	v := &versions{dir: server.Dir}
	sourcetest.Run(t, sourcetest.Fixture{
		Open: func(t *testing.T) source.Store {
			s, err := posix.OpenBelow(server.Mount, "", source.Config{MountPoint: "pvc://claim"})
			must(t, err)
			return s
		},
		Put:    v.put,
		Remove: func(t *testing.T, path string) { must(t, os.Remove(filepath.Join(server.Dir, path))) },
		Stop:   func(*testing.T) { server.Kill() },
		Start: func(t *testing.T) {
			server.Down()
			server.Up(t)
		},
	})
}

func TestANetworkMountWhoseServerIsSilentFreesItsCallers(t *testing.T) {
	server := sshserver.Start(t)
	v := &versions{dir: server.Dir}
	data := bytes.Repeat([]byte("millrace"), 1<<20)
	v.put(t, "big", data)
	v.put(t, "other", data[:100])
	s, err := posix.OpenBelow(server.Mount, "", source.Config{MountPoint: "pvc://claim", Options: map[string]string{posix.OptionTimeout: "2s"}})
	must(t, err)
	defer s.Close()
	o := stat(t, s, "big")
	r, err := s.Open(t.Context(), o, 0, o.Size)
	must(t, err)
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	server.Freeze()
	frozen := true
	defer func() {
		if frozen {
			server.Thaw()
		}
	}()
	began := time.Now()
	var wg sync.WaitGroup
	for range 100 { // more than may hang at once
		wg.Go(func() {
			if _, err := read(t, s, o); !errors.Is(err, source.ErrUnavailable) {
				t.Errorf("read: %v", err)
			}
		})
	}
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, source.ErrUnavailable) {
		t.Errorf("a read that was under way: %v", err)
	}
	wg.Wait()
	if _, err := s.Stat(t.Context(), "other"); !errors.Is(err, source.ErrUnavailable) {
		t.Errorf("stat: %v", err)
	}
	if err := s.List(t.Context(), "", func(source.Object) error { return nil }); !errors.Is(err, source.ErrUnavailable) {
		t.Errorf("list: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Stat(ctx, "other"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled stat: %v", err)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("everybody was free after %v", took)
	}
	server.Thaw()
	frozen = false
	deadline := time.Now().Add(time.Minute)
	for {
		got, err := read(t, s, o)
		if err == nil {
			if !bytes.Equal(got, data) {
				t.Error("other bytes after the server came back")
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after the server came back: %v", err)
		}
	}
}

// faulty is a file system that answers reads of one file as a test says.
type faulty struct {
	fs.LoopbackNode
	answer *atomic.Pointer[func(what, name string) syscall.Errno]
}

func (n *faulty) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := (*n.answer.Load())("open", n.Path(nil)); errno != 0 {
		return nil, 0, errno
	}
	h, _, errno := n.LoopbackNode.Open(ctx, flags)
	return &faultyFile{h, n}, fuse.FOPEN_DIRECT_IO, errno
}

// WrapChild has all that is below fail as well.
func (n *faulty) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	return &faulty{fs.LoopbackNode{RootData: child.(*fs.LoopbackNode).RootData}, n.answer}
}

var _ fs.NodeWrapChilder = (*faulty)(nil)

type faultyFile struct {
	fs.FileHandle
	node *faulty
}

func (f *faultyFile) Read(ctx context.Context, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if errno := (*f.node.answer.Load())("read", f.node.Path(nil)); errno != 0 {
		return nil, errno
	}
	return f.FileHandle.(fs.FileReader).Read(ctx, p, off)
}

func (f *faultyFile) Release(ctx context.Context) syscall.Errno {
	return f.FileHandle.(fs.FileReleaser).Release(ctx)
}

// mountFaulty mounts dir behind a file system that fails as told.
func mountFaulty(t *testing.T, dir string) (mount string, fail func(func(what, name string) syscall.Errno)) {
	t.Helper()
	mount = t.TempDir()
	answer := &atomic.Pointer[func(what, name string) syscall.Errno]{}
	fail = func(f func(what, name string) syscall.Errno) { answer.Store(&f) }
	fail(func(string, string) syscall.Errno { return 0 })
	var st syscall.Stat_t
	must(t, syscall.Stat(dir, &st))
	root := &fs.LoopbackRoot{Path: dir, Dev: st.Dev}
	root.RootNode = &faulty{fs.LoopbackNode{RootData: root}, answer}
	server, err := fs.Mount(mount, root.RootNode, &fs.Options{MountOptions: fuse.MountOptions{DirectMount: true, FsName: "faulty", MaxBackground: 64}})
	must(t, err)
	t.Cleanup(func() { must(t, server.Unmount()) })
	return mount, fail
}

func TestErrorsOfAFileSystemKeepTheirMeaning(t *testing.T) {
	dir := t.TempDir()
	data := bytes.Repeat([]byte("m"), 3<<20)
	must(t, os.WriteFile(filepath.Join(dir, "f"), data, 0o644))
	mount, fail := mountFaulty(t, dir)
	s, err := posix.Open(mount, "pvc://claim")
	must(t, err)
	defer s.Close()
	o := stat(t, s, "f")
	for name, tc := range map[string]struct {
		what  string
		errno syscall.Errno
		times int32
		want  error
	}{
		"a disk that cannot read":               {"read", syscall.EIO, 1 << 20, source.ErrUnavailable},
		"a file that may not be opened":         {"open", syscall.EACCES, 1 << 20, source.ErrDenied},
		"a file that may not be read":           {"read", syscall.EPERM, 1 << 20, source.ErrDenied},
		"a server that timed out":               {"read", syscall.ETIMEDOUT, 1 << 20, source.ErrUnavailable},
		"a handle that went stale":              {"read", syscall.ESTALE, 1, nil},
		"a handle that is stale time and again": {"read", syscall.ESTALE, 1 << 20, source.ErrChanged},
		"a file that is stale before it opens":  {"open", syscall.ESTALE, 1 << 20, source.ErrChanged},
	} {
		t.Run(name, func(t *testing.T) {
			var failed atomic.Int32
			fail(func(what, _ string) syscall.Errno {
				if what == tc.what && failed.Add(1) <= tc.times {
					return tc.errno
				}
				return 0
			})
			defer fail(func(string, string) syscall.Errno { return 0 })
			got, err := read(t, s, o)
			if !errors.Is(err, tc.want) || tc.want == nil && !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}
