package posix_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/posix"
)

func count(b *testing.B, name string) int {
	n, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		return 100_000
	}
	return n
}

// BenchmarkDirectory lists a directory of $ENTRIES entries against find.
func BenchmarkDirectory(b *testing.B) {
	dir := b.TempDir()
	n := count(b, "ENTRIES")
	for i := range n {
		fd, err := unix.Open(filepath.Join(dir, fmt.Sprintf("file-%07d", i)), unix.O_CREAT|unix.O_WRONLY, 0o644)
		if err != nil {
			b.Fatal(err)
		}
		unix.Close(fd)
	}
	s, err := posix.Open(dir, "pvc://claim")
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for range 3 {
		for _, tool := range [][]string{{"ls", "-f"}, {"find", ".", "-printf", "%p %s %T@\n"}} {
			began := time.Now()
			c := exec.Command(tool[0], tool[1:]...)
			c.Dir = dir
			if err := c.Run(); err != nil {
				b.Fatal(err)
			}
			fmt.Printf("%-24s %9.0f entries/s\n", tool[0], float64(n)/time.Since(began).Seconds())
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		began, got, peak := time.Now(), 0, uint64(0)
		if err := s.List(context.Background(), "", func(source.Object) error {
			if got++; got%100_000 == 0 {
				runtime.ReadMemStats(&after)
				peak = max(peak, after.HeapAlloc)
			}
			return nil
		}); err != nil || got != n {
			b.Fatal(got, err)
		}
		fmt.Printf("%-24s %9.0f entries/s, heap at most %d KiB more\n", "List", float64(n)/time.Since(began).Seconds(), (int64(peak)-int64(before.HeapAlloc))>>10)
	}
}

// BenchmarkBigFile reads a file of 1 GiB in the ranges of the cache against cp.
func BenchmarkBigFile(b *testing.B) {
	dir := os.Getenv("DIR")
	if dir == "" {
		dir = b.TempDir()
	}
	const size = 1 << 30
	file := filepath.Join(dir, "bench-big")
	defer os.Remove(file)
	if out, err := exec.Command("dd", "if=/dev/urandom", "of="+file, "bs=1M", "count=1024", "conv=fsync").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	s, err := posix.Open(dir, "pvc://claim")
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	o, err := s.Stat(context.Background(), "bench-big")
	if err != nil {
		b.Fatal(err)
	}
	cold := func() {
		f, err := os.Open(file)
		if err != nil {
			b.Fatal(err)
		}
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		f.Close()
	}
	take := func(n, piece int64, parallel int) func() {
		return func() {
			var g errgroup.Group
			g.SetLimit(parallel)
			for off := int64(0); off < size; off += n {
				g.Go(func() error {
					r, err := s.Open(context.Background(), o, off, n)
					if err != nil {
						return err
					}
					defer r.Close()
					p := make([]byte, piece)
					for {
						if _, err := r.Read(p); err == io.EOF {
							return nil
						} else if err != nil {
							return err
						}
					}
				})
			}
			if err := g.Wait(); err != nil {
				b.Error(err)
			}
		}
	}
	for range 3 {
		for _, c := range []struct {
			name string
			do   func()
		}{
			{"dd bs=1M", func() {
				if err := exec.Command("dd", "if="+file, "of=/dev/null", "bs=1M").Run(); err != nil {
					b.Error(err)
				}
			}},
			{"4 MiB, pieces of 256 KiB, 1 at once", take(4<<20, 256<<10, 1)},
			{"4 MiB, pieces of 256 KiB, 8 at once", take(4<<20, 256<<10, 8)},
			{"4 MiB, pieces of 1 MiB, 8 at once", take(4<<20, 1<<20, 8)},
			{"4 MiB, pieces of 64 KiB, 8 at once", take(4<<20, 64<<10, 8)},
		} {
			cold()
			began := time.Now()
			c.do()
			first := time.Since(began)
			began = time.Now()
			c.do()
			fmt.Printf("%-38s %6.0f MB/s cold, %6.0f MB/s warm\n", c.name, size/1e6/first.Seconds(), size/1e6/time.Since(began).Seconds())
		}
	}
}

// BenchmarkHoles reads a file of 1 GiB without any data against cat.
func BenchmarkHoles(b *testing.B) {
	dir := b.TempDir()
	const size = 1 << 30
	file := filepath.Join(dir, "holes")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		b.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		b.Fatal(err)
	}
	s, err := posix.Open(dir, "pvc://claim")
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	o, err := s.Stat(context.Background(), "holes")
	if err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 256<<10)
	for range 3 {
		began := time.Now()
		f, err := os.Open(file)
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = f.Read(p)
		}
		plain := time.Since(began)
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		f.Close()
		began = time.Now()
		r, err := s.Open(context.Background(), o, 0, size)
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = r.Read(p)
		}
		r.Close()
		fmt.Printf("read(2) %6.0f MB/s, skipping holes %6.0f MB/s\n", size/1e6/plain.Seconds(), size/1e6/time.Since(began).Seconds())
	}
}
