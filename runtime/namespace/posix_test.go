package namespace

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/posix"
)

func posixMount(at, dir string) Mount {
	return Mount{Path: at, URI: "local://" + dir, Open: func(context.Context) (source.Store, error) { return posix.Open(dir, "local://"+dir) }}
}

func write(t testing.TB, path string, size int) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, size), 0o640); err != nil {
		t.Fatal(err)
	}
}

func TestARealDirectory(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a/b/c/d/e/f/deep"), 5)
	write(t, filepath.Join(dir, "empty"), 0)
	write(t, filepath.Join(dir, ".dot/with space/ünï"), 7)
	if err := os.Mkdir(filepath.Join(dir, "void"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a/b", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	tree := newTree(t, Options{}, posixMount("/", dir))
	if err := tree.WaitKnown(t.Context(), "/"); err != nil {
		t.Fatal(err)
	}
	want := []string{".dot/", ".dot/with space/", ".dot/with space/ünï", "a/", "a/b/", "a/b/c/", "a/b/c/d/", "a/b/c/d/e/", "a/b/c/d/e/f/", "a/b/c/d/e/f/deep", "empty", "link", "void/"}
	if diff := cmp.Diff(want, paths(t, tree, RootIno, "")); diff != "" {
		t.Error(diff)
	}
	if sum := tree.Totals(); sum.Bytes != 12 || sum.Files != 3 || !sum.Complete {
		t.Errorf("totals %+v", sum)
	}
	if e := find(t, tree, "/link"); e.Link != "a/b" || e.IsFile() || e.IsDir() {
		t.Errorf("link %+v", e)
	}
	if e := find(t, tree, "/empty"); e.Mode&0o777 != 0o640 || e.MTime == 0 {
		t.Errorf("empty %+v", e)
	}
	// A whole directory goes, and a file becomes a directory.
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "a")), os.Remove(filepath.Join(dir, "empty"))); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "empty/now"), 3)
	if err := tree.Scan(t.Context(), "/"); err != nil {
		t.Fatal(err)
	}
	want = []string{".dot/", ".dot/with space/", ".dot/with space/ünï", "empty/", "empty/now", "link", "void/"}
	if diff := cmp.Diff(want, paths(t, tree, RootIno, "")); diff != "" {
		t.Error(diff)
	}
	if sum := tree.Totals(); sum.Bytes != 10 || sum.Files != 2 {
		t.Errorf("totals %+v", sum)
	}
}

func TestADirectoryThatIsMissingIsFoundWhenItComes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	tree := newTree(t, Options{}, posixMount("/", dir))
	if err := tree.WaitKnown(t.Context(), "/"); !errors.Is(err, source.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
	write(t, filepath.Join(dir, "f"), 1)
	deadline := time.Now().Add(5 * time.Second)
	for tree.WaitKnown(t.Context(), "/") != nil {
		if time.Now().After(deadline) {
			t.Fatal("the directory was not found")
		}
		time.Sleep(10 * time.Millisecond)
	}
	find(t, tree, "/f")
}
