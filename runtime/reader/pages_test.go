package reader_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/fuse/fusetest"
	"github.com/millrace/millrace/runtime/reader"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// many makes a directory d of n empty files, waits until the master knows them
// and gives the directory.
func (s *scene) many(r *reader.Reader, n int) fuse.Node {
	s.t.Helper()
	s.until("the source is not walked", func() bool { return s.master.Summary().FileNum == int64(n) })
	d, err := find(s.t.Context(), r, "d")
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *scene) putMany(n int) {
	s.t.Helper()
	for i := range n {
		s.put(fmt.Sprintf("d/%06d", i), nil)
	}
}

func (c counters) fetched() float64 {
	return c.value("millrace_client_directory_pages_total", "fetched")
}

// TestDirectoriesThatAreListedInOrderAreFetchedAhead: each is asked for once,
// and more of them than were listed.
func TestDirectoriesThatAreListedInOrderAreFetchedAhead(t *testing.T) {
	const dirs, files = 30, 7
	listed := func(t *testing.T, order []int) (c counters, r *reader.Reader) {
		s := newScene(t, nil)
		for i := range dirs {
			for j := range files {
				s.put(fmt.Sprintf("d%02d/f%d", i, j), nil)
			}
		}
		s.worker("a", 1<<30)
		c, _ = s.counters()
		r = s.reader("", func(cfg *reader.Config) { cfg.Registerer = &keeper{Registerer: c} })
		s.until("the reader hears nothing", func() bool { return r.Workers() == 1 }) // from then on it trusts what it has
		s.until("the source is not walked", func() bool { return s.master.Summary().FileNum == dirs*files })
		top, err := readDir(t.Context(), r, 1)
		if err != nil || len(top) != dirs {
			t.Fatal(len(top), err)
		}
		for _, i := range order {
			got, err := readDir(t.Context(), r, top[i].Ino)
			if err != nil || len(got) != files || got[0].Name != "f0" || got[0].Parent != top[i].Ino {
				t.Fatalf("directory %d: %v, %v", i, got, err)
			}
		}
		return c, r
	}
	const name = "millrace_client_directories_total"
	t.Run("in order", func(t *testing.T) {
		var all []int
		for i := range dirs {
			all = append(all, i)
		}
		c, r := listed(t, all)
		r.Close()
		if n := c.value(name, ""); n != dirs+1 {
			t.Errorf("%d directories were asked for %v times", dirs+1, n)
		}
	})
	t.Run("the first two", func(t *testing.T) {
		c, _ := listed(t, []int{0, 1})
		deadline := time.Now().Add(time.Minute)
		for c.value(name, "") < 1+2+4 && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		if n := c.value(name, ""); n != 1+2+4 {
			t.Errorf("%v directories were asked for", n)
		}
	})
	t.Run("backwards", func(t *testing.T) {
		c, r := listed(t, []int{20, 15, 10, 5})
		r.Close()
		if n := c.value(name, ""); n != 1+4 {
			t.Errorf("%v directories were asked for", n)
		}
	})
}

func TestAfterAChangeOnlyThePagesThatChangedAreFetched(t *testing.T) {
	s := newScene(t, nil)
	const files = 8000
	s.putMany(files)
	s.worker("a", 1<<30) // a load needs one
	c, count := s.counters()
	r := s.mountable("", count)
	dir, _ := fusetest.MountWith(t, r, fuse.Options{})
	d := s.many(r, files)
	if got, err := os.ReadDir(filepath.Join(dir, "d")); err != nil || len(got) != files {
		t.Fatal(len(got), err)
	}
	before := c.fetched()
	if before < 10 {
		t.Fatalf("%v pages of %d files", before, files)
	}
	s.put("d/004000", []byte("changed"))
	s.put("d/004000x", nil)
	if err := os.Remove(filepath.Join(s.dir, "d/007000")); err != nil {
		t.Fatal(err)
	}
	s.load(&wirepb.LoadRequest{Id: "look again", LoadMetadata: true})
	s.until("the change is not seen", func() bool {
		got, err := os.ReadDir(filepath.Join(dir, "d"))
		_, gone := os.Lstat(filepath.Join(dir, "d/007000"))
		st, errStat := os.Lstat(filepath.Join(dir, "d/004000"))
		return err == nil && len(got) == files && os.IsNotExist(gone) && errStat == nil && st.Size() == 7
	})
	nodes, err := readDir(t.Context(), r, d.Ino)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes[3995:4005] {
		if again, err := r.Node(t.Context(), n.Ino); err != nil || again != n {
			t.Errorf("%+v, by inode %+v, %v", n, again, err)
		}
	}
	// Two pages have changed; each may have been asked for in two states.
	if more := c.fetched() - before; more < 1 || more > 6 {
		t.Errorf("%v pages were fetched after the change, %v before", more, before)
	}
}

