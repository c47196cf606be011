package fuse_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/fuse/fusetest"
	"github.com/millrace/millrace/runtime/source"
)

func newTree(t testing.TB, c fusetest.Content) *fusetest.Tree {
	t.Helper()
	tree, err := fusetest.NewTree(t.TempDir(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tree.Close)
	return tree
}

// mounted is a tree on a real mount, with the server's counters.
type mounted struct {
	*fusetest.Tree
	dir      string
	server   *fuse.Server
	counters *prometheus.Registry
}

func mount(t testing.TB, c fusetest.Content) *mounted {
	t.Helper()
	m := &mounted{Tree: newTree(t, c), counters: prometheus.NewPedanticRegistry()}
	m.dir, m.server = fusetest.MountWith(t, m.Tree, fuse.Options{Metrics: m.counters})
	return m
}

func (m *mounted) path(p string) string { return filepath.Join(m.dir, p) }

// count is the value of a counter or gauge, with this label if it has any.
func (m *mounted) count(t testing.TB, name, label string) (value int) {
	t.Helper()
	families, err := m.counters.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, metric := range f.Metric {
			if f.GetName() == name && (len(metric.Label) == 0 || metric.Label[0].GetValue() == label) {
				value += int(metric.Counter.GetValue()+metric.Gauge.GetValue()) + int(metric.Histogram.GetSampleCount())
			}
		}
	}
	return value
}

// opens counts the opens that were answered in a mode.
func (m *mounted) opens(t testing.TB, mode string) int {
	t.Helper()
	return m.count(t, "millrace_fuse_opens_total", mode)
}

func wantBytes(t testing.TB, file string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(file)
	if err != nil {
		t.Errorf("read %s: %v", filepath.Base(file), err)
		return
	}
	if fusetest.Sum(got) != fusetest.Sum(want) {
		t.Errorf("%s: read %d bytes which differ from the %d expected", filepath.Base(file), len(got), len(want))
	}
}

func wantErr(t testing.TB, what string, err error, want syscall.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out: %s", what)
		}
	}
}

