package bench

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// work is something that reads: it says how much it has done.
type work func() (done, error)

// done is what one run of a work did. Ops are reads, files or entries.
type done struct {
	Bytes, Ops int64
	Elapsed    time.Duration
	// CPU is what this process spent in it; that of servers is read elsewhere.
	CPU time.Duration
}

func (d done) perSecond() float64   { return float64(d.Ops) / d.Elapsed.Seconds() }
func (d done) bytesPerSec() float64 { return float64(d.Bytes) / d.Elapsed.Seconds() }

// measured runs n readers at once and adds up what they say.
func measured(n int, read func(reader int) (bytes, ops int64, _ error)) (done, error) {
	var total done
	var bytes, ops atomic.Int64
	errs := make([]error, n)
	before, start := selfCPU(), time.Now()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			b, o, err := read(i)
			bytes.Add(b)
			ops.Add(o)
			errs[i] = err
		})
	}
	wg.Wait()
	total.Elapsed, total.CPU = time.Since(start), selfCPU()-before
	total.Bytes, total.Ops = bytes.Load(), ops.Load()
	return total, errors.Join(errs...)
}

// selfCPU is user and system time of this process.
func selfCPU() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// sequential reads a file from end to end in reads of chunk bytes; several
// readers each read all of it.
func sequential(file string, readers, chunk int) work {
	return func() (done, error) {
		return measured(readers, func(int) (bytes, ops int64, _ error) {
			fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return 0, 0, fmt.Errorf("open %s: %w", file, err)
			}
			defer unix.Close(fd)
			p := make([]byte, chunk)
			for {
				n, err := unix.Read(fd, p)
				if err != nil {
					return bytes, ops, fmt.Errorf("read %s: %w", file, err)
				}
				if n == 0 {
					return bytes, ops, nil
				}
				bytes, ops = bytes+int64(n), ops+1
			}
		})
	}
}

// randomLimit ends random reads of those who are slow at them.
const randomLimit = 5 * time.Second

// random reads ranges of chunk bytes at aligned random places.
func random(file string, readers, chunk, reads int) work {
	return func() (done, error) {
		return measured(readers, func(reader int) (bytes, ops int64, _ error) {
			fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return 0, 0, fmt.Errorf("open %s: %w", file, err)
			}
			defer unix.Close(fd)
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil {
				return 0, 0, err
			}
			p := make([]byte, chunk)
			r := rand.New(rand.NewPCG(uint64(reader), 7))
			for start := time.Now(); ops < int64(reads) && (ops%64 != 0 || time.Since(start) < randomLimit); {
				n, err := unix.Pread(fd, p, r.Int64N(st.Size/int64(chunk))*int64(chunk))
				if err != nil {
					return bytes, ops, fmt.Errorf("read %s: %w", file, err)
				}
				bytes, ops = bytes+int64(n), ops+1
			}
			return bytes, ops, nil
		})
	}
}

// mapped copies a file out of a mapping of it.
func mapped(file string) work {
	return func() (done, error) {
		return measured(1, func(int) (bytes, ops int64, _ error) {
			f, err := os.Open(file)
			if err != nil {
				return 0, 0, err
			}
			defer f.Close()
			st, err := f.Stat()
			if err != nil {
				return 0, 0, err
			}
			m, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
			if err != nil {
				return 0, 0, fmt.Errorf("map %s: %w", file, err)
			}
			defer func() { _ = unix.Munmap(m) }()
			p := make([]byte, 1<<20)
			for off := 0; off < len(m); {
				n := copy(p, m[off:])
				off += n
				ops++
			}
			return int64(len(m)), ops, nil
		})
	}
}

// smallName is the i-th of the files that the small workloads read: in the
// order in which ls shows them, as tar and loaders of samples read.
func smallName(i int) string { return fmt.Sprintf("d%03d/f%07d", i/1000, i) }

// small opens, reads and closes each of n files once; the readers share them.
func small(dir string, n, readers int) work {
	return func() (done, error) {
		return measured(readers, func(reader int) (bytes, ops int64, _ error) {
			p := make([]byte, 128<<10)
			for i := reader; i < n; i += readers {
				file := filepath.Join(dir, smallName(i))
				fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					return bytes, ops, fmt.Errorf("open %s: %w", file, err)
				}
				for {
					got, err := unix.Read(fd, p)
					if err != nil {
						unix.Close(fd)
						return bytes, ops, fmt.Errorf("read %s: %w", file, err)
					}
					if got == 0 {
						break
					}
					bytes += int64(got)
				}
				unix.Close(fd)
				ops++
			}
			return bytes, ops, nil
		})
	}
}

// find visits every entry below dir and looks at its attributes.
func find(dir string) work {
	return func() (done, error) {
		return measured(1, func(int) (bytes, ops int64, _ error) {
			var visit func(dir string) error
			visit = func(dir string) error {
				entries, err := os.ReadDir(dir)
				if err != nil {
					return err
				}
				for _, e := range entries {
					name := dir + "/" + e.Name()
					if e.IsDir() {
						if err := visit(name); err != nil {
							return err
						}
						continue
					}
					var st unix.Stat_t
					if err := unix.Lstat(name, &st); err != nil {
						return fmt.Errorf("stat %s: %w", name, err)
					}
					ops++
				}
				return nil
			}
			return 0, ops, visit(dir)
		})
	}
}

// dropCache takes the pages of a file, or of all files below a directory, out
// of the page cache.
func dropCache(path string) error {
	return filepath.WalkDir(path, func(name string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Fdatasync(int(f.Fd())); err != nil { // dirty pages stay otherwise
			return fmt.Errorf("sync %s: %w", name, err)
		}
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
}
