package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/store"
)

const block = 64 << 10 // small blocks keep the tests quick

func TestMain(m *testing.M) {
	if dir := os.Getenv("STORE_TEST_WRITE_UNTIL_KILLED"); dir != "" {
		writeUntilKilled(dir)
	}
	if dir := os.Getenv("STORE_TEST_MOVE_UNTIL_KILLED"); dir != "" {
		moveUntilKilled(dir)
	}
	if dir := os.Getenv("STORE_TEST_STEP_UNTIL_KILLED"); dir != "" {
		stepUntilKilled(dir)
	}
	goleak.VerifyTestMain(m)
}

func key(i int) store.Key { return store.Key(fmt.Sprintf("%032x", i)) }

// content is what every file with a key holds, so that a wrong byte shows.
func content(k store.Key, size int64) []byte {
	var seed [32]byte
	copy(seed[:], k)
	out := make([]byte, size)
	_, _ = rand.NewChaCha8(seed).Read(out)
	return out
}

func open(t *testing.T, dir string, quota int64, onChange func(store.Change)) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{
		Tiers:      []store.Tier{{Medium: "SSD", Dirs: []store.Dir{{Path: dir, QuotaBytes: quota}}, High: 0.95, Low: 0.7}},
		BlockBytes: block, OnChange: onChange,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// fill writes every block of a file and returns the first error.
func fill(s *store.Store, k store.Key, size int64, guest bool) error {
	f, err := s.Acquire(k, size, guest)
	if err != nil {
		return err
	}
	defer f.Close()
	data := content(k, size)
	for b := range f.Blocks() {
		if err := f.WriteBlock(b, data[b*block:min(int64(b+1)*block, size)]); err != nil {
			return err
		}
	}
	return nil
}

func check(t *testing.T, s *store.Store, k store.Key, size int64) {
	t.Helper()
	f, ok := s.Lookup(k)
	if !ok {
		t.Fatalf("%s is not there", k)
	}
	defer f.Close()
	if !f.Complete() {
		t.Fatalf("%s is not complete", k)
	}
	fd, err := f.Dup()
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	got := make([]byte, size)
	if _, err := fd.ReadAt(got, 0); err != nil && size > 0 {
		t.Fatal(err)
	}
	if !bytes.Equal(got, content(k, size)) {
		t.Fatalf("%s has wrong bytes", k)
	}
}

func onDisk(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "journal" || d.Name() == "lock" {
			return err
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return err
		}
		n += st.Blocks * 512
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestBlocksInAnyOrderMakeACompleteFile(t *testing.T) {
	var changes []store.Change
	s := open(t, t.TempDir(), 1<<30, func(c store.Change) { changes = append(changes, c) })
	const size = 3*block + 100
	data := content(key(1), size)
	f, err := s.Acquire(key(1), size, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, b := range []int{3, 0, 2} {
		if err := f.WriteBlock(b, data[b*block:min((b+1)*block, size)]); err != nil {
			t.Fatal(err)
		}
	}
	if f.Complete() || fmt.Sprint(f.Missing(0, size)) != "[1]" || f.Bitmap()[0] != 0b1101 {
		t.Errorf("missing %v, bitmap %04b", f.Missing(0, size), f.Bitmap()[0])
	}
	if _, err := f.ReadAt(make([]byte, 10), block); err == nil {
		t.Error("a missing block was read")
	}
	if err := f.WriteBlock(1, data[block:2*block]); err != nil {
		t.Fatal(err)
	}
	check(t, s, key(1), size)
	if last := changes[len(changes)-1]; !last.Complete || last.Size != size {
		t.Errorf("the last change is %+v", last)
	}
	if err := f.WriteBlock(0, []byte("short")); err == nil {
		t.Error("half a block was taken")
	}
}

func TestEmptyFileIsCompleteAtOnce(t *testing.T) {
	s := open(t, t.TempDir(), 1<<20, nil)
	if err := fill(s, key(1), 0, false); err != nil {
		t.Fatal(err)
	}
	check(t, s, key(1), 0)
}

func TestFilesSurviveARestartAndUsageIsWhatIsOnDisk(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 1<<30, nil)
	for i := range 20 {
		if err := fill(s, key(i), int64(i)*50000, i%2 == 0); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	s = open(t, dir, 1<<30, nil)
	for i := range 20 {
		check(t, s, key(i), int64(i)*50000)
	}
	if used, _ := s.Usage(); used != onDisk(t, dir) {
		t.Errorf("used %d, on disk %d", used, onDisk(t, dir))
	}
}

func TestFlippedBitsAreAMissAndNeverServed(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 1<<30, nil)
	const size = 4 * block
	if err := fill(s, key(7), size, false); err != nil {
		t.Fatal(err)
	}
	s.Close()
	path := filepath.Join(dir, "millrace-v1", string(key(7)[:2]), string(key(7)))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{content(key(7), size)[2*block+5] ^ 1}, 2*block+5); err != nil {
		t.Fatal(err)
	}
	f.Close()
	s = open(t, dir, 1<<30, nil)
	got, ok := s.Lookup(key(7))
	if !ok {
		t.Fatal("the file is gone")
	}
	defer got.Close()
	if fmt.Sprint(got.Missing(0, size)) != "[2]" || got.Complete() {
		t.Errorf("missing %v", got.Missing(0, size))
	}
	if err := fill(s, key(7), size, false); err != nil {
		t.Fatal(err)
	}
	check(t, s, key(7), size)
}

func TestADamagedJournalIsAMissNotAFailure(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"another format": func(b []byte) []byte { b[0] ^= 1; return b },
		"empty":          func([]byte) []byte { return nil },
		"torn record":    func(b []byte) []byte { return b[:len(b)-3] },
		"flipped bit":    func(b []byte) []byte { b[len(b)-60] ^= 4; return b },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, 1<<30, nil)
			if err := fill(s, key(1), 2*block, false); err != nil {
				t.Fatal(err)
			}
			s.Close()
			path := filepath.Join(dir, "millrace-v1", "journal")
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(raw), 0o644); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir, 1<<30, nil)
			if err := fill(s, key(1), 2*block, false); err != nil {
				t.Fatal(err)
			}
			check(t, s, key(1), 2*block)
			if used, _ := s.Usage(); used != onDisk(t, dir) {
				t.Errorf("used %d, on disk %d", used, onDisk(t, dir))
			}
			s.Close()
			check(t, open(t, dir, 1<<30, nil), key(1), 2*block)
		})
	}
}

