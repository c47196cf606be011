package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/runtime/store"
)

func openWith(t *testing.T, o store.Options) *store.Store {
	t.Helper()
	o.BlockBytes = block
	if o.UpkeepEvery == 0 {
		o.UpkeepEvery = 10 * time.Millisecond
	}
	s, err := store.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func one(dir string, quota int64) []store.Tier {
	return []store.Tier{{Medium: "SSD", Dirs: []store.Dir{{Path: dir, QuotaBytes: quota}}, High: 0.95, Low: 0.7}}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func TestFilesGoAfterTheTTLUnlessLeasedOrPinned(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	dropped := map[store.Key]bool{}
	s := openWith(t, store.Options{Tiers: one(dir, 1<<30), TTL: 50 * time.Millisecond, OnChange: func(c store.Change) {
		mu.Lock()
		defer mu.Unlock()
		dropped[c.Key] = dropped[c.Key] || c.Dropped
	}})
	held, err := s.Acquire(key(1), block, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := held.WriteBlock(0, content(key(1), block)); err != nil {
		t.Fatal(err)
	}
	pinned, err := s.Acquire(key(2), block, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := pinned.WriteBlock(0, content(key(2), block)); err != nil || !s.Pin(key(2)) {
		t.Fatal(err)
	}
	pinned.Close()
	if err := fill(s, key(3), block, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a file nobody holds expires", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return dropped[key(3)]
	})
	if !has(s, 1) || !has(s, 2) {
		t.Error("a leased or pinned file expired")
	}
	held.Close()
	eventually(t, "a file expires after its lease", func() bool { return s.Stats().Evicted[store.ReasonTTL] == 2 })
	if used, _ := s.Usage(); used != onDisk(t, dir) || used != block {
		t.Errorf("used %d, on disk %d", used, onDisk(t, dir))
	}
}

func TestPinsOutliveARestartAndKeepGuests(t *testing.T) {
	dir := t.TempDir()
	s := openWith(t, store.Options{Tiers: one(dir, 10*block)})
	if s.Pin(key(1)) {
		t.Error("a file that is not there was pinned")
	}
	for i := range 9 {
		if err := fill(s, key(i), block, true); err != nil {
			t.Fatal(err)
		}
	}
	s.Pin(key(0))
	s.Close()
	s = openWith(t, store.Options{Tiers: one(dir, 10*block)})
	if n := s.Stats().Pinned; n != 1 {
		t.Errorf("%d pins after a restart", n)
	}
	for i := 100; i < 109; i++ {
		if err := fill(s, key(i), block, false); err != nil {
			t.Fatal(err)
		}
	}
	check(t, s, key(0), block)
	if err := fill(s, key(200), block, false); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("error %v", err)
	}
	if !s.Unpin(key(0)) || s.Stats().Pinned != 0 {
		t.Error("it is still pinned")
	}
	if err := fill(s, key(200), block, false); err != nil || has(s, 0) {
		t.Errorf("a guest that is no longer pinned stays: %v", err)
	}
}

// epochs reads files in a new order each epoch, as a training job does, and
// gives the hits of the last ones.
func epochs(t *testing.T, s *store.Store, files, epochs int, next func(i int) int) float64 {
	t.Helper()
	hits, reads := 0, 0
	for epoch := range epochs {
		for i := range files {
			k := key(next(i))
			f, ok := s.Lookup(k)
			hit := ok && f.Complete()
			if ok {
				f.Close()
			}
			if !hit {
				if err := fill(s, k, 4096, false); err != nil && !errors.Is(err, store.ErrNoSpace) {
					t.Fatal(err)
				}
			}
			if used, quota := s.Usage(); used > quota {
				t.Fatalf("used %d of %d", used, quota)
			}
			if epoch > 0 {
				reads++
				if hit {
					hits++
				}
			}
		}
	}
	return float64(hits) / float64(reads)
}

func TestHitsOfAShuffledEpochAreNearTheOptimum(t *testing.T) {
	const files = 600
	// Half of the data fits: who does not know the next order cannot hit more than
	// half of what is read. tinylfu pays for what it makes room for; how much depends
	// on where it begins, which is chance.
	for policy, want := range map[store.Policy]float64{store.PolicyUniform: 0.9 * 0.5, store.PolicyTinyLFU: 0.1} {
		t.Run(string(policy), func(t *testing.T) {
			s := openWith(t, store.Options{Tiers: one(t.TempDir(), files/2*4096), Policy: policy})
			got := epochs(t, s, files, 5, shuffles(files))
			t.Logf("%.3f of the reads hit", got)
			if got < want {
				t.Errorf("%.3f of the reads hit", got)
			}
		})
	}
}

func TestTinyLFUKeepsWhatIsReadOften(t *testing.T) {
	const files = 600
	for _, tc := range []struct {
		policy    store.Policy
		at, below float64
	}{{store.PolicyTinyLFU, 0.6, 1}, {store.PolicyUniform, 0, 0.45}} {
		t.Run(string(tc.policy), func(t *testing.T) {
			dir := t.TempDir()
			s := openWith(t, store.Options{Tiers: one(dir, 100*4096), Policy: tc.policy})
			// What was loaded first is never read again.
			for i := range 100 {
				if err := fill(s, key(10_000+i), 4096, false); err != nil {
					t.Fatal(err)
				}
			}
			order := shuffles(files)
			got := epochs(t, s, files, 6, func(i int) int {
				if i%5 != 0 {
					return 1000 + i%40 // four reads of five are of forty files
				}
				return order(i)
			})
			t.Logf("%.3f of the reads hit", got)
			if got < tc.at || got > tc.below {
				t.Errorf("%.3f of the reads hit", got)
			}
			if used, _ := s.Usage(); used != onDisk(t, dir) {
				t.Errorf("used %d, on disk %d", used, onDisk(t, dir))
			}
		})
	}
}

func TestTheScrubberFindsFlippedBits(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	var dropped []store.Key
	s := openWith(t, store.Options{Tiers: one(dir, 1<<30), ScrubBytes: 1 << 30, OnChange: func(c store.Change) {
		mu.Lock()
		defer mu.Unlock()
		if c.Dropped {
			dropped = append(dropped, c.Key)
		}
	}})
	for i := range 3 {
		if err := fill(s, key(i), 2*block+7, false); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "a round of the scrubber", func() bool { return s.Stats().ScrubbedBytes >= 3*(2*block+7) })
	f, _ := s.Lookup(key(1))
	backing, err := f.Dup() // as the kernel holds it
	if err != nil {
		t.Fatal(err)
	}
	defer backing.Close()
	data, err := f.Data()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := data.WriteAt([]byte{^content(key(1), 2*block)[block+1]}, block+1); err != nil {
		t.Fatal(err)
	}
	f.Close()
	eventually(t, "the flipped bit is found", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(dropped) > 0
	})
	if st := s.Stats(); dropped[0] != key(1) || st.BadBlocks != 1 || st.Evicted[store.ReasonCorrupt] != 1 {
		t.Errorf("dropped %v, %+v", dropped, st)
	}
	if st, err := backing.Stat(); err != nil || st.Size() != 2*block+7 {
		t.Errorf("the file that the kernel holds was cut: %v", err)
	}
	if err := fill(s, key(1), 2*block+7, false); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		check(t, s, key(i), 2*block+7)
	}
	eventually(t, "what is on disk is what is reported", func() bool { used, _ := s.Usage(); return used == onDisk(t, dir) })
}

