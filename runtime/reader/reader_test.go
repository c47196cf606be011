package reader_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/master"
	"github.com/millrace/millrace/runtime/reader"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

var files = map[string]int{
	"empty": 0, "one": 1, "small": 100_000, "a block": block, "deep/er/näme with space": block + 1, "large": 5*block + 333,
}

func (s *scene) putFiles() {
	s.t.Helper()
	for name, size := range files {
		s.put(name, content(name, size))
	}
}

func TestEveryWayGivesTheRightBytes(t *testing.T) {
	for way, arrange := range map[string]func(*scene) *reader.Reader{
		"the worker of the node, an owner": func(s *scene) *reader.Reader {
			s.worker("a", 1<<30)
			return s.reader("a", nil)
		},
		"the worker of the node, a guest of three": func(s *scene) *reader.Reader {
			s.worker("a", 1<<30)
			s.worker("b", 1<<30)
			s.worker("c", 1<<30)
			return s.reader("a", nil)
		},
		"owners on other nodes": func(s *scene) *reader.Reader {
			s.worker("a", 1<<30)
			s.worker("b", 1<<30)
			return s.reader("", nil)
		},
		"owners in two copies": func(s *scene) *reader.Reader {
			s.opts.Replicas = 2
			s.worker("a", 1<<30)
			s.worker("b", 1<<30)
			s.worker("c", 1<<30)
			return s.reader("c", nil)
		},
		"the source alone": func(s *scene) *reader.Reader { return s.reader("", nil) },
		"a socket without a worker": func(s *scene) *reader.Reader {
			return s.reader("nobody", nil)
		},
	} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, nil)
			s.putFiles()
			r := arrange(s)
			for name, size := range files {
				s.check(r, name, content(name, size))
			}
		})
	}
}

func TestWhatIsLentIsRight(t *testing.T) {
	for way, node := range map[string]string{"from the copy on this node": "a", "from other nodes": ""} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, nil)
			s.put("f", content("f", 5*block+333))
			s.worker("a", 1<<30)
			s.worker("b", 1<<30)
			r := s.reader(node, nil)
			f := s.open(r, "f")
			defer f.Close()
			want := content("f", 5*block+333)
			lent := 0
			for _, at := range []struct{ off, n int64 }{
				{0, 256 << 10}, {256 << 10, 512 << 10}, {768 << 10, mib}, {2 * mib, mib}, {3 * mib, mib}, {4 * mib, 4 * mib}, {8*mib + 77, mib}, {block - 1, 2 * mib}, {5 * block, 333},
			} {
				parts, done, err := f.(fuse.Lender).Lend(t.Context(), at.off, at.n)
				if err != nil {
					t.Fatalf("%v: %v", at, err)
				}
				if parts == nil {
					continue
				}
				lent++
				if !bytes.Equal(bytes.Join(parts, nil), want[at.off:at.off+at.n]) {
					t.Errorf("%v is wrong", at)
				}
				done()
			}
			if lent < 6 {
				t.Errorf("only %d ranges were lent", lent)
			}
			s.check(r, "f", want)
		})
	}
}

func TestNamesAndAttributesAreThoseOfTheSource(t *testing.T) {
	s := newScene(t, nil)
	s.putFiles()
	if err := os.Symlink("small", filepath.Join(s.dir, "link")); err != nil {
		t.Fatal(err)
	}
	r := s.reader("", nil)
	nodes, err := readDir(t.Context(), r, fuse.RootIno)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range nodes {
		names = append(names, n.Name)
		again, err := r.Node(t.Context(), n.Ino)
		if err != nil || again != n {
			t.Errorf("%+v, by inode %+v, %v", n, again, err)
		}
		if size, ok := files[n.Name]; ok && (n.Size != int64(size) || n.Mode != syscall.S_IFREG|0o644 || n.Version == "") {
			t.Errorf("%+v", n)
		}
		if n.Name == "link" && (n.Link != "small" || n.Mode&syscall.S_IFMT != syscall.S_IFLNK) {
			t.Errorf("%+v", n)
		}
	}
	if want := []string{"a block", "deep", "empty", "large", "link", "one", "small"}; !slices.Equal(names, want) {
		t.Errorf("names %q, want %q", names, want)
	}
	if _, err := find(t.Context(), r, "deep/nothing"); !errors.Is(err, source.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
	deep, _ := find(t.Context(), r, "deep")
	if _, err := r.Open(t.Context(), deep.Ino); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("a directory: %v", err)
	}
	s.until("no totals", func() bool { total, n := r.StatFS(t.Context()); return total > 0 && n == int64(len(files)) })
}