func TestGuestsGoFirstOldestFirstAndLeasedNever(t *testing.T) {
	dropped := map[store.Key]bool{}
	s := open(t, t.TempDir(), 10*block, func(c store.Change) { dropped[c.Key] = dropped[c.Key] || c.Dropped })
	for i := 1; i <= 9; i++ {
		if err := fill(s, key(i), block, i > 3); err != nil {
			t.Fatal(err)
		}
	}
	held, _ := s.Lookup(key(4)) // the oldest guest, but in use
	defer held.Close()
	if err := fill(s, key(20), block, false); err != nil {
		t.Fatal(err)
	}
	if !dropped[key(5)] || dropped[key(4)] || dropped[key(1)] {
		t.Errorf("dropped %v", dropped)
	}
	for i := 21; i < 40; i++ {
		if err := fill(s, key(i), block, false); errors.Is(err, store.ErrNoSpace) {
			if used, quota := s.Usage(); used > quota {
				t.Errorf("used %d of %d", used, quota)
			}
			check(t, s, key(1), block)
			return
		}
	}
	t.Error("owners' files filled more than the quota")
}

func TestAFileLargerThanTheQuotaIsRefusedWhereItDoesNotFit(t *testing.T) {
	s := open(t, t.TempDir(), 3*block, nil)
	if err := fill(s, key(1), 5*block, false); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("error %v", err)
	}
	f, _ := s.Lookup(key(1))
	defer f.Close()
	if !f.HasRange(0, 3*block) {
		t.Error("what fitted is not there")
	}
}

func TestQuotaHoldsUnderConcurrentWriters(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 40*block, nil)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 40 {
				err := fill(s, key(w*1000+i%20), int64(1+i%3)*block, i%4 != 0)
				if err != nil && !errors.Is(err, store.ErrNoSpace) && !strings.Contains(err.Error(), "it has") {
					t.Error(err)
				}
				if used, quota := s.Usage(); used > quota {
					t.Errorf("used %d of %d", used, quota)
				}
			}
		})
	}
	wg.Wait()
	if used, _ := s.Usage(); used != onDisk(t, dir) {
		t.Errorf("used %d, on disk %d", used, onDisk(t, dir))
	}
}

