package store_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/store"
)

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("mount a small tmpfs (root is needed): %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func has(s *store.Store, i int) bool {
	f, ok := s.Lookup(key(i))
	if ok {
		f.Close()
	}
	return ok
}

func TestFilesThatNobodyLeasesHoldNoDescriptor(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 1<<30, nil)
	before := descriptors(t)
	for i := range 300 {
		if err := fill(s, key(i), 100, i%2 == 0); err != nil {
			t.Fatal(err)
		}
	}
	if now := descriptors(t); now > before+3 {
		t.Errorf("%d descriptors for 300 files", now-before)
	}
	s.Close()
	open(t, dir, 1<<30, nil)
	if now := descriptors(t); now > before+3 {
		t.Errorf("%d descriptors for 300 recovered files", now-before)
	}
}

func TestGuestsStayBelowHighAndDoNotDisplaceEachOther(t *testing.T) {
	s := open(t, t.TempDir(), 20*block, nil) // high is 19 blocks
	admitted := 0
	for i := range 30 {
		err := fill(s, key(i), block, true)
		if err == nil {
			admitted++
		} else if !errors.Is(err, store.ErrNoSpace) {
			t.Fatal(err)
		}
	}
	if admitted != 19 || !has(s, 0) || !has(s, 18) || has(s, 19) {
		t.Errorf("%d guests were admitted", admitted)
	}
	if err := fill(s, key(100), block, false); err != nil {
		t.Errorf("an owner's block found no room among guests: %v", err)
	}
	if used, _ := s.Usage(); used > 14*block+100 {
		t.Errorf("used %d after eviction, low is %d", used, 14*block)
	}
}

func TestAFileThatNeverGotABlockLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 1<<30, nil)
	f, err := s.Acquire(key(1), 100, true)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := os.Stat(filepath.Join(dir, "millrace-v1", "00", string(key(1)))); !os.IsNotExist(err) {
		t.Errorf("its file: %v", err)
	}
	if has(s, 1) {
		t.Error("it is still there")
	}
}

func TestASmallerQuotaAfterARestartIsObeyed(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 20*block, nil)
	for i := range 16 {
		if err := fill(s, key(i), block, i%2 == 0); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	s = open(t, dir, 5*block, nil)
	used, quota := s.Usage()
	if used > quota || used != onDisk(t, dir) || used < 4*block {
		t.Errorf("used %d of %d, on disk %d", used, quota, onDisk(t, dir))
	}
	s.Each(func(c store.Change) { check(t, s, c.Key, block) })
}