func TestReadsEndAtTheEndOfTheFile(t *testing.T) {
	s := newScene(t, nil)
	s.putFiles()
	s.worker("a", 1<<30)
	for _, node := range []string{"a", ""} {
		r := s.reader(node, nil)
		f := s.open(r, "small")
		p := make([]byte, 20)
		if n, err := f.ReadAt(t.Context(), p, 99_990); n != 10 || err == nil {
			t.Errorf("over the end: %d, %v", n, err)
		}
		if n, err := f.ReadAt(t.Context(), p, 100_000); n != 0 || err == nil {
			t.Errorf("at the end: %d, %v", n, err)
		}
		if _, err := f.ReadAt(t.Context(), p, -1); err == nil {
			t.Error("before the start")
		}
		f.Close()
	}
}

func TestASmallFileIsPassthroughAtItsFirstOpenAndALargeOneOnceItWasRead(t *testing.T) {
	s := newScene(t, nil)
	s.putFiles()
	s.worker("a", 1<<30)
	s.worker("b", 1<<30)
	r := s.reader("a", nil)
	backing := func(name string) []byte {
		f := s.open(r, name)
		defer f.Close()
		b := f.Backing()
		if b == nil {
			return nil
		}
		defer b.Close()
		got, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", b.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for _, name := range []string{"one", "small", "deep/er/näme with space"} {
		if !bytes.Equal(backing(name), content(name, files[name])) {
			t.Errorf("%s has no backing, or a wrong one", name)
		}
	}
	if backing("large") != nil {
		t.Error("a file that is not there has a backing")
	}
	s.check(r, "large", content("large", files["large"]))
	if !bytes.Equal(backing("large"), content("large", files["large"])) {
		t.Error("large has no backing, or a wrong one")
	}
}

func TestOneEpochByManyReadersReadsTheSourceOnce(t *testing.T) {
	for name, replicas := range map[string]int{"one copy": 1, "two copies": 2} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, func(o *master.Options) { o.Replicas = replicas })
			var total int64
			for i := range 6 {
				name, size := fmt.Sprintf("f%d", i), 2*block+i*100_000
				s.put(name, content(name, size))
				total += int64(size)
			}
			nodes := []string{"a", "b", "c"}
			for _, n := range nodes {
				s.worker(n, 1<<30)
			}
			var wg sync.WaitGroup
			for i, n := range append(nodes, "", "b") {
				r := s.reader(n, nil)
				wg.Go(func() {
					for _, j := range rand.New(rand.NewPCG(uint64(i), 1)).Perm(6) {
						name := fmt.Sprintf("f%d", j)
						s.check(r, name, content(name, 2*block+j*100_000))
					}
				})
			}
			wg.Wait()
			if got := s.origin.bytes.Load(); float64(got) > 1.05*float64(total) {
				t.Errorf("the source gave %d bytes of %d: %.2f times", got, total, float64(got)/float64(total))
			}
		})
	}
}

func TestAWorkerKilledDuringAReadDoesNotFailIt(t *testing.T) {
	for name, node := range map[string]string{"of this node": "k", "of another node": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, nil)
			const size = 10 * block
			s.put("f", content("f", size))
			child := s.workerProcess("k", 1<<30)
			s.worker("b", 1<<30)
			r := s.reader(node, nil)
			f := s.open(r, "f")
			defer f.Close()
			got := make([]byte, size)
			for off := 0; off < size; off += mib {
				if off == 3*block {
					child.Process.Kill()
				}
				if n, err := f.ReadAt(t.Context(), got[off:off+mib], int64(off)); n != mib || err != nil {
					t.Fatalf("at %d: %d, %v", off, n, err)
				}
			}
			if !bytes.Equal(got, content("f", size)) {
				t.Error("wrong bytes")
			}
			s.check(r, "f", content("f", size))
		})
	}
}

