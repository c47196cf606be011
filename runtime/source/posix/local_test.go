package posix_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/posix"
)

func opened(t *testing.T, dir, name string, options map[string]string) *posix.Store {
	t.Helper()
	s, err := posix.OpenBelow(dir, "", source.Config{MountPoint: name, Options: options})
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func TestLinksWithinTheMountLeadWhereTheyShouldAndOthersNowhere(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "mount")
	must(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "a/b/f"), []byte("inside"), 0o644))
	must(t, os.WriteFile(filepath.Join(base, "secret"), []byte("outside"), 0o644))
	for link, target := range map[string]string{
		"to-file": "a/b/f", "to-dir": "a/b", "a/up": "../a/b", "a/b/absolute": filepath.Join(dir, "a/b/f"), "absolute-root": dir, "written-elsewhere": "/data/set/a/b/f",
		"loop1": "loop2", "loop2": "loop1", "out": "../secret", "far-out": "/etc", "a/out": "../../secret", "self": ".",
	} {
		must(t, os.Symlink(target, filepath.Join(dir, link)))
	}
	must(t, os.Link(filepath.Join(dir, "a/b/f"), filepath.Join(dir, "hard")))
	s := opened(t, dir, "local:///srv/set", map[string]string{posix.OptionLinkRoot: "/data/set"})
	for link, want := range map[string]string{
		"to-file": "a/b/f", "a/up": "../a/b", "a/b/absolute": "../../a/b/f", "absolute-root": ".", "written-elsewhere": "a/b/f", "out": "../secret", "far-out": "/etc",
	} {
		if o := stat(t, s, link); o.Link != want {
			t.Errorf("%s leads to %q, want %q", link, o.Link, want)
		}
	}
	// Through links to directories, and by a second name.
	for _, p := range []string{"to-dir/f", "a/up/f", "self/self/to-dir/f", "hard"} {
		if got, err := read(t, s, stat(t, s, p)); err != nil || string(got) != "inside" {
			t.Errorf("read %s: %q, %v", p, got, err)
		}
	}
	o := stat(t, s, "hard")
	for p, want := range map[string]error{"to-file": nil, "out": source.ErrDenied, "a/out": source.ErrDenied, "far-out/passwd": source.ErrDenied, "loop1": source.ErrNotExist, "loop1/x": source.ErrNotExist} {
		o.Path = p
		if _, err := read(t, s, o); !errors.Is(err, want) {
			t.Errorf("read %s: %v, want %v", p, err, want)
		}
	}
	// Nor does the directory of the mount point itself lead out.
	for _, sub := range []string{"far-out", "../", "out"} {
		if below, err := posix.OpenBelow(dir, sub, source.Config{MountPoint: "pvc://claim/" + sub}); sub != "../" && err == nil {
			below.Close()
			t.Errorf("pvc://claim/%s is opened", sub)
		}
	}
	below, err := posix.OpenBelow(dir, "to-dir", source.Config{MountPoint: "pvc://claim/to-dir"})
	must(t, err)
	defer below.Close()
	if got, err := read(t, below, stat(t, below, "f")); err != nil || string(got) != "inside" {
		t.Errorf("below a link: %q, %v", got, err)
	}
}

func TestNobodyGetsOutByRenamingWhileWeLook(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "mount")
	must(t, os.MkdirAll(filepath.Join(dir, "d"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "d/f"), []byte("inside!"), 0o644))
	must(t, os.Mkdir(filepath.Join(base, "d"), 0o755))
	must(t, os.WriteFile(filepath.Join(base, "d/f"), []byte("outside"), 0o644))
	must(t, os.Symlink("../d", filepath.Join(dir, "link")))
	s := opened(t, dir, "pvc://claim", nil)
	o := stat(t, s, "d/f")
	o.ETag, o.ModTime = "", stat(t, s, "d/f").ModTime
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default: // the directory and the link that leads out take turns
				_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "d"), unix.AT_FDCWD, filepath.Join(dir, "link"), unix.RENAME_EXCHANGE)
			}
		}
	}()
	for range 3000 {
		if got, err := read(t, s, o); err == nil && string(got) != "inside!" {
			t.Fatalf("read %q", got)
		}
		if got, err := s.Stat(t.Context(), "d/f"); err == nil && got.Size != 7 {
			t.Fatalf("%+v", got)
		}
	}
	close(stop)
	<-stopped
}

