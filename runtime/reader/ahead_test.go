package reader_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/reader"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// counters are the metrics of a reader.
type counters struct {
	*prometheus.Registry
	t testing.TB
}

func (s *scene) counters() (counters, func(*reader.Config)) {
	c := counters{prometheus.NewPedanticRegistry(), s.t}
	return c, func(cfg *reader.Config) { cfg.Registerer = c }
}

// value sums a metric over its labels, or over those with this label.
func (c counters) value(name, label string) (sum float64) {
	c.t.Helper()
	families, err := c.Gather()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name && (label == "" || len(m.Label) > 0 && m.Label[0].GetValue() == label) {
				sum += m.Counter.GetValue() + m.Gauge.GetValue() + float64(m.Histogram.GetSampleCount())
			}
		}
	}
	return sum
}

func TestFilesOfADirectoryAreReadAheadInTheirOrder(t *testing.T) {
	for name, node := range map[string]string{"by the worker of this node": "a", "by owners": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, nil)
			const files = 300
			path := func(i int) string { return fmt.Sprintf("d/%04d", i) }
			for i := range files {
				s.put(path(i), content(path(i), 10_000+i))
			}
			s.worker("a", 1<<30)
			s.origin.delay.Store(int64(5 * time.Millisecond))
			c, count := s.counters()
			r := s.reader(node, count)
			for i := range files {
				s.check(r, path(i), content(path(i), 10_000+i))
			}
			if used := c.value("millrace_client_read_ahead_files_total", "used"); used < files/2 {
				t.Errorf("%v of %d files were opened ahead", used, files)
			}
			if got := s.origin.bytes.Load(); got > files*(10_000+files) {
				t.Errorf("%d bytes of the source", got)
			}
			r.Close()
		})
	}
}

func TestFilesOfADirectoryThatIsNotRememberedAreReadAhead(t *testing.T) {
	s := newScene(t, nil)
	const files = 400
	path := func(i int) string { return fmt.Sprintf("d/%04d", i) }
	for i := range files {
		s.put(path(i), content(path(i), 3000))
	}
	s.worker("a", 1<<30)
	c, count := s.counters()
	r := s.reader("a", func(cfg *reader.Config) { count(cfg); cfg.MaxEntries, cfg.MetadataBytes = 50, 1 })
	d, err := find(t.Context(), r, "d")
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := readDir(t.Context(), r, d.Ino)
	if err != nil || len(nodes) != files {
		t.Fatal(len(nodes), err)
	}
	for i := range files {
		s.check(r, path(i), content(path(i), 3000))
	}
	if used := c.value("millrace_client_read_ahead_files_total", "used"); used < files/2 {
		t.Errorf("%v of %d files were opened ahead", used, files)
	}
}

func TestFilesOpenedInNoOrderAreNotReadAhead(t *testing.T) {
	s := newScene(t, nil)
	const files = 200
	path := func(i int) string { return fmt.Sprintf("d/%04d", i) }
	for i := range files {
		s.put(path(i), content(path(i), 5000))
	}
	s.worker("a", 1<<30)
	c, count := s.counters()
	r := s.reader("a", count)
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(files)[:files/2] {
		s.check(r, path(i), content(path(i), 5000))
	}
	if early := c.value("millrace_client_early_files", ""); early > files/4 {
		t.Errorf("%v files are open ahead of nobody", early)
	}
}

func TestAFileThatChangedAfterItWasOpenedAheadIsNotGiven(t *testing.T) {
	for name, node := range map[string]string{"by the worker of this node": "a", "by owners": ""} {
		t.Run(name, func(t *testing.T) { changedAhead(t, node) })
	}
}

func changedAhead(t *testing.T, node string) {
	s := newScene(t, nil)
	path := func(i int) string { return fmt.Sprintf("d/%04d", i) }
	for i := range 20 {
		s.put(path(i), content(path(i), 5000))
	}
	s.worker("a", 1<<30)
	c, count := s.counters()
	r := s.reader(node, count)
	s.check(r, path(0), content(path(0), 5000))
	s.check(r, path(1), content(path(1), 5000))
	s.until("nothing is opened ahead", func() bool { return c.value("millrace_client_early_files", "") > 2 })
	s.put(path(3), content("another", 6000))
	s.load(&wirepb.LoadRequest{Id: "look again", LoadMetadata: true})
	s.until("the change is not noticed", func() bool {
		n, err := find(t.Context(), r, path(3))
		return err == nil && n.Size == 6000
	})
	s.check(r, path(2), content(path(2), 5000))
	s.check(r, path(3), content("another", 6000))
}

