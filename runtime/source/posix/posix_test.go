package posix_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/posix"
	"github.com/millrace/millrace/runtime/source/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSuite(t *testing.T) {
	dir := t.TempDir()
	sourcetest.Run(t, sourcetest.Fixture{
		Open: func(t *testing.T) source.Store {
			s, err := posix.Open(dir, "pvc://claim")
			must(t, err)
			return s
		},
		Put: func(t *testing.T, path string, data []byte) {
			must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755))
			must(t, os.WriteFile(filepath.Join(dir, path), data, 0o644))
		},
		Remove: func(t *testing.T, path string) { must(t, os.Remove(filepath.Join(dir, path))) },
	})
}

func TestLinksAreGivenAsLinksAndNeverLeadOut(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("not yours"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "real"), []byte("yours"), 0o644))
	must(t, os.Symlink("real", filepath.Join(dir, "inside")))
	must(t, os.Symlink(outside, filepath.Join(dir, "out")))
	must(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o644))
	s, err := posix.Open(dir, "local:///dir")
	must(t, err)
	defer s.Close()
	o, err := s.Stat(t.Context(), "inside")
	if err != nil || o.Link != "real" {
		t.Errorf("a link is %+v, %v", o, err)
	}
	if _, err := s.Stat(t.Context(), "out/secret"); !errors.Is(err, source.ErrDenied) {
		t.Errorf("a link that leads out: %v", err)
	}
	names := map[string]bool{}
	must(t, s.List(t.Context(), "", func(o source.Object) error { names[o.Path] = true; return nil }))
	if names["pipe"] || !names["real"] || !names["inside"] {
		t.Errorf("listed %v", names)
	}
}

func TestAMissingDirectoryIsNamed(t *testing.T) {
	if _, err := posix.Open("/nowhere/at/all", "pvc://claim"); !errors.Is(err, source.ErrNotExist) {
		t.Error(err)
	}
}

func stat(t *testing.T, s source.Store, path string) source.Object {
	t.Helper()
	o, err := s.Stat(t.Context(), path)
	must(t, err)
	return o
}

func read(t *testing.T, s source.Store, o source.Object) ([]byte, error) {
	t.Helper()
	r, err := s.Open(t.Context(), o, 0, o.Size)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func TestAFileThatBecameSomethingElseIsChangedAndNeverHangs(t *testing.T) {
	for name, become := range map[string]func(path string) error{
		"a pipe":      func(path string) error { return unix.Mkfifo(path, 0o644) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			must(t, os.WriteFile(path, []byte("bytes"), 0o644))
			s, err := posix.Open(dir, "pvc://claim")
			must(t, err)
			defer s.Close()
			o := stat(t, s, "f")
			must(t, os.Remove(path))
			must(t, become(path))
			if _, err := read(t, s, o); !errors.Is(err, source.ErrChanged) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestAFileThatChangesWhileItIsReadIsChanged(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"it is cut short": func(path string) error { return os.Truncate(path, 5) },
		"it grows": func(path string) error {
			return os.Truncate(path, 2<<20)
		},
		"its bytes are written over": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("other"), 1000)
			return errors.Join(err, f.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			must(t, os.WriteFile(path, make([]byte, 1<<20), 0o644))
			s, err := posix.Open(dir, "pvc://claim")
			must(t, err)
			defer s.Close()
			o := stat(t, s, "f")
			r, err := s.Open(t.Context(), o, 0, o.Size)
			must(t, err)
			defer r.Close()
			if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			must(t, change(path))
			if _, err := io.Copy(io.Discard, r); !errors.Is(err, source.ErrChanged) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestAFileWrittenTwiceInOneTickIsReadAsItIsAfterwards(t *testing.T) {
	dir := t.TempDir()
	s, err := posix.Open(dir, "pvc://claim")
	must(t, err)
	defer s.Close()
	path := filepath.Join(dir, "f")
	for range 5 {
		must(t, os.WriteFile(path, []byte("one"), 0o644))
		o := stat(t, s, "f")
		written := make(chan error, 1)
		go func() { written <- os.WriteFile(path, []byte("two"), 0o644) }()
		got, err := read(t, s, o)
		must(t, <-written)
		if err == nil && o.Version() == stat(t, s, "f").Version() && string(got) != "two" {
			t.Fatalf("one version was read as %q and then held %q", got, "two")
		}
		if err != nil && !errors.Is(err, source.ErrChanged) {
			t.Error(err)
		}
	}
}

func TestAFileThatMayNotBeReadIsDenied(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "out")))
	s, err := posix.Open(dir, "local:///dir")
	must(t, err)
	defer s.Close()
	_, err = read(t, s, source.Object{Path: "out", Size: 10})
	if !errors.Is(err, source.ErrDenied) || !strings.Contains(err.Error(), "leads out") {
		t.Errorf("a link that leads out: %v", err)
	}
}