func TestAStoppedWorkerOfThisNodeOnlyDelaysARead(t *testing.T) {
	t.Parallel()
	s := newScene(t, nil)
	s.times.Silence = 300 * time.Millisecond
	const size = 6 * block
	s.put("f", content("f", size))
	child := s.workerProcess("k", 1<<30)
	r := s.reader("k", nil)
	f := s.open(r, "f")
	defer f.Close()
	if err := child.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	got, err := readAll(t.Context(), f, size, mib)
	if err != nil || !bytes.Equal(got, content("f", size)) {
		t.Errorf("wrong bytes or %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

// impostor is a member of the cache whose data plane is somebody else's.
func (s *scene) impostor(name, address string) {
	s.t.Helper()
	s.up()
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.t.Cleanup(func() { cancel(); conn.Close() })
	stream, err := wirepb.NewMasterClient(conn).Attach(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	stream.Send(&wirepb.WorkerReport{Report: &wirepb.WorkerReport_Hello{Hello: &wirepb.Hello{
		Member: &wirepb.Member{Name: name, Address: address, Node: "x", CapacityBytes: 1 << 40},
	}}})
	stream.Send(&wirepb.WorkerReport{Report: &wirepb.WorkerReport_Holdings{Holdings: &wirepb.Holdings{Synced: true}}})
	s.until("the impostor does not attach", func() bool { return s.attached(name) })
}

func TestHungAndDeadOwnersOnlyDelayARead(t *testing.T) {
	for name, answer := range map[string]func(net.Conn){
		"accepts and never answers": func(c net.Conn) { time.Sleep(time.Minute) },
		"closes at once":            func(c net.Conn) { c.Close() },
		"answers nonsense":          func(c net.Conn) { c.Write(bytes.Repeat([]byte("no "), 100)) },
		"is not there":              nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, nil)
			s.times.Silence = 300 * time.Millisecond
			s.put("f", content("f", 6*block))
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			if answer == nil {
				l.Close()
			} else {
				defer l.Close()
				go func() {
					for {
						c, err := l.Accept()
						if err != nil {
							return
						}
						t.Cleanup(func() { c.Close() })
						if name != "accepts and never answers" {
							answer(c)
						}
					}
				}()
			}
			s.impostor("x", l.Addr().String())
			s.worker("a", 1<<30)
			start := time.Now()
			for _, node := range []string{"", "a"} {
				s.check(s.reader(node, nil), "f", content("f", 6*block))
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestAFileThatChangesWhileItIsReadFailsAndIsNewWhenOpenedAgain(t *testing.T) {
	for name, node := range map[string]string{"by the worker of this node": "a", "by owners": "", "by the source": "source"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, nil)
			const size = 7 * block // more than is fetched ahead at the first read
			before, after := content("old", size), content("new", size+1)
			s.put("f", before)
			if node != "source" {
				s.worker("a", 1<<30)
			}
			r := s.reader(node, nil)
			f := s.open(r, "f")
			defer f.Close()
			p := make([]byte, mib)
			if _, err := f.ReadAt(t.Context(), p, 0); err != nil || !bytes.Equal(p, before[:mib]) {
				t.Fatal(err)
			}
			s.put("f", after)
			failed := false
			for off := 0; off < size && !failed; off += mib {
				n, err := f.ReadAt(t.Context(), p, int64(off))
				switch {
				case errors.Is(err, source.ErrChanged):
					failed = true
				case err != nil:
					t.Fatalf("at %d: %v", off, err)
				case !bytes.Equal(p[:n], before[off:off+n]):
					t.Fatalf("at %d: wrong bytes", off)
				}
			}
			if !failed {
				t.Error("the old version was read to its end, though it is gone")
			}
			s.until("the new version is not seen", func() bool {
				n, err := find(t.Context(), r, "f")
				return err == nil && n.Size == int64(len(after))
			})
			s.check(r, "f", after)
		})
	}
}

func TestACompleteOldVersionServesThoseWhoHaveItOpen(t *testing.T) {
	s := newScene(t, nil)
	before, after := content("old", 2*block), content("new", 2*block+1)
	s.put("f", before)
	s.worker("a", 1<<30)
	r := s.reader("a", nil)
	f := s.open(r, "f")
	defer f.Close()
	s.put("f", after)
	old, err := find(t.Context(), r, "f")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := wirepb.NewMasterClient(conn).Refresh(t.Context(), &wirepb.LookupRequest{Ino: old.Ino}); err != nil {
		t.Fatal(err)
	}
	s.until("the new version is not seen", func() bool {
		n, err := r.Node(t.Context(), old.Ino)
		return err == nil && n.Version != old.Version
	})
	s.check(r, "f", after)
	got, err := readAll(t.Context(), f, len(before), mib)
	if err != nil || !bytes.Equal(got, before) || f.Version() != old.Version {
		t.Errorf("the old version: %v", err)
	}
}

func TestASmallFileThatChangedIsOpenedAsItIsNow(t *testing.T) {
	s := newScene(t, nil)
	s.put("f", content("old", 1000))
	s.worker("a", 1<<30)
	r := s.reader("a", nil)
	n, err := find(t.Context(), r, "f")
	if err != nil {
		t.Fatal(err)
	}
	s.put("f", content("new", 2000))
	f, err := r.Open(t.Context(), n.Ino)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := readAll(t.Context(), f, 2000, 2000)
	if err != nil || !bytes.Equal(got, content("new", 2000)) {
		t.Errorf("wrong bytes or %v", err)
	}
	if now, err := r.Node(t.Context(), n.Ino); err != nil || now.Version != f.Version() || now.Size != 2000 {
		t.Errorf("the node is %+v, %v", now, err)
	}
	if err := os.Remove(filepath.Join(s.dir, "f")); err != nil {
		t.Fatal(err)
	}
	s.put("g", nil)
	if _, err := readAll(t.Context(), f, 2000, 2000); err != nil {
		t.Errorf("a cached file that is gone at the source, for who has it open: %v", err)
	}
}

func TestAFileThatVanishedDoesNotExist(t *testing.T) {
	s := newScene(t, nil)
	s.put("f", content("f", 1000))
	s.worker("a", 1<<30)
	r := s.reader("a", nil)
	n, err := find(t.Context(), r, "f")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(s.dir, "f")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Open(t.Context(), n.Ino); !errors.Is(err, source.ErrNotExist) {
		t.Errorf("open: %v", err)
	}
}

func TestWhatHasNoRoomIsReadAllTheSame(t *testing.T) {
	for name, quota := range map[string]int64{"a tier smaller than the file": 3 * block, "a tier smaller than a block": block / 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, nil)
			s.put("f", content("f", 8*block+5))
			s.worker("a", quota)
			s.worker("b", quota)
			for _, node := range []string{"a", ""} {
				r := s.reader(node, nil)
				s.check(r, "f", content("f", 8*block+5))
			}
			for _, w := range s.master.Summary().Workers {
				if w.UsedBytes > w.CapacityBytes || w.CapacityBytes != quota {
					t.Errorf("%+v", w)
				}
			}
		})
	}
}

