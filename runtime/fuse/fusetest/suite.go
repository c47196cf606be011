package fusetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/fuse"
)

// MountWith mounts fs at a new directory for as long as the test runs. Dir and
// Logger are filled in if need be.
func MountWith(t testing.TB, fs fuse.FileSystem, o fuse.Options) (dir string, server *fuse.Server) {
	t.Helper()
	if o.Dir == "" {
		o.Dir = filepath.Join(t.TempDir(), "mnt")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	server, err := fuse.Mount(context.Background(), fs, o)
	if err != nil {
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return o.Dir, server
}

// TestFileSystem mounts what open makes of the Standard content, in either
// profile, and checks what applications see of it. open cleans up by t.Cleanup.
func TestFileSystem(t *testing.T, open func(t *testing.T, c Content) fuse.FileSystem) {
	c := Standard()
	fs := open(t, c)
	for _, profile := range []fuse.Profile{fuse.ProfileLarge, fuse.ProfileSmall} {
		t.Run(string(profile), func(t *testing.T) {
			dir, _ := MountWith(t, fs, fuse.Options{Profile: profile})
			testMount(t, dir, c)
		})
	}
}

func testMount(t *testing.T, dir string, c Content) {
	for name, check := range map[string]func(*testing.T, string, Content){
		"every byte of the large file is right":           wholeFile(LargeFile),
		"an empty file reads as empty":                    wholeFile(EmptyFile),
		"a file sixteen directories down is found":        wholeFile(DeepFile),
		"a name may have spaces":                          wholeFile(SpacedFile),
		"a name may be unicode":                           wholeFile(UniFile),
		"a link leads to its target":                      links,
		"reads at random offsets are right":               randomReads,
		"a mapped file reads as the file":                 mapped,
		"a directory of ten thousand is complete":         manyEntries,
		"five thousand small files are right":             smallFiles,
		"sixty-four readers at once see right bytes":      manyReaders,
		"sizes, times and types are those of content":     attributes,
		"statfs tells the bytes of the whole, once known": statfs,
		"nothing can be written":                          readOnly,
		"what is not there is ENOENT":                     missing,
	} {
		t.Run(name, func(t *testing.T) { check(t, dir, c) })
	}
}

func wholeFile(name string) func(*testing.T, string, Content) {
	return func(t *testing.T, dir string, c Content) {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if Sum(got) != Sum(c[name].Data) {
			t.Errorf("%s: read %d bytes which differ from the %d written", name, len(got), len(c[name].Data))
		}
	}
}

func links(t *testing.T, dir string, c Content) {
	target, err := os.Readlink(filepath.Join(dir, LinkName))
	if err != nil || target != c[LinkName].Link {
		t.Fatalf("readlink: %q, %v; want %q", target, err, c[LinkName].Link)
	}
	got, err := os.ReadFile(filepath.Join(dir, LinkName))
	if err != nil || Sum(got) != Sum(c[target].Data) {
		t.Errorf("read through the link: %d bytes, %v", len(got), err)
	}
}

func randomReads(t *testing.T, dir string, c Content) {
	want := c[LargeFile].Data
	f, err := os.Open(filepath.Join(dir, LargeFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rnd := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 300_000)
	for range 300 {
		off := rnd.Int64N(int64(len(want)) + 1000)
		p := buf[:1+rnd.IntN(len(buf)-1)]
		n, err := f.ReadAt(p, off)
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatalf("read %d bytes at %d: %v", len(p), off, err)
		}
		w := want[min(off, int64(len(want))):min(off+int64(len(p)), int64(len(want)))]
		if Sum(p[:n]) != Sum(w) {
			t.Fatalf("read %d bytes at %d: got %d bytes that differ", len(p), off, n)
		}
	}
}

func mapped(t *testing.T, dir string, c Content) {
	got, err := MappedSum(filepath.Join(dir, LargeFile))
	if err != nil {
		t.Fatal(err)
	}
	if got != Sum(c[LargeFile].Data) {
		t.Error("the mapping differs from the file")
	}
}

func manyEntries(t *testing.T, dir string, _ Content) {
	for pass := range 2 { // the second comes from the kernel's cache
		entries, err := os.ReadDir(filepath.Join(dir, ManyDir))
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != ManyEntries {
			t.Fatalf("pass %d: %d entries, want %d", pass, len(entries), ManyEntries)
		}
		for i, e := range entries {
			if want := fmt.Sprintf("entry-%05d", i); e.Name() != want {
				t.Fatalf("pass %d: entry %d is %q, want %q", pass, i, e.Name(), want)
			}
		}
	}
	empty, err := os.ReadDir(filepath.Join(dir, EmptyDir))
	if err != nil || len(empty) != 0 {
		t.Errorf("the empty directory has %d entries, %v", len(empty), err)
	}
}

func smallFiles(t *testing.T, dir string, c Content) {
	for pass := range 2 {
		for i := range SmallFiles {
			got, err := os.ReadFile(filepath.Join(dir, SmallFile(i)))
			if err != nil {
				t.Fatal(err)
			}
			if Sum(got) != Sum(c[SmallFile(i)].Data) {
				t.Fatalf("pass %d: %s differs", pass, SmallFile(i))
			}
		}
	}
}

func manyReaders(t *testing.T, dir string, c Content) {
	want := c[LargeFile].Data
	var wg sync.WaitGroup
	for reader := range 64 {
		wg.Go(func() {
			f, err := os.Open(filepath.Join(dir, LargeFile))
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			buf := make([]byte, 64<<10)
			for i := range 16 {
				off := int64((reader*7919+i*104729)%(len(want)>>10)) << 10
				n, err := f.ReadAt(buf, off)
				if err != nil && !errors.Is(err, io.EOF) {
					t.Error(err)
					return
				}
				if Sum(buf[:n]) != Sum(want[off:min(off+int64(len(buf)), int64(len(want)))]) {
					t.Errorf("reader %d: bytes at %d differ", reader, off)
					return
				}
				small := SmallFile((reader*131 + i) % SmallFiles)
				if got, err := os.ReadFile(filepath.Join(dir, small)); err != nil || Sum(got) != Sum(c[small].Data) {
					t.Errorf("reader %d: %s: %v", reader, small, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func attributes(t *testing.T, dir string, c Content) {
	got, want := map[string]string{}, map[string]string{}
	for _, p := range []string{LargeFile, EmptyFile, DeepFile, LinkName, EmptyDir, SmallDir} {
		item := c[p]
		typ, size := fs.FileMode(0), int64(len(item.Data))
		switch {
		case item.Link != "":
			typ, size = fs.ModeSymlink, int64(len(item.Link))
		case item.Dir, p == SmallDir:
			typ, size = fs.ModeDir, 0
		}
		want[p] = fmt.Sprint(typ, size)
		st, err := os.Lstat(filepath.Join(dir, p))
		if err != nil {
			t.Fatal(err)
		}
		size = st.Size()
		if st.IsDir() {
			size = 0
		}
		got[p] = fmt.Sprint(st.Mode().Type(), size)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("type and size (-want +got):\n%s", diff)
	}
	st, err := os.Stat(filepath.Join(dir, LargeFile))
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm()&0o444 != 0o444 {
		t.Errorf("permissions are %v, want readable by all", st.Mode().Perm())
	}
	if st.ModTime().Before(ModTime.Truncate(0)) {
		t.Errorf("modified at %v, before %v", st.ModTime(), ModTime)
	}
	again, err := os.Stat(filepath.Join(dir, LargeFile))
	if err != nil || again.Sys().(*syscall.Stat_t).Ino != st.Sys().(*syscall.Stat_t).Ino {
		t.Errorf("the inode number changed from %d, %v", st.Sys().(*syscall.Stat_t).Ino, err)
	}
}

func statfs(t *testing.T, dir string, c Content) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, item := range c {
		total += int64(len(item.Data))
	}
	if got := int64(st.Blocks) * st.Bsize; got != 0 && got < total || got > total+st.Bsize {
		t.Errorf("statfs says %d bytes, want %d", got, total)
	}
}

func readOnly(t *testing.T, dir string, _ Content) {
	file := filepath.Join(dir, DeepFile)
	for what, try := range map[string]func() error{
		"create":          func() error { return os.WriteFile(filepath.Join(dir, "new"), nil, 0o644) },
		"open to write":   func() error { f, err := os.OpenFile(file, os.O_WRONLY, 0); f.Close(); return err },
		"truncate":        func() error { return os.Truncate(file, 0) },
		"remove":          func() error { return os.Remove(file) },
		"make directory":  func() error { return os.Mkdir(filepath.Join(dir, "dir"), 0o755) },
		"rename":          func() error { return os.Rename(file, file+"2") },
		"change mode":     func() error { return os.Chmod(file, 0o600) },
		"change time":     func() error { return os.Chtimes(file, ModTime, ModTime) },
		"make a link":     func() error { return os.Symlink("x", filepath.Join(dir, "y")) },
		"set an xattr":    func() error { return unix.Setxattr(file, "user.x", []byte("y"), 0) },
		"make hard links": func() error { return os.Link(file, file+"3") },
	} {
		if err := try(); !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v, want EROFS", what, err)
		}
	}
}

func missing(t *testing.T, dir string, _ Content) {
	for _, p := range []string{"nothing", "a/b/nothing", "nowhere/at/all"} {
		if _, err := os.Stat(filepath.Join(dir, p)); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("stat %s: %v, want ENOENT", p, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, DeepFile, "below")); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("stat below a file: %v, want ENOTDIR", err)
	}
}
