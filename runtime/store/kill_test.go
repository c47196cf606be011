package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/runtime/store"
)

func twoLevels(dir string, policy store.Policy) store.Options {
	return store.Options{BlockBytes: block, UpkeepEvery: time.Millisecond, MoveBytes: 1 << 40, ScrubBytes: 1 << 30, Policy: policy,
		Tiers: []store.Tier{
			{Medium: "MEM", Dirs: []store.Dir{{Path: filepath.Join(dir, "fast"), QuotaBytes: 20 * block}}, High: 0.8, Low: 0.5},
			{Medium: "SSD", Dirs: []store.Dir{{Path: filepath.Join(dir, "slow"), QuotaBytes: 60 * block}}, High: 0.95, Low: 0.7},
		}}
}

func moveUntilKilled(dir string) {
	s, err := store.Open(context.Background(), twoLevels(dir, store.PolicyTinyLFU))
	if err != nil {
		panic(err)
	}
	fmt.Println("writing")
	for i := 0; ; i++ {
		k := i % 90
		if err := fill(s, key(k), int64(k%3)*block+int64(k)+1, i%4 == 0); err != nil && !errors.Is(err, store.ErrNoSpace) {
			panic(err)
		}
		has(s, i%7)
		switch {
		case i%11 == 0:
			s.Drop(key((i * 7) % 90))
		case i%13 == 0:
			s.Pin(key(i % 5))
		case i%17 == 0:
			s.Unpin(key(i % 5))
		}
	}
}

func TestKillNineWhileFilesMoveLeavesRightBytes(t *testing.T) {
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(3, 4))
	for round := range 20 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "STORE_TEST_MOVE_UNTIL_KILLED="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 16)); err != nil {
			t.Errorf("round %d: the writer says nothing: %v", round, err)
		}
		time.Sleep(time.Duration(r.IntN(80_000)) * time.Microsecond) // somewhere in the middle
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
		o := twoLevels(dir, store.PolicyUniform)
		o.MoveBytes, o.ScrubBytes = 0, 0
		s, err := store.Open(t.Context(), o)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		noWrongByte(t, s)
		for _, tier := range s.Tiers() {
			if on := onDisk(t, tier.Path); tier.UsedBytes != on || on > tier.CapacityBytes {
				t.Errorf("round %d: %s: used %d, on disk %d, quota %d", round, tier.Path, tier.UsedBytes, on, tier.CapacityBytes)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