func TestTheNextTierTakesWhatTheFirstCannotHold(t *testing.T) {
	s, err := store.Open(t.Context(), store.Options{BlockBytes: block, Tiers: []store.Tier{
		{Medium: "MEM", Dirs: []store.Dir{{Path: t.TempDir(), QuotaBytes: 4 * block}}},
		{Medium: "SSD", Dirs: []store.Dir{{Path: t.TempDir(), QuotaBytes: 8 * block}, {Path: t.TempDir(), QuotaBytes: 20 * block}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i, size := range []int64{3 * block, 10 * block, 9 * block, block} {
		if err := fill(s, key(i), size, false); err != nil {
			t.Fatalf("file %d: %v", i, err)
		}
	}
	var got []int64
	for _, tier := range s.Tiers() {
		got = append(got, tier.UsedBytes/block)
	}
	if fmt.Sprint(got) != "[4 0 19]" {
		t.Errorf("blocks in the directories: %v", got)
	}
	// Two large files at once do not both count on the same room.
	a, err := s.Acquire(key(10), 8*block, false)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := s.Acquire(key(11), 8*block, false); err != nil {
		t.Errorf("a file larger than what is left is cached in part: %v", err)
	}
}

func TestAFullDiskEvictsGuestsAndSaysSo(t *testing.T) {
	dir := tmpfs(t, "1m")
	s := open(t, dir, 12*block, nil)
	for i := range 10 {
		if err := fill(s, key(i), block, true); err != nil {
			t.Fatal(err)
		}
	}
	// Somebody else takes the rest of the disk.
	foreign, err := os.Create(filepath.Join(dir, "foreign"))
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	if err := unix.Fallocate(int(foreign.Fd()), 0, 0, 4*block); err != nil {
		t.Fatal(err)
	}
	if err := fill(s, key(100), 4*block, false); err != nil {
		t.Fatalf("an owner's blocks found no room on a disk full of guests: %v", err)
	}
	check(t, s, key(100), 4*block)
	err = fill(s, key(101), 100*block, false)
	if !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("error %v", err)
	}
	if used, _ := s.Usage(); used != onDisk(t, dir)-4*block {
		t.Errorf("used %d, on disk %d", used, onDisk(t, dir)-4*block)
	}
}

func TestADiskThatIsFullBeforeTheQuotaIsNamed(t *testing.T) {
	dir := tmpfs(t, "1m")
	s := open(t, dir, 14*block, nil)
	foreign := filepath.Join(dir, "foreign")
	if err := os.WriteFile(foreign, make([]byte, 10*block), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := fill(s, key(1), 8*block, false); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("error %v", err)
	}
	if s.Message() == "" {
		t.Error("nothing is said of the full disk")
	}
	if err := os.Remove(foreign); err != nil {
		t.Fatal(err)
	}
	if err := fill(s, key(1), 8*block, false); err != nil || s.Message() != "" {
		t.Errorf("when there is room again: %v, message %q", err, s.Message())
	}
	check(t, s, key(1), 8*block)
	if used, _ := s.Usage(); used != 8*block {
		t.Errorf("used %d", used)
	}
}

func TestWritersOfOneBlockChargeItOnce(t *testing.T) {
	s := open(t, t.TempDir(), 1<<30, nil)
	f, err := s.Acquire(key(1), block, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := f.WriteBlock(0, content(key(1), block)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if used, _ := s.Usage(); used != block {
		t.Errorf("used %d", used)
	}
}

func TestRoomIsReservedBeforeAPeerSends(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 3*block, nil)
	f, err := s.Acquire(key(1), 4*block, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := content(key(1), 4*block)
	rooms := make([]*store.Room, 3)
	for b := range rooms {
		if rooms[b], err = f.Reserve(b); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.Reserve(3); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("room beyond the quota: %v", err)
	}
	if err := f.WriteBlock(3, data[3*block:]); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("what is reserved was given to another: %v", err)
	}
	rooms[2].Release()
	rooms[2].Release()
	if err := f.WriteBlock(3, data[3*block:]); err != nil {
		t.Errorf("what is released cannot be used: %v", err)
	}
	if err := rooms[0].Write(data[:block]); err != nil {
		t.Error(err)
	}
	rooms[0].Release()
	if err := rooms[1].Write(data[:7]); err == nil { // it is cut short
		t.Error("half a block was taken")
	}
	if err := f.WriteBlock(1, data[block:2*block]); err != nil {
		t.Error(err)
	}
	s.Drop(key(2))
	if used, _ := s.Usage(); used != 3*block || used != onDisk(t, dir) {
		t.Errorf("used %d, on disk %d", used, onDisk(t, dir))
	}
	if _, err := f.Reserve(4); err == nil {
		t.Error("room for a block that there is not")
	}
}

// TestAnotherFillsARealDisk has the store and a stranger fill a small ext4 at
// once, so that any write of either may find it full.
func TestAnotherFillsARealDisk(t *testing.T) {
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(24<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{{"mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s (root, e2fsprogs and loop devices are needed): %v: %s", argv[0], err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount the small disk: %v", err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	cache := filepath.Join(dir, "cache")
	s := open(t, cache, 18<<20, nil)
	_, quota := s.Usage()
	stop := make(chan struct{})
	var stranger, writers sync.WaitGroup
	foreign := filepath.Join(dir, "foreign")
	stranger.Go(func() {
		p := make([]byte, 1<<20)
		for {
			f, err := os.Create(foreign)
			for err == nil {
				_, err = f.Write(p)
			}
			if !errors.Is(err, unix.ENOSPC) {
				t.Error(err)
			}
			f.Close()
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	full := make([]int, 3)
	for w := range full {
		writers.Go(func() {
			for i := range 60 {
				k := key(w*1000 + i%20)
				switch err := fill(s, k, int64(1+i%4)*block, i%3 == 0); {
				case errors.Is(err, store.ErrNoSpace):
					full[w]++
				case err != nil && !strings.Contains(err.Error(), "it has"):
					t.Error(err)
				}
				if i%5 == 0 {
					s.Drop(k)
				}
				if used, _ := s.Usage(); used > quota {
					t.Errorf("used %d of %d", used, quota)
				}
			}
		})
	}
	writers.Wait()
	for deadline := time.Now().Add(time.Minute); full[0]+full[1]+full[2] == 0 && time.Now().Before(deadline); {
		if err := fill(s, key(9000), 64*block, false); errors.Is(err, store.ErrNoSpace) {
			full[0]++
		}
		s.Drop(key(9000))
	}
	close(stop)
	stranger.Wait()
	if full[0]+full[1]+full[2] == 0 {
		t.Error("the disk was never full")
	}
	noWrongByte(t, s)
	// Of a file in more than four pieces ext4 lists the pieces in a block of its own.
	account := func(when string) {
		t.Helper()
		files := int64(0)
		s.Each(func(store.Change) { files++ })
		if used, _ := s.Usage(); used > onDisk(t, cache) || used < onDisk(t, cache)-files*4096 {
			t.Errorf("%s: used %d, on disk %d, in %d files", when, used, onDisk(t, cache), files)
		}
	}
	account("at the end")
	s.Close()
	if err := os.Remove(foreign); err != nil {
		t.Fatal(err)
	}
	s = open(t, cache, 18<<20, nil)
	noWrongByte(t, s)
	if err := fill(s, key(1), 20*block, false); err != nil && !strings.Contains(err.Error(), "it has") {
		t.Errorf("when there is room again: %v", err)
	}
	account("opened again")
	s.Close()
}

func TestALargeFileIsVerifiedInTheBackgroundAfterARestart(t *testing.T) {
	dir := t.TempDir()
	const size = 80 << 20
	s := open(t, dir, 1<<30, nil)
	if err := fill(s, key(1), size, false); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, dir, 1<<30, nil)
	f, ok := s.Lookup(key(1))
	if !ok {
		t.Fatal("the file is gone")
	}
	defer f.Close()
	if f.Complete() {
		t.Error("opening the file waited until all of it was verified")
	}
	for deadline := time.Now().Add(20 * time.Second); !f.Complete(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is not verified in time")
		}
	}
	check(t, s, key(1), size)
}

func TestALeaseThatOutlivesTheStoreTouchesNothing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 1<<30, nil)
	if err := fill(s, key(1), block, false); err != nil {
		t.Fatal(err)
	}
	whole, _ := s.Lookup(key(1))
	empty, err := s.Acquire(key(2), block, false)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	again := open(t, dir, 1<<30, nil)
	if err := empty.WriteBlock(0, content(key(2), block)); err == nil {
		t.Error("a block was written into a closed store")
	}
	whole.Close()
	empty.Close()
	check(t, again, key(1), block)
}

func TestTheDiskNeverHoldsMoreThanTheQuota(t *testing.T) {
	dir := tmpfs(t, "16m")
	const quota = 40 * block
	s := open(t, dir, quota, nil)
	stop := make(chan struct{})
	var writers, watcher sync.WaitGroup
	var most int64
	watcher.Go(func() {
		for {
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil {
				t.Error(err)
				return
			}
			most = max(most, int64(st.Blocks-st.Bfree)*st.Bsize)
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for w := range 6 {
		writers.Go(func() {
			for i := range 150 {
				k := key(w*1000 + i%30)
				err := fill(s, k, int64(i%30%5)*block+1, i%2 == 0)
				if err != nil && !errors.Is(err, store.ErrNoSpace) {
					t.Error(err)
				}
				if i%3 == 0 {
					s.Drop(k)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	watcher.Wait()
	journal, err := os.Stat(filepath.Join(dir, "millrace-v1", "journal"))
	if err != nil {
		t.Fatal(err)
	}
	if most > quota+journal.Size()+2*4096 {
		t.Errorf("%d bytes were on the disk, the quota is %d and the journal %d", most, quota, journal.Size())
	}
	if used, _ := s.Usage(); used != onDisk(t, dir) {
		t.Errorf("used %d, on disk %d", used, onDisk(t, dir))
	}
}

func TestAStoreWaitsForItsPredecessor(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 1<<30, nil)
	if err := fill(s, key(1), block, false); err != nil {
		t.Fatal(err)
	}
	opening := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		<-opening
		s.Close()
	})
	close(opening)
	again, err := store.Open(t.Context(), store.Options{LockWait: time.Minute, BlockBytes: block,
		Tiers: []store.Tier{{Dirs: []store.Dir{{Path: dir, QuotaBytes: 1 << 30}}}}})
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	check(t, again, key(1), block)
}

func TestATierThatCannotBeUsedIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "not-a-directory")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := store.Open(t.Context(), store.Options{Tiers: []store.Tier{
		{Medium: "MEM", Dirs: []store.Dir{{Path: t.TempDir(), QuotaBytes: 1 << 20}}},
		{Medium: "SSD", Dirs: []store.Dir{{Path: path, QuotaBytes: 1 << 20}}},
	}})
	if err == nil || !strings.Contains(err.Error(), "level 1 (SSD)") || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
}

// BenchmarkRecover opens a store of many small files.
func BenchmarkRecover(b *testing.B) {
	for _, files := range []int{20_000, 1_000_000} {
		b.Run(fmt.Sprintf("%d files", files), func(b *testing.B) { recovers(b, files) })
	}
}

func recovers(b *testing.B, files int) {
	dir := b.TempDir()
	o := store.Options{Tiers: []store.Tier{{Dirs: []store.Dir{{Path: dir, QuotaBytes: 1 << 40}}}}}
	s, err := store.Open(b.Context(), o)
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	for i := range files {
		if err := fill(s, store.Key(fmt.Sprintf("%08x%024x", uint32(i)*2654435761, i)), 100, false); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(files)/time.Since(start).Seconds(), "creates/s")
	s.Close()
	s = nil
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for b.Loop() {
		if s, err = store.Open(b.Context(), o); err != nil {
			b.Fatal(err)
		}
		b.StopTimer() // neither this nor closing is what is measured
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(s)
		s.Close()
		b.StartTimer()
	}
	b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/float64(files), "B/file")
	b.ReportMetric(float64(files)*float64(b.N)/b.Elapsed().Seconds(), "files/s")
	// As after the machine was started anew.
	markers, err := filepath.Glob(filepath.Join(dir, "millrace-v1", "boot.*"))
	if err != nil || len(markers) != 1 || os.Remove(markers[0]) != nil {
		b.Fatalf("markers %v: %v", markers, err)
	}
	start = time.Now()
	if s, err = store.Open(b.Context(), o); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(time.Since(start).Seconds(), "s/walk")
	s.Close()
}

func BenchmarkWriteBlock(b *testing.B) {
	s, err := store.Open(b.Context(), store.Options{Tiers: []store.Tier{{Dirs: []store.Dir{{Path: b.TempDir(), QuotaBytes: 1 << 40}}}}})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	p := content(key(1), store.DefaultBlockBytes)
	f, err := s.Acquire(key(1), 256*store.DefaultBlockBytes, false)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(p)))
	i := 0
	for b.Loop() {
		if i == f.Blocks() {
			s.Drop(f.Key())
			f.Close()
			if f, err = s.Acquire(key(1), 256*store.DefaultBlockBytes, false); err != nil {
				b.Fatal(err)
			}
			i = 0
		}
		if err := f.WriteBlock(i, p); err != nil {
			b.Fatal(err)
		}
		i++
	}
	f.Close()
}