// TestAnOwnerThatDiesWhileSmallFilesAreReadAheadFailsNoRead: neither those that
// were on their way together nor the next ones.
func TestAnOwnerThatDiesWhileSmallFilesAreReadAheadFailsNoRead(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "hung": syscall.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, nil)
			const files = 400
			path := func(i int) string { return fmt.Sprintf("d/%04d", i) }
			for i := range files {
				s.put(path(i), content(path(i), 1000+i))
			}
			child := s.workerProcess("k", 1<<30)
			s.worker("b", 1<<30)
			c, count := s.counters()
			r := s.reader("", count)
			for i := range files {
				if i == files/4 {
					if err := child.Process.Signal(sig); err != nil {
						t.Fatal(err)
					}
				}
				s.check(r, path(i), content(path(i), 1000+i))
			}
			if used := c.value("millrace_client_read_ahead_files_total", "used"); used < files/2 {
				t.Errorf("%v of %d files were opened ahead", used, files)
			}
		})
	}
}

func TestARandomReaderOfRemoteBytesGetsLittleMoreThanItReads(t *testing.T) {
	s := newScene(t, nil)
	const size, reads, n = 64 * block, 300, 16 << 10
	want := content("f", size)
	s.put("f", want)
	s.worker("a", 1<<30)
	s.load(&wirepb.LoadRequest{Id: "x"})
	c, count := s.counters()
	r := s.reader("", count)
	f := s.open(r, "f")
	defer f.Close()
	rnd := rand.New(rand.NewPCG(1, 2))
	got := make([]byte, n)
	for range reads {
		off := rnd.Int64N(size - n)
		if _, err := f.ReadAt(t.Context(), got, off); err != nil || !bytes.Equal(got, want[off:off+n]) {
			t.Fatalf("at %d: %v", off, err)
		}
	}
	fetched := c.value("millrace_client_read_bytes_total", "remote")
	t.Logf("%.1f bytes were fetched for each byte read", fetched/(reads*n))
	if fetched > 8*reads*n {
		t.Errorf("%v bytes were fetched for %d", fetched, reads*n)
	}
}

func TestAStridedReaderOfRemoteBytesIsServedAhead(t *testing.T) {
	s := newScene(t, nil)
	const size, n, stride = 64 * block, 32 << 10, 3 * mib
	want := content("f", size)
	s.put("f", want)
	s.worker("a", 1<<30)
	s.load(&wirepb.LoadRequest{Id: "x"})
	c, count := s.counters()
	r := s.reader("", count)
	f := s.open(r, "f")
	defer f.Close()
	got := make([]byte, n)
	reads := 0
	for off := int64(block); off+n <= size; off += stride {
		if _, err := f.ReadAt(t.Context(), got, off); err != nil || !bytes.Equal(got, want[off:off+n]) {
			t.Fatalf("at %d: %v", off, err)
		}
		reads++
	}
	if used := c.value("millrace_client_read_ahead_bytes_total", "used"); used < float64(reads/2*n) {
		t.Errorf("%v bytes of %d reads came ahead", used, reads)
	}
	if fetched := c.value("millrace_client_read_bytes_total", "remote"); fetched > float64(5*reads*n) {
		t.Errorf("%v bytes were fetched for %d", fetched, reads*n)
	}
}

func TestReadersOfOneFileShareWhatIsFetched(t *testing.T) {
	s := newScene(t, nil)
	const size = 16 * block
	want := content("f", size)
	s.put("f", want)
	s.worker("a", 1<<30)
	s.load(&wirepb.LoadRequest{Id: "x"})
	c, count := s.counters()
	r := s.reader("", func(cfg *reader.Config) { count(cfg); cfg.MemoryBytes = size + block })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			f := s.open(r, "f")
			defer f.Close()
			if got, err := readAll(t.Context(), f, size, mib); err != nil || !bytes.Equal(got, want) {
				t.Errorf("wrong bytes or %v", err)
			}
		})
	}
	wg.Wait()
	if fetched := c.value("millrace_client_read_bytes_total", "remote"); fetched > 1.5*size {
		t.Errorf("%v bytes were fetched for %d", fetched, size)
	}
}

// slowOwner is a file whose first owner is a process that a test can stop, and
// of which both owners have every byte.
func slowOwner(t *testing.T) (s *scene, stop func(), names []string) {
	s = newScene(t, nil)
	s.opts.Replicas = 2
	s.times.Silence = 20 * time.Second // a hedge has to come long before
	for i := range 12 {
		name := fmt.Sprintf("f%d", i)
		names = append(names, name)
		s.put(name, content(name, 2*block))
	}
	child := s.workerProcess("k", 1<<30)
	s.worker("b", 1<<30)
	p := s.load(&wirepb.LoadRequest{Id: "x", Targets: []*wirepb.LoadTarget{{Path: "/", Replicas: 2}}})
	if p.GetMessage() != "" {
		t.Log(p.GetMessage())
	}
	return s, func() {
		if err := child.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}, names
}

