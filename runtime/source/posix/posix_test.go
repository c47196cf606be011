package posix_test

import (
	"errors"
	"os"
	"path/filepath"
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