func TestHolesAreZerosAndAreNotRead(t *testing.T) {
	dir := t.TempDir()
	const size = 64 << 20
	f, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	must(t, f.Truncate(size))
	want := make([]byte, size)
	for _, off := range []int64{5 << 20, 20<<20 + 4096, size - 4096} {
		copy(want[off:], bytes.Repeat([]byte{7}, 4096))
		_, err := f.WriteAt(want[off:off+4096], off)
		must(t, err)
	}
	must(t, f.Close())
	s := opened(t, dir, "pvc://claim", nil)
	o := stat(t, s, "sparse")
	if got, err := read(t, s, o); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the whole: %d bytes, %v", len(got), err)
	}
	for _, r := range [][2]int64{{0, 1}, {5<<20 - 1, 2}, {5<<20 + 4095, 2}, {6 << 20, 1 << 20}, {20 << 20, 8193}, {size - 4097, 4097}, {size - 1, 1}} {
		in, err := s.Open(t.Context(), o, r[0], r[1])
		must(t, err)
		got, err := io.ReadAll(in)
		in.Close()
		if err != nil || !bytes.Equal(got, want[r[0]:r[0]+r[1]]) {
			t.Errorf("%d bytes at %d: %d bytes, %v", r[1], r[0], len(got), err)
		}
	}
}

func TestWhatIsNoFileIsNeitherServedNorOpened(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o644))
	must(t, unix.Mknod(filepath.Join(dir, "device"), unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5)))) // /dev/zero
	must(t, unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK|0o644, 0))
	s := opened(t, dir, "pvc://claim", nil)
	must(t, s.List(t.Context(), "", func(o source.Object) error { t.Errorf("%s is listed", o.Path); return nil }))
	for _, p := range []string{"pipe", "device", "socket"} {
		if _, err := s.Stat(t.Context(), p); !errors.Is(err, source.ErrNotExist) {
			t.Errorf("stat %s: %v", p, err)
		}
		if _, err := read(t, s, source.Object{Path: p, Size: 1}); !errors.Is(err, source.ErrChanged) {
			t.Errorf("read %s: %v", p, err)
		}
	}
}

func TestNamesThatAreNotTextAreServedUnderOneThatIs(t *testing.T) {
	dir := t.TempDir()
	names := []string{"latin-\xe9", "\xff\xfe", "cut-\xe2\x82", "plain", "private-\uf7e9", "sub-\x80/in"}
	must(t, os.Mkdir(filepath.Join(dir, "sub-\x80"), 0o755))
	for _, name := range names {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644))
	}
	must(t, os.WriteFile(filepath.Join(dir, strings.Repeat("\xff", 200)), nil, 0o644)) // its text is too long
	s := opened(t, dir, "pvc://claim", nil)
	var texts []string
	var list func(dir string)
	list = func(dir string) {
		must(t, s.List(t.Context(), dir, func(o source.Object) error {
			if o.Dir {
				list(o.Path)
				return nil
			}
			texts = append(texts, o.Path)
			got, err := read(t, s, stat(t, s, o.Path))
			if err != nil || !slices.Contains(names, string(got)) {
				t.Errorf("%q has %q, %v", o.Path, got, err)
			}
			return nil
		}))
	}
	list("")
	slices.Sort(texts)
	if want := []string{"cut-\uf7e2\uf782", "latin-\uf7e9", "plain", "private-\uf7ef\uf79f\uf7a9", "sub-\uf780/in", "\uf7ff\uf7fe"}; !slices.Equal(texts, want) {
		t.Errorf("listed %q, want %q", texts, want)
	}
	if n, _ := s.Omitted(); n != 1 {
		t.Errorf("left out %d", n)
	}
}

