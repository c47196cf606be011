package fuse

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func fileNode(ino uint64, version string) Node {
	return Node{Ino: ino, Mode: modeFile | 0o644, Version: version}
}

func TestAVersionThatTheKernelKnowsKeepsItsID(t *testing.T) {
	nodes := newNodes(false)
	v1, v2 := fileNode(7, "v1"), fileNode(7, "v2")
	first, _ := nodes.enter(v1)
	if first != 7 {
		t.Errorf("the first version has id %d, want the inode number", first)
	}
	second, _ := nodes.enter(v2)
	again, _ := nodes.enter(v2)
	if second == first || again != second {
		t.Errorf("ids of the second version: %d, then %d; of the first %d", second, again, first)
	}
	if nodes.ino(second) != 7 || nodes.ino(first) != 7 {
		t.Error("an id does not lead to its inode")
	}
	if nodes.speaksOf(first, 7, versionOf(v2)) || !nodes.speaksOf(second, 7, versionOf(v2)) || !nodes.speaksOf(first, 7, versionOf(v1)) {
		t.Error("an id speaks of another version than its own")
	}
	if id, ok, _, _ := nodes.find(7); !ok || id != second {
		t.Errorf("the inode is known by %d, want %d", id, second)
	}
}

func TestWhatTheKernelForgetsIsForgotten(t *testing.T) {
	nodes := newNodes(false)
	for _, v := range []string{"v1", "v2", "v3"} {
		for range 3 {
			nodes.enter(fileNode(7, v))
		}
	}
	ids := make([]uint64, 0, 3)
	for id := range nodes.known {
		ids = append(ids, id)
	}
	if len(ids) != 3 {
		t.Fatalf("%d ids are known, want 3", len(ids))
	}
	for _, id := range ids {
		nodes.forget(id, 2)
		nodes.forget(id, 1)
		nodes.forget(id, 1) // one too many does no harm
	}
	if len(nodes.known)+len(nodes.alias)+len(nodes.current) != 0 {
		t.Errorf("left: %v %v %v", nodes.known, nodes.alias, nodes.current)
	}
	if id, _ := nodes.enter(fileNode(7, "v4")); id != 7 {
		t.Errorf("a node that was forgotten comes back as %d, want its inode number", id)
	}
}

func TestAnIDOfAFormerServerIsTakenForItsInode(t *testing.T) {
	nodes := newNodes(false)
	if !nodes.speaksOf(7, 7, versionOf(fileNode(7, "v1"))) {
		t.Error("an inode number is not taken for itself")
	}
	if _, ok, _, _ := nodes.find(7); ok {
		t.Error("it is known before the kernel was told")
	}
}

// slots stands for a device that takes any file.
type slots struct{ registered, unregistered int }

func (d *slots) Read([]byte) (int, error)     { return 0, syscall.ENODEV }
func (d *slots) Write(...[]byte) (int, error) { return 0, syscall.ENODEV }
func (d *slots) Unmount() error               { return nil }
func (d *slots) Close() error                 { return nil }
func (d *slots) RegisterBacking(uintptr) (int32, error) {
	d.registered++
	return int32(d.registered), nil
}
func (d *slots) UnregisterBacking(int32) error {
	d.unregistered++
	return nil
}

// shelf has one complete file, in the version that Open shall give.
type shelf struct {
	FileSystem
	path    string
	version string
	open    int
}

func (s *shelf) Open(context.Context, uint64) (File, error) {
	s.open++
	return &copyOf{shelf: s, version: s.version}, nil
}

type copyOf struct {
	*shelf
	version string
}

func (c *copyOf) ReadAt(context.Context, []byte, int64) (int, error) { return 0, nil }
func (c *copyOf) Version() string                                    { return c.version }
func (c *copyOf) Close() error                                       { c.open--; return nil }
func (c *copyOf) Backing() *os.File {
	f, err := os.Open(c.path)
	if err != nil {
		return nil
	}
	return f
}

func newShelf(t *testing.T) (*shelf, *slots, *openFiles) {
	t.Helper()
	s := &shelf{path: filepath.Join(t.TempDir(), "f"), version: "v1"}
	if err := os.WriteFile(s.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := &slots{}
	files := newOpenFiles(s, d, slog.Default(), newMetrics(nil), false)
	files.pins = maxPinned // whatever this machine allows
	return s, d, files
}

func TestPinnedFilesAreBoundedInNumberAndTime(t *testing.T) {
	s, d, files := newShelf(t)
	synctest.Test(t, func(t *testing.T) {
		const extra = 10
		for ino := range uint64(maxPinned + extra) {
			if _, _, err := files.open(t.Context(), ino+2, fileNode(ino+2, "v1")); err != nil {
				t.Fatal(err)
			}
		}
		if s.open != maxPinned+extra {
			t.Errorf("%d files open, want all: somebody has each open", s.open)
		}
		for ino := range uint64(maxPinned + extra) {
			files.release(ino + 2)
		}
		if s.open != maxPinned || d.unregistered != extra {
			t.Errorf("%d files open and %d unregistered, want %d and %d", s.open, d.unregistered, maxPinned, extra)
		}
		time.Sleep(pinnedIdle - time.Second)
		if files.expire(); s.open != maxPinned {
			t.Errorf("%d files open before their time, want %d", s.open, maxPinned)
		}
		time.Sleep(time.Second)
		if files.expire(); s.open != 0 || d.unregistered != d.registered {
			t.Errorf("%d files open, %d of %d unregistered", s.open, d.unregistered, d.registered)
		}
	})
}

func TestAPinnedFileIsNotGivenForAnotherVersion(t *testing.T) {
	s, d, files := newShelf(t)
	if _, _, err := files.open(t.Context(), 7, fileNode(7, "v1")); err != nil {
		t.Fatal(err)
	}
	files.release(7) // pinned; the kernel forgets the node and learns of v2
	s.version = "v2"
	o, _, err := files.open(t.Context(), 7, fileNode(7, "v2"))
	if err != nil {
		t.Fatal(err)
	}
	if got := o.file.Version(); got != "v2" {
		t.Errorf("got the file of %s", got)
	}
	files.closeAll()
	if s.open != 0 || d.registered != 2 || d.unregistered != 2 {
		t.Errorf("%d open, %d registered, %d unregistered", s.open, d.registered, d.unregistered)
	}
}

func TestAFileOfAnotherVersionThanLookedUpIsStale(t *testing.T) {
	s, _, files := newShelf(t)
	if _, _, err := files.open(t.Context(), 7, fileNode(7, "v0")); !errors.Is(err, syscall.ESTALE) {
		t.Errorf("open: %v, want ESTALE", err)
	}
	if s.open != 0 || len(files.byNode) != 0 {
		t.Errorf("%d open, %d kept", s.open, len(files.byNode))
	}
}

func TestAFileIsNotClosedUnderARead(t *testing.T) {
	s, d, files := newShelf(t)
	if _, _, err := files.open(t.Context(), 7, fileNode(7, "v1")); err != nil {
		t.Fatal(err)
	}
	o, ok := files.beginRead(7)
	if !ok {
		t.Fatal("the file is not there to be read")
	}
	files.closeAll()
	if s.open != 1 || d.unregistered != 0 {
		t.Errorf("%d open and %d unregistered during the read", s.open, d.unregistered)
	}
	files.endRead(o)
	if s.open != 0 || d.unregistered != 1 {
		t.Errorf("%d open and %d unregistered after the read", s.open, d.unregistered)
	}
}