func TestAfterARestartOfTheMasterOnlyThePagesThatChangedAreFetched(t *testing.T) {
	s := newScene(t, nil)
	const files = 5000
	s.putMany(files)
	s.worker("a", 1<<30) // a load needs one
	c, count := s.counters()
	r := s.reader("", count)
	d := s.many(r, files)
	if nodes, err := readDir(t.Context(), r, d.Ino); err != nil || len(nodes) != files {
		t.Fatal(len(nodes), err)
	}
	before := c.fetched()
	s.stop()
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	s.startMaster(l)
	s.until("the worker does not come back", func() bool { return s.attached("worker-a") })
	s.put("d/002000x", nil)
	s.load(&wirepb.LoadRequest{Id: "look again", LoadMetadata: true})
	s.until("the change is not seen", func() bool {
		nodes, err := readDir(t.Context(), r, d.Ino)
		return err == nil && len(nodes) == files+1
	})
	if more := c.fetched() - before; more < 1 || more > 4 {
		t.Errorf("%v pages were fetched after the restart, %v before", more, before)
	}
}

func TestADirectoryIsFetchedWholeWhenManyOfItAreAskedFor(t *testing.T) {
	s := newScene(t, nil)
	const files = 6000
	s.putMany(files)
	c, count := s.counters()
	r := s.reader("", count)
	d := s.many(r, files)
	look := func(i int) {
		t.Helper()
		if _, err := r.Lookup(t.Context(), d.Ino, fmt.Sprintf("%06d", i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 10 {
		look(i * 100)
	}
	if _, err := r.Lookup(t.Context(), d.Ino, "nothing"); !errors.Is(err, source.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
	// Asked for at the fourth and eighth, and refused: it is too large for so few.
	s.until("the directory is not asked for", func() bool { return c.value("millrace_client_directories_total", "") >= 1 })
	if n := c.fetched(); n != 0 {
		t.Errorf("%v pages were fetched for the sake of ten entries", n)
	}
	for i := range 200 {
		look(i*20 + 1)
	}
	s.until("the directory is not fetched", func() bool { return c.fetched() > 0 })
	if _, err := r.Lookup(t.Context(), d.Ino, "nothing"); !errors.Is(err, source.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
}

func TestADirectoryTakesFewBytesForEachEntryAndKeepsToItsBudget(t *testing.T) {
	s := newScene(t, nil)
	const files = 20_000
	s.putMany(files)
	c, count := s.counters()
	r := s.reader("", count)
	d := s.many(r, files)
	used := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	before := used()
	if nodes, err := readDir(t.Context(), r, d.Ino); err != nil || len(nodes) != files {
		t.Fatal(len(nodes), err)
	}
	real, told := (used()-before)/files, c.value("millrace_client_metadata_bytes", "")/files
	t.Logf("%.0f bytes an entry, %.0f by the gauge", real, told)
	if real > 150 || told > 150 || told < 30 {
		t.Errorf("%.0f bytes an entry, %.0f by the gauge", real, told)
	}
	r.Close()
	if left := c.value("millrace_client_metadata_bytes", ""); left != 0 {
		t.Errorf("%v bytes are left", left)
	}

	c, count = s.counters()
	small := s.reader("", func(cfg *reader.Config) { count(cfg); cfg.MetadataBytes = files / 2 * 30 })
	for range 2 {
		if nodes, err := readDir(t.Context(), small, d.Ino); err != nil || len(nodes) != files {
			t.Fatal(len(nodes), err)
		}
	}
	if held := c.value("millrace_client_metadata_bytes", ""); held > files/2*30 {
		t.Errorf("%v bytes are held", held)
	}
}