func TestADroppedFileStaysReadableForWhoHoldsIt(t *testing.T) {
	s := open(t, t.TempDir(), 1<<20, nil)
	if err := fill(s, key(1), 2*block, false); err != nil {
		t.Fatal(err)
	}
	f, _ := s.Lookup(key(1))
	fd, err := f.Dup()
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	s.Drop(key(1))
	if used, _ := s.Usage(); used == 0 {
		t.Error("the space of a leased file was given back")
	}
	f.Close()
	if used, _ := s.Usage(); used != 0 {
		t.Errorf("used %d after the last lease", used)
	}
	got := make([]byte, 2*block)
	if _, err := fd.ReadAt(got, 0); err != nil || !bytes.Equal(got, content(key(1), 2*block)) {
		t.Errorf("the held descriptor reads wrong: %v", err)
	}
}

func TestDropAllLeavesNoBytes(t *testing.T) {
	dir := t.TempDir()
	dropped := 0
	s := open(t, dir, 1<<30, func(c store.Change) {
		if c.Dropped {
			dropped++
		}
	})
	for i := range 10 {
		if err := fill(s, key(i), 2*block, i%2 == 0); err != nil {
			t.Fatal(err)
		}
	}
	s.DropAll()
	if used, _ := s.Usage(); used != 0 || dropped != 10 {
		t.Errorf("used %d, %d dropped", used, dropped)
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if info, err := d.Info(); err != nil || info.Size() > 0 {
			t.Errorf("left: %s, %v", path, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := fill(s, key(1), block, false); err != nil {
		t.Fatal(err)
	}
	s.Close()
	check(t, open(t, dir, 1<<30, nil), key(1), block)
}

func TestTwoWorkersNeverShareADirectory(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, 1<<20, nil)
	if _, err := store.Open(t.Context(), store.Options{Tiers: []store.Tier{{Dirs: []store.Dir{{Path: dir, QuotaBytes: 1}}}}}); err == nil {
		t.Error("a second store took the directory")
	}
}

func TestAFullDiskIsNoSpace(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Fatalf("mount a small tmpfs (root is needed): %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	s := open(t, dir, 1<<40, nil)
	if s.Message() == "" {
		t.Error("nothing is said of a quota larger than the disk")
	}
	if err := fill(s, key(1), 64*block, false); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("error %v", err)
	}
}

func writeUntilKilled(dir string) {
	s, err := store.Open(context.Background(), store.Options{Tiers: []store.Tier{{Dirs: []store.Dir{{Path: dir, QuotaBytes: 1 << 30}}}}, BlockBytes: block})
	if err != nil {
		panic(err)
	}
	fmt.Println("writing")
	for i := 0; ; i++ {
		if err := fill(s, key(i), int64(i%7)*block+int64(i), false); err != nil {
			panic(err)
		}
	}
}

func TestKillNineAtAnyPointLeavesRightBytes(t *testing.T) {
	dir := t.TempDir()
	for round := range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "STORE_TEST_WRITE_UNTIL_KILLED="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(20+13*round) * time.Millisecond) // somewhere in the middle
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
		s := open(t, dir, 1<<30, nil)
		if used, _ := s.Usage(); used != onDisk(t, dir) {
			t.Errorf("round %d: used %d, on disk %d", round, used, onDisk(t, dir))
		}
		files := 0
		s.Each(func(c store.Change) {
			f, ok := s.Lookup(c.Key)
			if !ok {
				return
			}
			defer f.Close()
			files++
			want := content(c.Key, c.Size)
			for b := range f.Blocks() {
				if !f.Has(b) {
					continue
				}
				got := make([]byte, min(block, c.Size-int64(b)*block))
				if _, err := f.ReadAt(got, int64(b)*block); err != nil && len(got) > 0 || !bytes.Equal(got, want[b*block:b*block+len(got)]) {
					t.Errorf("round %d: %s block %d is wrong: %v", round, c.Key, b, err)
				}
			}
		})
		if files == 0 {
			t.Errorf("round %d: nothing was recovered", round)
		}
		// What the killed writer left half done is not counted twice when it is done again.
		s.Each(func(c store.Change) {
			if err := fill(s, c.Key, c.Size, false); err != nil {
				t.Error(err)
			}
		})
		if used, _ := s.Usage(); used != onDisk(t, dir) {
			t.Errorf("round %d, written again: used %d, on disk %d", round, used, onDisk(t, dir))
		}
		s.Close()
	}
}

