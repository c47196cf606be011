package store_test

import (
	"testing"
	"time"

	"github.com/millrace/millrace/runtime/store"
)

func TestAQuotaGrowsAndShrinksWhileFilesAreInUse(t *testing.T) {
	const size = 64 << 10
	for _, policy := range []store.Policy{store.PolicyUniform, store.PolicyTinyLFU} {
		t.Run(string(policy), func(t *testing.T) {
			dir := t.TempDir()
			with := func(quota int64) store.Options {
				return store.Options{Policy: policy, UpkeepEvery: 20 * time.Millisecond,
					Tiers: []store.Tier{{Medium: "SSD", Dirs: []store.Dir{{Path: dir, QuotaBytes: quota}}, High: 1, Low: 1}}}
			}
			s, err := store.Open(t.Context(), with(10*size))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			for i := range 10 {
				if err := fill(s, key(i), size, i == 9); err != nil {
					t.Fatal(err)
				}
			}
			held, ok := s.Lookup(key(0))
			if !ok {
				t.Fatal("what was stored is not there")
			}
			s.Pin(key(1))
			s.Change(with(3 * size))
			if used, capacity := s.Usage(); used > 3*size || capacity != 3*size || !has(s, 0) || !has(s, 1) || has(s, 9) {
				t.Errorf("%d of %d bytes are used; held %v, pinned %v, guest %v", used, capacity, has(s, 0), has(s, 1), has(s, 9))
			}
			s.Change(with(size)) // less than what may not go
			if used, _ := s.Usage(); used != 2*size {
				t.Errorf("%d bytes are used, want those that are held and pinned", used)
			}
			if err := fill(s, key(20), size, false); err == nil {
				t.Error("took something in above its quota")
			}
			held.Close()
			for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(5 * time.Millisecond) {
				if used, _ := s.Usage(); used <= size {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("it does not shrink when the file is not in use any more")
				}
			}
			s.Change(with(20 * size))
			for i := 30; i < 45; i++ {
				if err := fill(s, key(i), size, false); err != nil {
					t.Fatalf("after it grew: %v", err)
				}
			}
			if used, _ := s.Usage(); used > 20*size || used < 15*size {
				t.Errorf("%d bytes are used", used)
			}
		})
	}
}

func TestATTLComesWhileTheStoreRuns(t *testing.T) {
	dir := t.TempDir()
	o := store.Options{UpkeepEvery: 20 * time.Millisecond, Tiers: []store.Tier{{Medium: "SSD", Dirs: []store.Dir{{Path: dir, QuotaBytes: 1 << 20}}}}}
	s, err := store.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := fill(s, key(1), 1000, false); err != nil {
		t.Fatal(err)
	}
	o.TTL, o.ScrubBytes, o.MoveBytes = time.Millisecond, 1<<20, 1<<20
	s.Change(o)
	for deadline := time.Now().Add(60 * time.Second); has(s, 1); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not go")
		}
	}
}
