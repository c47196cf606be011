package reader_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/fuse/fusetest"
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
						r := s.reader(node, nil)
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
