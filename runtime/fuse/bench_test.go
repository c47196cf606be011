package fuse_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/fuse/fusetest"
)

// BenchmarkAgainstThePlainFile reads one file as it lies on the local file
// system, by passthrough, and through the server, and reports each way's rate
// as a fraction of the plain file's in the same run.
func BenchmarkAgainstThePlainFile(b *testing.B) {
	const size = 256 << 20
	data := fusetest.Bytes(1, size)
	plain := filepath.Join(b.TempDir(), "f")
	if err := os.WriteFile(plain, data, 0o600); err != nil {
		b.Fatal(err)
	}
	complete := mount(b, file(data))
	partial := mount(b, file(data))
	partial.SetComplete(false)
	ways := map[string]string{"passthrough": complete.path("f"), "server_warm": partial.path("f")}

	for what, read := range map[string]func(b *testing.B, name string){"seq1M": readAll, "rand4K": readRandom} {
		read(b, plain) // warm
		for _, way := range ways {
			read(b, way)
		}
		b.Run(what, func(b *testing.B) {
			best := map[string]time.Duration{}
			for b.Loop() {
				for range 5 {
					for way, name := range map[string]string{"plain": plain, "passthrough": ways["passthrough"], "server_warm": ways["server_warm"]} {
						start := time.Now()
						read(b, name)
						if d := time.Since(start); best[way] == 0 || d < best[way] {
							best[way] = d
						}
					}
				}
			}
			for way := range ways {
				b.ReportMetric(best["plain"].Seconds()/best[way].Seconds(), way+"/plain")
			}
		})
	}
}

// BenchmarkSmallFiles opens, reads and closes files of 64 KiB, one after the
// other: as they lie on the local file system, in either profile, with the
// kernel's caches filled and empty.
func BenchmarkSmallFiles(b *testing.B) {
	const files = 4000
	content := fusetest.Content{}
	plain := b.TempDir()
	for i := range files {
		data := fusetest.Bytes(uint64(i), 64<<10)
		content[fmt.Sprintf("f%04d", i)] = fusetest.Item{Data: data}
		if err := os.WriteFile(fmt.Sprintf("%s/f%04d", plain, i), data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	rate := func(dir string, threads int) float64 {
		start := time.Now()
		var all sync.WaitGroup
		for thread := range threads {
			all.Go(func() {
				buf := make([]byte, 128<<10)
				for i := thread; i < files; i += threads {
					readSmall(b, fmt.Sprintf("%s/f%04d", dir, i), buf)
				}
			})
		}
		all.Wait()
		return files / time.Since(start).Seconds()
	}
	for _, profile := range []fuse.Profile{fuse.ProfileLarge, fuse.ProfileSmall} {
		for _, threads := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/threads=%d", profile, threads), func(b *testing.B) {
				tree := newTree(b, content)
				best := map[string]float64{}
				for b.Loop() {
					dir, server := fusetest.MountWith(b, tree, fuse.Options{Profile: profile})
					entries, err := os.ReadDir(dir) // names and attributes are in the kernel
					if err != nil || len(entries) != files {
						b.Fatal(len(entries), err)
					}
					for i := range files {
						if _, err := os.Stat(fmt.Sprintf("%s/f%04d", dir, i)); err != nil {
							b.Fatal(err)
						}
					}
					best["cold"] = max(best["cold"], rate(dir, threads))
					for range 5 {
						best["warm"] = max(best["warm"], rate(dir, threads))
						best["plain"] = max(best["plain"], rate(plain, threads))
					}
					if err := server.Unmount(); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(best["cold"], "cold_files/s")
				b.ReportMetric(best["warm"], "warm_files/s")
				b.ReportMetric(best["plain"], "plain_files/s")
				b.ReportMetric(best["warm"]/best["plain"], "warm/plain")
			})
		}
	}
}

// readSmall makes the four system calls themselves: package os polls each file.
func readSmall(b *testing.B, name string, buf []byte) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		b.Error(err)
		return
	}
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			b.Error(err)
		}
		if n <= 0 {
			break
		}
	}
	_ = unix.Close(fd)
}

var sink = make([]byte, 1<<20)

func readAll(b *testing.B, name string) {
	f, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for {
		switch _, err := f.Read(sink); err {
		case nil:
		case io.EOF:
			return
		default:
			b.Fatal(err)
		}
	}
}

func readRandom(b *testing.B, name string) {
	f, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 50_000 {
		if _, err := f.ReadAt(sink[:4096], rnd.Int64N(st.Size()-4096)&^4095); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkColdReads reads a file through the server into an empty page cache,
// in a row, and tells what it costs: the processor time is that of the reader
// and of the server together.
func BenchmarkColdReads(b *testing.B) {
	const size = 512 << 20
	m := mount(b, file(fusetest.Bytes(1, size)))
	m.SetComplete(false)
	plain := filepath.Join(b.TempDir(), "f")
	if err := os.WriteFile(plain, fusetest.Bytes(1, size), 0o600); err != nil {
		b.Fatal(err)
	}
	for what, name := range map[string]string{"plain_warm": plain, "server_cold": m.path("f")} {
		b.Run(what, func(b *testing.B) {
			b.SetBytes(size)
			readAll(b, plain)
			before := processorTime()
			for b.Loop() {
				b.StopTimer()
				if what == "server_cold" {
					dropPages(b, name)
				}
				b.StartTimer()
				readAll(b, name)
			}
			b.ReportMetric((processorTime()-before)/float64(b.N)/size*1e9, "cpu-s/GB")
		})
	}
}

// dropPages takes the pages of a file out of the kernel's cache of the mount.
func dropPages(b *testing.B, name string) {
	f, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		b.Fatal(err)
	}
}

// processorTime of this process, in seconds.
func processorTime() float64 {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

// BenchmarkListings lists a directory of 200,000 entries whose metadata is in
// the process: the names alone, and with attributes as ls -l wants them.
func BenchmarkListings(b *testing.B) {
	const entries = 200_000
	for _, what := range []string{"names", "names_again", "stat_each"} {
		b.Run(what, func(b *testing.B) {
			tree := newTree(b, fusetest.Content{"d": {Dir: true}})
			tree.Fill("d", entries)
			for b.Loop() {
				b.StopTimer()
				dir, server := fusetest.MountWith(b, tree, fuse.Options{})
				if what == "names_again" {
					listAll(b, dir+"/d", false)
				}
				b.StartTimer()
				if n := listAll(b, dir+"/d", what == "stat_each"); n != entries {
					b.Fatal(n)
				}
				b.StopTimer()
				if err := server.Unmount(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(entries)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// listAll lists a directory as readdir(3) does, with fstatat(2) for each entry.
func listAll(b *testing.B, dir string, stat bool) (n int) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 32<<10)
	var names []string
	for {
		got, err := unix.Getdents(fd, buf)
		if err != nil {
			b.Fatal(err)
		}
		if got == 0 {
			return n
		}
		_, _, names = unix.ParseDirent(buf[:got], -1, names[:0])
		n += len(names)
		for _, name := range names {
			var st unix.Stat_t
			if !stat {
				break
			}
			if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				b.Fatal(err)
			}
		}
	}
}