func TestAWorkerThatComesBackIsUsedAgainWithWhatItHad(t *testing.T) {
	s := newScene(t, nil)
	s.put("f", content("f", 8*block))
	s.put("g", content("g", 8*block))
	dir := t.TempDir()
	stop := s.workerIn("a", dir, 1<<30)
	r := s.reader("a", nil)
	s.check(r, "f", content("f", 8*block))
	open := s.open(r, "g")
	defer open.Close()
	p := make([]byte, mib)
	if _, err := open.ReadAt(t.Context(), p, 0); err != nil {
		t.Fatal(err)
	}
	stop()
	s.check(r, "f", content("f", 8*block)) // from the source, meanwhile
	s.workerIn("a", dir, 1<<30)
	before := s.origin.bytes.Load()
	s.until("the worker is not used again", func() bool {
		f := s.open(r, "f")
		defer f.Close()
		b := f.Backing()
		if b == nil {
			return false
		}
		b.Close()
		return true
	})
	s.check(r, "f", content("f", 8*block))
	if got := s.origin.bytes.Load() - before; got != 0 {
		t.Errorf("%d bytes of what it had were read from the source", got)
	}
	got, err := readAll(t.Context(), open, 8*block, mib)
	if err != nil || !bytes.Equal(got, content("g", 8*block)) {
		t.Errorf("a file open over the restart: %v", err)
	}
	s.check(r, "g", content("g", 8*block))
	again := s.open(r, "g")
	defer again.Close()
	if b := again.Backing(); b == nil {
		t.Error("a file open over the restart was not kept by the new worker")
	} else {
		b.Close()
	}
}

func TestConcurrentRandomReadsAreRight(t *testing.T) {
	s := newScene(t, nil)
	const size = 7*block + 77
	want := content("f", size)
	s.put("f", want)
	s.worker("a", 1<<30)
	s.worker("b", 5*block) // and one that is short of room
	for _, node := range []string{"a", "b", ""} {
		r := s.reader(node, func(c *reader.Config) { c.MemoryBytes = 3 * block })
		f := s.open(r, "f")
		var wg sync.WaitGroup
		for w := range 6 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(w), 2))
				for range 60 {
					off := rnd.IntN(size)
					p := make([]byte, min(size-off, 1+rnd.IntN(300_000)))
					if n, err := f.ReadAt(t.Context(), p, int64(off)); n != len(p) || err != nil || !bytes.Equal(p, want[off:off+n]) {
						t.Errorf("node %q: %d+%d: %d, %v", node, off, len(p), n, err)
					}
				}
			})
		}
		wg.Wait()
		f.Close()
	}
}