func TestColdFilesMoveDownAndHotOnesUp(t *testing.T) {
	fast, slow := t.TempDir(), t.TempDir()
	tiers := []store.Tier{
		{Medium: "MEM", Dirs: []store.Dir{{Path: fast, QuotaBytes: 10 * block}}, High: 0.8, Low: 0.5},
		{Medium: "SSD", Dirs: []store.Dir{{Path: slow, QuotaBytes: 100 * block}}},
	}
	s := openWith(t, store.Options{Tiers: tiers, MoveBytes: 1 << 30})
	for i := range 10 {
		if err := fill(s, key(i), block, false); err != nil {
			t.Fatal(err)
		}
	}
	used := func(i int) int64 { return s.Tiers()[i].UsedBytes }
	eventually(t, "the fast tier is below its low mark", func() bool { return used(0) <= 5*block })
	s.Drop(key(9))
	s.Drop(key(8))
	f, ok := s.Lookup(key(0))
	if !ok {
		t.Fatal("a file was dropped instead of moved")
	}
	backing, err := f.Dup()
	if err != nil {
		t.Fatal(err)
	}
	defer backing.Close()
	f.Close()
	for range 3 {
		has(s, 0)
	}
	eventually(t, "a hot file is promoted", func() bool { return s.Stats().Promotions > 0 })
	got := make([]byte, block)
	if _, err := backing.ReadAt(got, 0); err != nil || !bytes.Equal(got, content(key(0), block)) {
		t.Errorf("who held the file reads wrong bytes: %v", err)
	}
	for i := range 8 {
		check(t, s, key(i), block)
	}
	s.Close()
	s = openWith(t, store.Options{Tiers: tiers})
	for i := range 8 {
		check(t, s, key(i), block)
	}
	if used(0) != onDisk(t, fast) || used(1) != onDisk(t, slow) {
		t.Errorf("used %d and %d, on disk %d and %d", used(0), used(1), onDisk(t, fast), onDisk(t, slow))
	}
	if s.Tiers()[0].PromisedBytes != 0 || s.Tiers()[1].PromisedBytes != 0 {
		t.Errorf("room is promised to nobody: %+v", s.Tiers())
	}
}

// TestTheTreeOfVersionOneIsRead opens what a released format wrote.
func TestTheTreeOfVersionOneIsRead(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "v1"))); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), store.Options{BlockBytes: 4096, Tiers: one(dir, 1<<30)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i, want := range map[int]string{1: "[]", 2: "[1]", 3: "[]"} {
		f, ok := s.Lookup(key(i))
		if !ok {
			t.Errorf("file %d is gone", i)
			continue
		}
		if got := fmt.Sprint(f.Missing(0, f.Size())); got != want {
			t.Errorf("file %d misses %s, want %s", i, got, want)
		}
		f.Close()
	}
	if used, _ := s.Usage(); used != onDisk(t, dir) {
		t.Errorf("used %d, on disk %d", used, onDisk(t, dir))
	}
}

// shuffles gives the files of one epoch after the other, each in an order of its own.
func shuffles(files int) func(i int) int {
	r := rand.New(rand.NewPCG(1, 2))
	var order []int
	return func(i int) int {
		if i == 0 {
			order = r.Perm(files)
		}
		return order[i]
	}
}
