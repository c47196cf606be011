package reader_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/fuse/fusetest"
	"github.com/millrace/millrace/runtime/reader"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// BenchmarkSmallFiles opens, reads and closes 4,000 files of 64 KiB over a real
// mount, in the order of the directory: first from a source that takes a
// millisecond for each, then from the worker of the node with a new mount, then
// from the kernel's page cache.
func BenchmarkSmallFiles(b *testing.B) {
	const files, size = 4000, 64 << 10
	read := func(dir string) float64 {
		buf := make([]byte, 2*size)
		start := time.Now()
		for i := range files {
			fd, err := unix.Open(fmt.Sprintf("%s/d/%04d", dir, i), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				b.Fatal(err)
			}
			n, err := unix.Read(fd, buf)
			if err != nil || n != size {
				b.Fatal(n, err)
			}
			_ = unix.Close(fd)
		}
		return files / time.Since(start).Seconds()
	}
	for _, profile := range []fuse.Profile{fuse.ProfileLarge, fuse.ProfileSmall} {
		for _, node := range []string{"a", ""} {
			b.Run(fmt.Sprintf("%s/worker=%q", profile, node), func(b *testing.B) {
				for b.Loop() {
					s := newScene(b, nil)
					for i := range files {
						name := fmt.Sprintf("d/%04d", i)
						s.put(name, content(name, size))
					}
					s.worker("a", 1<<30)
					s.until("no metadata", func() bool { return s.master.Summary().FileNum == files })
					s.origin.delay.Store(int64(time.Millisecond))
					for _, state := range []string{"first", "cached"} {
						r := s.mountable(node, nil)
						dir, server := fusetest.MountWith(b, r, fuse.Options{Profile: profile})
						b.ReportMetric(read(dir), state+"_files/s")
						if state == "cached" {
							b.ReportMetric(read(dir), "warm_files/s")
						}
						if err := server.Unmount(); err != nil {
							b.Fatal(err)
						}
					}
					b.ReportMetric(read(filepath.Clean(s.dir)), "source_files/s")
				}
			})
		}
	}
}

// BenchmarkRemoteHitOnAMount reads 256 MiB that another node holds, through a
// real mount with an empty page cache. The processor time is that of the
// application and of the client together; the worker is a process of its own.
func BenchmarkRemoteHitOnAMount(b *testing.B) {
	s := benchScene(b)
	s.workerProcess("a", 1<<30)
	s.load(&wirepb.LoadRequest{Id: "x"})
	r := s.mountable("", func(c *reader.Config) { c.MemoryBytes = 0 })
	dir, _ := fusetest.MountWith(b, r, fuse.Options{})
	used := func() float64 {
		var u unix.Rusage
		_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
		return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
	}
	buf := make([]byte, mib)
	b.SetBytes(benchBytes)
	before := used()
	for b.Loop() {
		fd, err := unix.Open(dir+"/f", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		if err := unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED); err != nil {
			b.Fatal(err)
		}
		for off := int64(0); off < benchBytes; off += mib {
			if n, err := unix.Pread(fd, buf, off); n != mib || err != nil {
				b.Fatal(n, err)
			}
		}
		_ = unix.Close(fd)
	}
	b.ReportMetric((used()-before)/float64(b.N)/benchBytes*1e9, "cpu-s/GB")
}