func TestALoadFillsTheCacheAndARetireEmptiesIt(t *testing.T) {
	s := newScene(t, nil)
	s.putFiles()
	for i := range 300 {
		name := fmt.Sprintf("many/%03d", i)
		s.put(name, content(name, 1000+i))
	}
	dirs := map[string]string{}
	for _, n := range []string{"a", "b"} {
		dirs[n] = t.TempDir()
		s.workerIn(n, dirs[n], 1<<30)
	}
	load := func(id string, targets ...*wirepb.LoadTarget) *wirepb.LoadProgress {
		t.Helper()
		return s.load(&wirepb.LoadRequest{Id: id, Targets: targets, LoadMetadata: true})
	}
	start := time.Now()
	if p := load("one"); p.GetPhase() != contract.LoadComplete || p.GetBytesDone() != p.GetBytesTotal() || p.GetFilesDone() != int64(300+len(files)) {
		t.Fatalf("%+v", p)
	}
	t.Logf("loaded in %s", time.Since(start))
	sum := s.master.Summary()
	if sum.CachedBytes != sum.UFSTotalBytes || s.origin.bytes.Load() != sum.UFSTotalBytes {
		t.Errorf("cached %d of %d, read %d", sum.CachedBytes, sum.UFSTotalBytes, s.origin.bytes.Load())
	}
	if p := load("two", &wirepb.LoadTarget{Path: "/", Replicas: 2}); p.GetPhase() != contract.LoadComplete {
		t.Fatalf("%+v", p)
	}
	for _, w := range s.master.Summary().Workers {
		if !w.Complete {
			t.Errorf("with two copies on two workers, %s is not complete", w.Name)
		}
	}
	if got := s.origin.bytes.Load(); got != sum.UFSTotalBytes {
		t.Errorf("the second copy came from the source: %d of %d", got, sum.UFSTotalBytes)
	}
	r := s.reader("a", nil)
	f := s.open(r, "large")
	defer f.Close()
	if b := f.Backing(); b == nil {
		t.Error("a loaded file has no backing")
	} else {
		b.Close()
	}
	s.until("no local reads are counted", func() bool { return s.master.Summary().Reads.LocalBytes >= int64(files["large"]) })
	s.master.Retire()
	s.until("the cache does not retire", func() bool { return s.master.Summary().Retired })
	if got, err := readAll(t.Context(), f, files["large"], mib); err != nil || !bytes.Equal(got, content("large", files["large"])) {
		t.Errorf("an open file of a retired cache: %v", err)
	}
	f.Close()
	s.check(r, "small", content("small", files["small"]))
	s.until("files are left on disk", func() bool {
		for _, dir := range dirs {
			left := 0
			filepath.WalkDir(dir, func(_ string, d os.DirEntry, _ error) error {
				if info, err := d.Info(); err == nil && d.Type().IsRegular() && info.Size() > 0 {
					left++
				}
				return nil
			})
			if left > 0 {
				return false
			}
		}
		return true
	})
}

func TestAMasterThatRestartsIsNotNoticed(t *testing.T) {
	s := newScene(t, nil)
	s.putFiles()
	s.worker("a", 1<<30)
	r := s.reader("a", nil)
	s.check(r, "large", content("large", files["large"]))
	s.stop()
	s.check(r, "large", content("large", files["large"])) // it is known
	asked := make(chan error, 1)
	go func() {
		_, err := find(t.Context(), r, "deep/er/näme with space")
		asked <- err
	}()
	select {
	case err := <-asked:
		t.Fatalf("answered without a master: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	s.startMaster(l)
	if err := <-asked; err != nil {
		t.Error(err)
	}
	s.until("the worker does not attach again", func() bool { return s.attached("worker-a") })
	s.until("what the worker holds is not known again", func() bool { return s.master.Summary().CachedBytes >= int64(files["large"]) })
}

func TestAMasterThatIsGoneIsAnErrorInTime(t *testing.T) {
	s := newScene(t, nil)
	s.putFiles()
	r := s.reader("", func(c *reader.Config) { c.MasterWait = 300 * time.Millisecond })
	s.stop()
	start := time.Now()
	if _, err := find(t.Context(), r, "small"); !errors.Is(err, source.ErrUnavailable) {
		t.Error(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestASlowSourceIsWaitedFor(t *testing.T) {
	s := newScene(t, nil)
	s.times = wire.ClientOptions{Silence: 1500 * time.Millisecond, SuspectFor: time.Minute}
	s.put("f", content("f", block))
	s.worker("a", 1<<30)
	s.worker("b", 1<<30)
	s.origin.delay.Store(int64(2 * time.Second))
	for _, node := range []string{"a", "b", ""} {
		s.check(s.reader(node, nil), "f", content("f", block))
	}
	if got := s.origin.bytes.Load(); got != block {
		t.Errorf("the source gave %d bytes of %d", got, block)
	}
}