func open(t testing.TB, file string) *os.File {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestFileSystemOfCompleteFiles(t *testing.T) {
	fusetest.TestFileSystem(t, func(t *testing.T, c fusetest.Content) fuse.FileSystem { return newTree(t, c) })
}

func TestFileSystemOfPartialFiles(t *testing.T) {
	fusetest.TestFileSystem(t, func(t *testing.T, c fusetest.Content) fuse.FileSystem {
		tree := newTree(t, c)
		tree.SetComplete(false)
		return tree
	})
}

func file(data []byte) fusetest.Content { return fusetest.Content{"f": {Data: data}} }

func TestCompleteFilesAreReadByTheKernelAlone(t *testing.T) {
	data := fusetest.Bytes(1, 3<<20)
	m := mount(t, file(data))
	m.FailReads(syscall.EIO) // passthrough never asks
	wantBytes(t, m.path("f"), data)

	if got, err := fusetest.MappedSum(m.path("f")); err != nil || got != fusetest.Sum(data) {
		t.Errorf("the mapping differs from the file, or %v", err)
	}
	if got := m.opens(t, "passthrough"); got != 2 {
		t.Errorf("%d opens in passthrough mode, want 2", got)
	}
	if got := m.Reads.Load(); got != 0 {
		t.Errorf("%d READs, want none", got)
	}
}

func TestRepeatedOpensOfAFileShareOneRegistration(t *testing.T) {
	m := mount(t, file([]byte("x")))
	for range 100 {
		wantBytes(t, m.path("f"), []byte("x"))
	}
	if got := m.Opens.Load(); got != 1 {
		t.Errorf("the FileSystem was asked %d times for the file, want 1", got)
	}
	if n := m.count(t, "millrace_fuse_backing_files", ""); n != 1 {
		t.Errorf("%d files registered, want 1", n)
	}
	if err := m.server.Unmount(); err != nil {
		t.Fatal(err)
	}
	if m.Opens.Load() != m.Closes.Load() {
		t.Errorf("%d files opened, %d closed", m.Opens.Load(), m.Closes.Load())
	}
	if n := m.count(t, "millrace_fuse_backing_files", ""); n != 0 {
		t.Errorf("%d files registered after the unmount", n)
	}
}

func TestAFileThatBecomesCompleteIsReadByTheKernelFromItsNextFirstOpen(t *testing.T) {
	data := fusetest.Bytes(2, 5<<20)
	m := mount(t, file(data))
	m.SetComplete(false)
	early := open(t, m.path("f"))
	head := make([]byte, 1000)
	if _, err := io.ReadFull(early, head); err != nil {
		t.Fatal(err)
	}
	m.SetComplete(true)
	// The node is open in cached mode: so it stays, for mixing is EIO.
	wantBytes(t, m.path("f"), data)
	if got := m.opens(t, "passthrough"); got != 0 {
		t.Errorf("%d opens in passthrough mode beside a cached one", got)
	}
	early.Close()
	eventually(t, "the last handle is released", func() bool { return m.Closes.Load() == m.Opens.Load() })
	m.FailReads(syscall.EIO)
	wantBytes(t, m.path("f"), data)
	if got := m.opens(t, "passthrough"); got != 1 {
		t.Errorf("%d opens in passthrough mode, want 1", got)
	}
}

func TestModesAreNeverMixedUnderChurn(t *testing.T) {
	data := fusetest.Bytes(3, 200_000)
	m := mount(t, file(data))
	stop := make(chan struct{})
	flipped := make(chan struct{})
	go func() {
		defer close(flipped)
		for complete := false; ; complete = !complete {
			select {
			case <-stop:
				return
			default:
				m.SetComplete(complete)
				time.Sleep(100 * time.Microsecond)
			}
		}
	}()
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() {
			for range 150 {
				got, err := os.ReadFile(m.path("f"))
				if err == nil && fusetest.Sum(got) != fusetest.Sum(data) {
					err = errors.New("bytes differ")
				}
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	close(stop)
	<-flipped
}

func TestErrorsReachTheApplicationAsErrno(t *testing.T) {
	for what, tc := range map[string]struct {
		err  error
		want syscall.Errno
	}{
		"changed at the source":            {fmt.Errorf("read f: %w", source.ErrChanged), syscall.ESTALE},
		"denied by the source":             {fmt.Errorf("read f: %w", source.ErrDenied), syscall.EACCES},
		"gone at the source":               {fmt.Errorf("read f: %w", source.ErrNotExist), syscall.ENOENT},
		"unknown to the file system":       {fs.ErrNotExist, syscall.ENOENT},
		"not permitted":                    {fs.ErrPermission, syscall.EACCES},
		"the source does not answer":       {source.ErrUnavailable, syscall.EIO},
		"an errno of its own":              {fmt.Errorf("read f: %w", syscall.ENOSPC), syscall.ENOSPC},
		"an end before the file's":         {io.EOF, syscall.EIO},
		"anything else":                    {errors.New("no idea"), syscall.EIO},
		"cancelled, but not by the reader": {context.Canceled, syscall.EIO},
	} {
		t.Run(what, func(t *testing.T) {
			m := mount(t, file([]byte("data")))
			m.SetComplete(false)
			m.FailReads(tc.err)
			_, err := os.ReadFile(m.path("f"))
			wantErr(t, "read", err, tc.want)
		})
	}
}

func TestANewVersionIsSeenByTheNextOpenAndTheOldHandleKeepsItsOwn(t *testing.T) {
	v1, v2, v3 := fusetest.Bytes(1, 100_000), fusetest.Bytes(2, 300_000), fusetest.Bytes(3, 50_000)
	for mode, complete := range map[string]bool{"passthrough": true, "cached": false} {
		t.Run(mode, func(t *testing.T) {
			m := mount(t, file(v1))
			m.SetComplete(complete)
			old := open(t, m.path("f"))
			if _, err := old.ReadAt(make([]byte, 10), 0); err != nil {
				t.Fatal(err)
			}
			for _, next := range [][]byte{v2, v3} {
				if err := m.Put("f", fusetest.Item{Data: next}); err != nil {
					t.Fatal(err)
				}
				m.SetComplete(complete)
				m.InvalidateNode("f")
				eventually(t, "the new size is seen", func() bool {
					st, err := os.Stat(m.path("f"))
					return err == nil && st.Size() == int64(len(next))
				})
				wantBytes(t, m.path("f"), next)
			}
			got := make([]byte, len(v1))
			if _, err := old.ReadAt(got, 0); err != nil && err != io.EOF {
				t.Fatal(err)
			}
			if fusetest.Sum(got) != fusetest.Sum(v1) {
				t.Error("the old handle no longer reads its version")
			}
			// The kernel does not say whether a stat is of the handle or of
			// the path, so fstat may fail, but never speaks of another version.
			if st, err := old.Stat(); err == nil && st.Size() != int64(len(v1)) || err != nil && !errors.Is(err, syscall.ESTALE) {
				t.Errorf("fstat of the old handle: %v, %v", st, err)
			}
			wantBytes(t, m.path("f"), v3)
		})
	}
}

func TestAVersionThatOnlyOpenNoticesIsNeverMixed(t *testing.T) {
	v1, v2 := fusetest.Bytes(1, 100_000), fusetest.Bytes(2, 100_000)
	m := mount(t, file(v1))
	m.SetComplete(false)
	wantBytes(t, m.path("f"), v1) // pages and attributes of v1 are in the kernel
	if err := m.Put("f", fusetest.Item{Data: v2}); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, m.path("f"), v2) // no invalidation was sent
}

func TestEntriesComeAndGoWithInvalidations(t *testing.T) {
	m := mount(t, fusetest.Content{"d/one": {Data: []byte("1")}})
	names := func() (names []string) {
		entries, err := os.ReadDir(m.path("d"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	if got := names(); len(got) != 1 {
		t.Fatalf("entries %v", got)
	}
	if err := m.Put("d/two", fusetest.Item{Data: []byte("2")}); err != nil {
		t.Fatal(err)
	}
	m.InvalidateEntry("d/two")
	eventually(t, "the new entry is listed", func() bool { return len(names()) == 2 })
	wantBytes(t, m.path("d/two"), []byte("2"))

	m.Remove("d/one")
	m.InvalidateEntry("d/one")
	eventually(t, "the old entry is gone", func() bool { return len(names()) == 1 })
	_, err := os.Stat(m.path("d/one"))
	wantErr(t, "stat", err, syscall.ENOENT)
}

func TestANameThatWasMissingIsFoundWithinSeconds(t *testing.T) {
	m := mount(t, fusetest.Content{"d/one": {Data: []byte("1")}})
	_, err := os.Stat(m.path("d/two"))
	wantErr(t, "stat", err, syscall.ENOENT)
	before := m.Lookups.Load()
	_, _ = os.Stat(m.path("d/two"))
	if m.Lookups.Load() != before {
		t.Error("the kernel did not remember that the name is missing")
	}
	if err := m.Put("d/two", fusetest.Item{Data: []byte("2")}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the name is looked up again", func() bool { _, err := os.Stat(m.path("d/two")); return err == nil })
}

func TestAFileThatVanishedIsENOENT(t *testing.T) {
	m := mount(t, file([]byte("x")))
	m.SetComplete(false)
	wantBytes(t, m.path("f"), []byte("x"))
	m.Remove("f")
	_, err := os.Open(m.path("f"))
	wantErr(t, "open", err, syscall.ENOENT)
}

func TestStatsAndReadsOfAWarmTreeDoNotAskTheServer(t *testing.T) {
	m := mount(t, fusetest.Content{"d/f": {Data: []byte("x")}})
	m.SetComplete(false)
	wantBytes(t, m.path("d/f"), []byte("x"))
	lookups, reads := m.Lookups.Load(), m.Reads.Load()
	for range 50 {
		if _, err := os.Stat(m.path("d/f")); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, m.path("d/f"), []byte("x"))
	}
	if m.Lookups.Load() != lookups || m.Reads.Load() != reads {
		t.Errorf("%d lookups and %d reads more", m.Lookups.Load()-lookups, m.Reads.Load()-reads)
	}
}

func TestABlockedReadDoesNotHoldUpOthersAndCanBeInterrupted(t *testing.T) {
	m := mount(t, fusetest.Content{"slow": {Data: fusetest.Bytes(1, 1<<20)}, "d/f": {Data: []byte("x")}})
	m.SetComplete(false)
	defer m.BlockReads()()
	const readers = 16 // more than wait at the device
	errs := make(chan error, readers)
	for i := range readers {
		f := open(t, m.path("slow")) // while the reads of others block
		go func() {
			_, err := f.ReadAt(make([]byte, 10), int64(i)<<16)
			errs <- err
		}()
		eventually(t, "a read blocks", func() bool { return m.Reads.Load() >= 1 })
	}
	if _, err := os.Stat(m.path("d/f")); err != nil {
		t.Error(err)
	}
	done := make(chan error)
	go func() { done <- m.server.Unmount() }()
	for range readers {
		if err := <-errs; err == nil {
			t.Error("a blocked read succeeded")
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestUnmountWhileBusyLeavesOpenCompleteFilesReadable(t *testing.T) {
	data := fusetest.Bytes(1, 1<<20)
	m := mount(t, file(data))
	f := open(t, m.path("f"))
	if err := m.server.Unmount(); err != nil {
		t.Fatal(err)
	}
	if err := m.server.Serve(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(data))
	if _, err := f.ReadAt(got, 0); err != nil || fusetest.Sum(got) != fusetest.Sum(data) {
		t.Errorf("read after the unmount: %v", err)
	}
	if _, err := os.Stat(m.path("f")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the mount point still shows the tree: %v", err)
	}
}

func TestUnmountByOthersEndsTheServer(t *testing.T) {
	m := mount(t, file([]byte("x")))
	f := open(t, m.path("f"))
	if err := unix.Unmount(m.dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := m.server.Serve(); err != nil {
		t.Fatal(err)
	}
}

func TestUnmountByOthersWhileBusyCanStillBeEnded(t *testing.T) {
	m := mount(t, file([]byte("x")))
	m.SetComplete(false)
	open(t, m.path("f"))
	if err := unix.Unmount(m.dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := m.server.Unmount(); err != nil {
		t.Fatal(err)
	}
}

func TestTheEndOfTheContextUnmounts(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir := filepath.Join(t.TempDir(), "mnt")
	server, err := fuse.Mount(ctx, newTree(t, file([]byte("x"))), fuse.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "f")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the mount point still shows the tree: %v", err)
	}
}

func TestADeadMountAtTheMountPointIsTakenAway(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 { // two crashes, two layers
		fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		opts := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd)
		if err := unix.Mount("millrace", dir, fuse.FSType, unix.MS_RDONLY, opts); err != nil {
			t.Fatal(err)
		}
		unix.Close(fd) // as if the server had been killed
	}
	_, err := os.Stat(dir)
	wantErr(t, "stat of the dead mount", err, syscall.ENOTCONN)
	fusetest.MountWith(t, newTree(t, file([]byte("x"))), fuse.Options{Dir: dir})
	wantBytes(t, filepath.Join(dir, "f"), []byte("x"))
	if err := fuse.Detach(dir); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("below the mount there are %v, %v", entries, err)
	}
}

func TestAFileThatTheKernelWillNotTakeIsReadThroughTheServer(t *testing.T) {
	// Files on a stacked file system fail with ELOOP.
	root := t.TempDir()
	dirs := map[string]string{}
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		dirs[name] = filepath.Join(root, name)
		if err := os.Mkdir(dirs[name], 0o755); err != nil {
			t.Fatal(err)
		}
	}
	opts := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dirs["lower"], dirs["upper"], dirs["work"])
	if err := unix.Mount("overlay", dirs["merged"], "overlay", 0, opts); err != nil {
		t.Fatalf("this test needs overlayfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dirs["merged"], unix.MNT_DETACH) })
	data := fusetest.Bytes(4, 2<<20)
	tree, err := fusetest.NewTree(dirs["merged"], file(data))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tree.Close)
	m := &mounted{Tree: tree, counters: prometheus.NewPedanticRegistry()}
	m.dir, m.server = fusetest.MountWith(t, tree, fuse.Options{Metrics: m.counters})
	wantBytes(t, m.path("f"), data)
	if m.opens(t, "passthrough") != 0 || m.opens(t, "cached") != 1 {
		t.Errorf("opens: %d passthrough, %d cached", m.opens(t, "passthrough"), m.opens(t, "cached"))
	}
}

func TestALinkThatChangedLeadsToItsNewTarget(t *testing.T) {
	m := mount(t, fusetest.Content{"l": {Link: "one"}})
	if to, err := os.Readlink(m.path("l")); err != nil || to != "one" {
		t.Fatalf("%q, %v", to, err)
	}
	if err := m.Put("l", fusetest.Item{Link: "two"}); err != nil {
		t.Fatal(err)
	}
	m.InvalidateEntry("l")
	eventually(t, "the new target is seen", func() bool { to, err := os.Readlink(m.path("l")); return err == nil && to == "two" })
}

func TestAKilledReaderDoesNotWaitForTheSource(t *testing.T) {
	m := mount(t, file(fusetest.Bytes(1, 1<<20)))
	m.SetComplete(false)
	defer m.BlockReads()()
	reader := exec.Command("cat", m.path("f"))
	if err := reader.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the read blocks", func() bool { return m.Reads.Load() > 0 })
	if err := reader.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_ = reader.Wait()
	if d := time.Since(start); d > 8*time.Second {
		t.Errorf("the reader ended after %v", d)
	}
}

func TestASignalDoesNotFailARead(t *testing.T) {
	data := fusetest.Bytes(1, 4096)
	m := mount(t, file(data))
	m.SetComplete(false)
	unblock := m.BlockReads()
	f := open(t, m.path("f"))
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	defer signal.Stop(signals)

	thread, result := make(chan int), make(chan error)
	go func() {
		runtime.LockOSThread() // a signal interrupts one thread
		thread <- unix.Gettid()
		_, err := unix.Pread(int(f.Fd()), make([]byte, len(data)), 0)
		result <- err
	}()
	tid := <-thread
	eventually(t, "the read blocks", func() bool { return m.Reads.Load() > 0 })
	if err := unix.Tgkill(os.Getpid(), tid, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	// Most of the grace is left when the source answers.
	time.AfterFunc(100*time.Millisecond, unblock)
	if err := <-result; err != nil {
		t.Errorf("read: %v", err)
	}
	<-signals
}

func TestTheKernelReadsAMegabyteAhead(t *testing.T) {
	m := mount(t, file([]byte("x")))
	var st unix.Stat_t
	if err := unix.Stat(m.dir, &st); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev))
	if got, err := os.ReadFile(name); err != nil || string(got) != "1024\n" {
		t.Errorf("%s: %q, %v; want 1024", name, got, err)
	}
}