func TestPathsDeeperThanOneCallCanNameAreRead(t *testing.T) {
	dir := t.TempDir()
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	name, p := strings.Repeat("d", 250), ""
	for range 40 { // 10 kB
		must(t, unix.Mkdirat(at, name, 0o755))
		next, err := unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY, 0)
		must(t, err)
		unix.Close(at)
		at, p = next, p+name+"/"
	}
	f, err := unix.Openat(at, "f", unix.O_CREAT|unix.O_WRONLY, 0o644)
	must(t, err)
	_, err = unix.Write(f, []byte("deep"))
	must(t, err)
	unix.Close(f)
	unix.Close(at)
	s := opened(t, dir, "pvc://claim", nil)
	if got, err := read(t, s, stat(t, s, p+"f")); err != nil || string(got) != "deep" {
		t.Errorf("read: %q, %v", got, err)
	}
	n := 0
	must(t, s.List(t.Context(), strings.TrimSuffix(p, "/"), func(source.Object) error { n++; return nil }))
	if n != 1 {
		t.Errorf("%d entries", n)
	}
}

func TestWhatTheUserMayNotReadIsDenied(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	must(t, os.Mkdir(filepath.Join(dir, "closed"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("private"), 0o600))
	s := opened(t, dir, "pvc://claim", nil)
	o := stat(t, s, "f")
	done := make(chan struct{})
	go func() { // a thread that is another user for the file system, and then ends
		defer close(done)
		runtime.LockOSThread()
		_, _, _ = unix.RawSyscall(unix.SYS_SETFSUID, 65534, 0, 0)
		if _, err := read(t, s, o); !errors.Is(err, source.ErrDenied) {
			t.Errorf("read: %v", err)
		}
		if err := s.List(t.Context(), "closed", func(source.Object) error { return nil }); !errors.Is(err, source.ErrDenied) {
			t.Errorf("list: %v", err)
		}
		if _, err := s.Stat(t.Context(), "closed/x"); !errors.Is(err, source.ErrDenied) {
			t.Errorf("stat: %v", err)
		}
	}()
	<-done
}

func TestARewriteThatKeepsSizeAndTimeIsNoticed(t *testing.T) {
	for name, tc := range map[string]struct {
		mountPoint string
		options    map[string]string
		noticed    bool
	}{
		"on a claim": {"pvc://claim", nil, true},
		"on a host path, which nodes may each have": {"local:///data", nil, false},
		"on a host path that all nodes share":       {"local:///data", map[string]string{posix.OptionIdentity: "ctime"}, true},
		"unless the user does not want it":          {"pvc://claim", map[string]string{posix.OptionIdentity: "mtime"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "f")
			when := time.Now().Add(-time.Hour)
			must(t, os.WriteFile(file, []byte("one"), 0o644))
			must(t, os.Chtimes(file, when, when))
			s := opened(t, dir, tc.mountPoint, tc.options)
			o := stat(t, s, "f")
			if _, err := read(t, s, o); err != nil {
				t.Fatal(err)
			}
			must(t, os.WriteFile(file, []byte("two"), 0o644))
			must(t, os.Chtimes(file, when, when))
			_, err := read(t, s, o)
			if noticed := errors.Is(err, source.ErrChanged); noticed != tc.noticed || stat(t, s, "f").Version() == o.Version() == tc.noticed {
				t.Errorf("read: %v", err)
			}
		})
	}
	for option, v := range map[string]string{posix.OptionIdentity: "content", posix.OptionTimeout: "soon", posix.OptionLinkRoot: "data"} {
		if _, err := posix.OpenBelow(t.TempDir(), "", source.Config{MountPoint: "pvc://claim", Options: map[string]string{option: v}}); !errors.Is(err, source.ErrInvalid) || !strings.Contains(err.Error(), option) {
			t.Errorf("option %s: %v", option, err)
		}
	}
}