func TestASecondOwnerIsAskedWhenTheFirstIsSlow(t *testing.T) {
	t.Parallel()
	s, stop, names := slowOwner(t)
	c, count := s.counters()
	r := s.reader("", count)
	stop()
	start := time.Now()
	for _, name := range names {
		s.check(r, name, content(name, 2*block))
	}
	if took := time.Since(start); took > s.times.Silence/2 {
		t.Errorf("it took %s", took)
	}
	won := c.value("millrace_client_hedges_total", "won")
	if won == 0 {
		t.Error("no hedge was sent")
	}
	if n := c.value("millrace_client_read_bytes_total", "source"); n != 0 {
		t.Errorf("%v bytes came from the source", n)
	}
	t.Logf("%v hedges won, %v lost, %v requests", won, c.value("millrace_client_hedges_total", "lost"), c.value("millrace_client_requests_total", "remote"))
}

func TestGaugesAreZeroAtTheEnd(t *testing.T) {
	s := newScene(t, nil)
	path := func(i int) string { return fmt.Sprintf("d/%04d", i) }
	for i := range 100 {
		s.put(path(i), content(path(i), 5000))
	}
	s.put("f", content("f", 16*block))
	s.worker("a", 1<<30)
	for _, node := range []string{"a", ""} {
		c, count := s.counters()
		registered := &keeper{Registerer: c}
		r := s.reader(node, func(cfg *reader.Config) { count(cfg); cfg.Registerer = registered })
		for i := range 10 {
			s.check(r, path(i), content(path(i), 5000))
		}
		f := s.open(r, "f")
		if _, err := f.ReadAt(t.Context(), make([]byte, 6*mib), 0); err != nil {
			t.Fatal(err)
		}
		f.Close()
		r.Close()
		for _, gauge := range []string{"millrace_client_memory_bytes", "millrace_client_early_files"} {
			if v := c.value(gauge, ""); v != 0 {
				t.Errorf("%s is %v", gauge, v)
			}
		}
	}
}

// keeper keeps metrics registered, to look at them after the end.
type keeper struct{ prometheus.Registerer }

func (keeper) Unregister(prometheus.Collector) bool { return false }

func TestABandwidthHoldsForWhatComesFromElsewhere(t *testing.T) {
	t.Parallel()
	s := newScene(t, nil)
	const size = 4 * block
	s.put("f", content("f", size))
	s.worker("a", 1<<30)
	for _, node := range []string{"", "a"} {
		r := s.reader(node, func(c *reader.Config) { c.Bandwidth = 2 * block })
		start := time.Now()
		s.check(r, "f", content("f", size))
		if took := time.Since(start); node == "" && took < time.Second {
			t.Errorf("%d bytes at %d a second took %s", size, 2*block, took)
		}
		start = time.Now()
		if node != "" { // the worker has it all by now, and it costs nothing
			s.check(r, "f", content("f", size))
			if took := time.Since(start); took > time.Second {
				t.Errorf("a local copy took %s", took)
			}
		}
	}
}

func TestTheProfileIsFoundByASampleOfTheTree(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]int
		want  fuse.Profile
	}{
		"small files deep down": {map[string]int{"a/b/c/1": 1000, "a/b/c/2": 2000, "a/b/d/3": 100, "readme": 10}, fuse.ProfileSmall},
		"large files":           {map[string]int{"a/1": mib, "a/2": mib, "readme": 10}, fuse.ProfileLarge},
		"nothing":               {nil, fuse.ProfileLarge},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, nil)
			for name, size := range tc.files {
				s.put(name, content(name, size))
			}
			if got := s.reader("", nil).Profile(t.Context()); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

func TestALargeDirectoryIsListedOnceAndForgottenWhenItChanges(t *testing.T) {
	s := newScene(t, nil)
	const files = 2000
	for i := range files {
		s.put(fmt.Sprintf("d/%04d", i), nil)
	}
	s.worker("a", 1<<30) // a load needs one
	r := s.reader("", nil)
	d, err := find(t.Context(), r, "d")
	if err != nil {
		t.Fatal(err)
	}
	list := func() int {
		nodes, err := readDir(t.Context(), r, d.Ino)
		if err != nil {
			t.Fatal(err)
		}
		for i, n := range nodes {
			if i > 0 && strings.Compare(nodes[i-1].Name, n.Name) >= 0 || n.Parent != d.Ino {
				t.Fatalf("%+v after %+v", n, nodes[max(i-1, 0)])
			}
		}
		return len(nodes)
	}
	if n := list(); n != files {
		t.Fatalf("%d entries", n)
	}
	s.put("d/9999", nil)
	if err := os.Remove(filepath.Join(s.dir, "d", "0000")); err != nil {
		t.Fatal(err)
	}
	s.put("d/99999", nil)
	s.load(&wirepb.LoadRequest{Id: "look again", LoadMetadata: true})
	s.until("the change is not noticed", func() bool { return list() == files+1 })
}