func TestABlockThatIsNotFilledToItsEndIsNotThere(t *testing.T) {
	errSource := errors.New("the source is gone")
	for what, tc := range map[string]struct {
		fill func(w io.Writer) error
		want error
	}{
		"too little": {func(w io.Writer) error { _, err := w.Write(make([]byte, 10)); return err }, io.ErrShortWrite},
		"too much":   {func(w io.Writer) error { _, err := w.Write(make([]byte, block+1)); return err }, nil},
		"an error":   {func(w io.Writer) error { _, _ = w.Write(make([]byte, block)); return errSource }, errSource},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, 16*block, nil)
			f, err := s.Acquire(key(1), 2*block, false)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			err = f.FillBlock(0, tc.fill)
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Fatalf("filled with %v, want %v", err, tc.want)
			}
			if f.Has(0) {
				t.Error("the block counts as there")
			}
			if used, _ := s.Usage(); used != onDisk(t, dir) {
				t.Errorf("%d bytes are counted, %d lie on the disk", used, onDisk(t, dir))
			}
			p := content(key(1), 2*block)[:block]
			err = f.FillBlock(0, func(w io.Writer) error {
				for piece := range slices.Chunk(p, 1000) {
					if _, err := w.Write(piece); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(p))
			if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, p) {
				t.Fatalf("read back: %v", err)
			}
		})
	}
}

func TestTheChecksumOfABlockIsThatOfItsBytes(t *testing.T) {
	dir := t.TempDir()
	want := content(key(1), 2*block+5)
	for _, when := range []string{"written", "recovered"} {
		s := open(t, dir, 16*block, nil)
		f, err := s.Acquire(key(1), 2*block+5, false)
		if err != nil {
			t.Fatal(err)
		}
		if when == "written" {
			if _, ok := f.Checksum(1); ok {
				t.Error("a missing block has a checksum")
			}
			for _, b := range []int{1, 2} {
				if err := f.WriteBlock(b, want[b*block:min(len(want), (b+1)*block)]); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, b := range []int{1, 2} {
			f.Has(b)
			got, ok := f.Checksum(b)
			if sum := crc32.Checksum(want[b*block:min(len(want), (b+1)*block)], crc32.MakeTable(crc32.Castagnoli)); !ok || got != sum {
				t.Errorf("%s: block %d has %x, %t, want %x", when, b, got, ok, sum)
			}
		}
		for _, b := range []int{-1, 0, 3} {
			if _, ok := f.Checksum(b); ok {
				t.Errorf("%s: block %d has a checksum", when, b)
			}
		}
		f.Close()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestABlockThatIsDoubtedIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 16*block, nil)
	f, err := s.Acquire(key(1), 2*block, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := content(key(1), 2*block)
	for b := range 2 {
		if err := f.WriteBlock(b, want[b*block:(b+1)*block]); err != nil {
			t.Fatal(err)
		}
	}
	data, err := f.Data()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := data.WriteAt([]byte{^want[block+7]}, block+7); err != nil {
		t.Fatal(err)
	}
	if !f.Recheck(0) || f.Recheck(1) || f.Recheck(2) || f.Recheck(-1) {
		t.Error("the wrong block is missing")
	}
	if f.Has(1) || f.Complete() {
		t.Error("a block that was found bad is there")
	}
	if err := f.WriteBlock(1, want[block:]); err != nil || !f.Recheck(1) {
		t.Errorf("a block that was found bad is not there when it was written again: %v", err)
	}
	if used, _ := s.Usage(); used != onDisk(t, dir) {
		t.Errorf("%d bytes are counted, %d lie on the disk", used, onDisk(t, dir))
	}
}
