package store_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace/millrace/runtime/store"
)

func TestAfterAStartOfTheMachineEveryFileIsLookedAt(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "millrace-v1")
	s := open(t, dir, 1<<30, nil)
	for i := range 4 {
		if err := fill(s, key(i), block+1, i%2 == 0); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	markers, err := filepath.Glob(filepath.Join(tree, "boot.*"))
	if err != nil || len(markers) != 1 {
		t.Fatalf("markers %v: %v", markers, err)
	}
	if err := os.Rename(markers[0], filepath.Join(tree, "boot.before")); err != nil {
		t.Fatal(err)
	}
	// The disk has forgotten a file, and kept one that the journal does not know.
	if err := os.Rename(filepath.Join(tree, "00", string(key(1))), filepath.Join(tree, "00", string(key(9)))); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s = open(t, dir, 1<<30, nil)
		if has(s, 1) || has(s, 9) || s.Trusted() != 1 {
			t.Errorf("the journal was believed; %d directories go by theirs", s.Trusted())
		}
		for _, i := range []int{0, 2, 3} {
			check(t, s, key(i), block+1)
		}
		if used, _ := s.Usage(); used != onDisk(t, dir) {
			t.Errorf("used %d, on disk %d", used, onDisk(t, dir))
		}
		s.Close()
	}
}

func TestAFileThatSomebodyRemovedIsAMissWhenItIsOpened(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 1<<30, nil)
	for i := range 3 {
		if err := fill(s, key(i), block, false); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	if err := os.Remove(filepath.Join(dir, "millrace-v1", "00", string(key(1)))); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "millrace-v1", "00", string(key(2))), 5); err != nil {
		t.Fatal(err)
	}
	dropped := map[store.Key]bool{}
	s = open(t, dir, 1<<30, func(c store.Change) { dropped[c.Key] = c.Dropped })
	if has(s, 1) || has(s, 2) || !dropped[key(1)] || !dropped[key(2)] {
		t.Errorf("told of %v", dropped)
	}
	check(t, s, key(0), block)
	if used, _ := s.Usage(); used != onDisk(t, dir) {
		t.Errorf("used %d, on disk %d", used, onDisk(t, dir))
	}
	if err := fill(s, key(1), block, false); err != nil {
		t.Error(err)
	}
	check(t, s, key(1), block)
}
