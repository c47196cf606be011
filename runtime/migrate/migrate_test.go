package migrate_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/runtime/migrate"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/posix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// tree makes a directory of n files in directories of ten.
func tree(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	for i := range n {
		write(t, dir, fmt.Sprintf("d%d/f%d", i/10, i), strings.Repeat(fmt.Sprint(i), 1000))
	}
	return dir
}

func from(t *testing.T, dir string) source.Store {
	t.Helper()
	s, err := posix.Open(dir, "pvc://from")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func to(t *testing.T, dir string) *migrate.Directory {
	t.Helper()
	d, err := migrate.OpenDirectory(dir, "some/where", "pvc://to")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestATreeIsCopiedAndWhatIsThereIsNotCopiedAgain(t *testing.T) {
	origin, target := tree(t, 25), t.TempDir()
	write(t, origin, "empty", "")
	if err := os.Symlink("d0/f0", filepath.Join(origin, "link")); err != nil {
		t.Fatal(err)
	}
	run := func() migrate.Progress {
		t.Helper()
		c := &migrate.Copy{From: from(t, origin), To: to(t, target), Streams: 4}
		if err := c.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		return c.Progress()
	}
	first := run()
	if first.FilesDone != 26 || first.FilesTotal != 26 || first.Kept != 0 || first.Links != 1 || !first.Walked || first.BytesDone != first.BytesTotal {
		t.Errorf("the first copy: %+v", first)
	}
	if got, want := read(t, target, "some/where/d2/f24"), read(t, origin, "d2/f24"); got != want {
		t.Errorf("f24 has %d bytes, want %d", len(got), len(want))
	}
	write(t, origin, "d0/f1", "changed")
	if err := os.Remove(filepath.Join(target, "some/where/d1/f15")); err != nil {
		t.Fatal(err)
	}
	if second := run(); second.FilesDone != 26 || second.Kept != 24 {
		t.Errorf("the second copy: %+v", second)
	}
	if got := read(t, target, "some/where/d0/f1"); got != "changed" {
		t.Errorf("f1 is %.20q", got)
	}
}

func TestOneFileIsCopiedUnderItsName(t *testing.T) {
	origin, target := tree(t, 5), t.TempDir()
	c := &migrate.Copy{From: from(t, origin), Path: "d0/f3", To: to(t, target)}
	if err := c.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := read(t, target, "some/where/f3"); got != read(t, origin, "d0/f3") {
		t.Errorf("f3 is %.20q", got)
	}
}

// breaking is a Target that ends the copy after some files, as a kill would.
type breaking struct {
	migrate.Target
	left   atomic.Int64
	cancel context.CancelFunc
}

func (b *breaking) Put(ctx context.Context, p string, o source.Object, in io.Reader) error {
	if b.left.Add(-1) < 0 {
		b.cancel()
		return ctx.Err()
	}
	return b.Target.Put(ctx, p, o, in)
}

func TestACopyThatWasBrokenOffGoesOn(t *testing.T) {
	origin, target := tree(t, 40), t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b := &breaking{Target: to(t, target), cancel: cancel}
	b.left.Store(17)
	if err := (&migrate.Copy{From: from(t, origin), To: b, Streams: 3}).Run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("it ended with %v", err)
	}
	// What was being written when it was killed is in nobody's way.
	write(t, target, "some/where/d0/.millrace-partial-0badc0de", "half of ")
	c := &migrate.Copy{From: from(t, origin), To: to(t, target), Streams: 3}
	if err := c.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Those that were being written when it broke off may be missing.
	if p := c.Progress(); p.Kept < 17-3 || p.Kept > 17 || p.FilesDone != 40 {
		t.Errorf("the second copy: %+v", p)
	}
}

// lying is a Target whose first files never come.
type lying struct{ migrate.Target }

func (lying) Put(_ context.Context, p string, _ source.Object, in io.Reader) error {
	_, _ = io.Copy(io.Discard, in)
	return fmt.Errorf("write %s: %w", p, source.ErrInvalid)
}

func TestACopyThatLacksAFileFailsAndNamesIt(t *testing.T) {
	c := &migrate.Copy{From: from(t, tree(t, 3)), To: lying{to(t, t.TempDir())}, Streams: 1}
	err := c.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "3 of 3 files were not copied") || !strings.Contains(err.Error(), "d0/f") {
		t.Errorf("error %v", err)
	}
	if p := c.Progress(); p.FilesDone != 0 || p.BytesDone != 0 {
		t.Errorf("progress %+v", p)
	}
	if err := (&migrate.Copy{From: from(t, t.TempDir()), Path: "none", To: to(t, t.TempDir())}).Run(t.Context()); !errors.Is(err, source.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
}

func TestADirectoryIsNeverLeft(t *testing.T) {
	target, outside := t.TempDir(), t.TempDir()
	d := to(t, target)
	if err := os.Symlink(outside, filepath.Join(target, "some/where/out")); err != nil {
		t.Fatal(err)
	}
	o := source.Object{Path: "f", Size: 1, ModTime: time.Now()}
	for _, p := range []string{"../f", "out/f", "/etc/f"} {
		if err := d.Put(t.Context(), p, o, bytes.NewReader([]byte("x"))); err == nil {
			t.Errorf("%s was written", p)
		}
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside: %v %v", entries, err)
	}
	if _, err := migrate.OpenDirectory(target, "some/where/out", "pvc://to"); err == nil {
		t.Error("a directory outside was opened")
	}
}

func TestNothingHalfIsSeen(t *testing.T) {
	target := t.TempDir()
	d := to(t, target)
	o := source.Object{Path: "f", Size: 10, ModTime: time.Now()}
	if err := d.Put(t.Context(), "f", o, strings.NewReader("short")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v", err)
	}
	entries, err := fs.ReadDir(os.DirFS(target), "some/where")
	if err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v %v", entries, err)
	}
}
