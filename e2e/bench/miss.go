package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// miss reads files behind a PVC for the first time, and copies them. Both sides
// read what is in the page cache and write a new file to the same file system;
// the cache also checks what it writes. Each run begins when nothing waits to be
// written to the disk, and its pages are dropped afterwards: four files and
// their copies would come near to the limits of the kernel and of the memory.
func miss(ctx context.Context, b *Bench) error {
	size := b.of(1 << 30)
	for i := range b.Runs + 1 {
		if err := write(b.source(fmt.Sprintf("miss/f%d", i)), size, uint64(i)); err != nil {
			return err
		}
	}
	c, err := b.newCache(ctx, "miss", cacheConfig{mount: localMount("miss"), workers: 1, quota: "20Gi"})
	if err != nil {
		return err
	}
	defer c.close()
	mnt, err := c.mount(ctx, 0)
	if err != nil {
		return err
	}
	at := 0
	ready := func() error { return b.settle(2 * size) }
	first := side{before: func() error { at++; return ready() }, work: func() (done, error) {
		return sequential(filepath.Join(mnt, fmt.Sprintf("f%d", at)), 1, 1<<20)()
	}}
	again := side{work: func() (done, error) {
		return sequential(filepath.Join(mnt, fmt.Sprintf("f%d", at)), 1, 1<<20)()
	}}
	copied := filepath.Join(b.dir, "copy")
	cp := side{before: ready, work: copyOf(func() string { return b.source(fmt.Sprintf("miss/f%d", at)) }, copied)}
	forget := func() error {
		if err := os.Remove(copied); err != nil {
			return err
		}
		for _, path := range []string{b.source(fmt.Sprintf("miss/f%d", at)), filepath.Join(mnt, fmt.Sprintf("f%d", at)), c.store(0)} {
			if err := dropCache(path); err != nil {
				return err
			}
		}
		return nil
	}
	for _, s := range []side{cp, again} { // the names, and the way
		if _, err := s.run(); err != nil {
			return err
		}
	}
	if err := forget(); err != nil {
		return err
	}
	var p, q pairs
	worker, client := c.workers[0].cpu(), c.clients[0].cpu()
	var reader time.Duration
	for range b.Runs {
		var d [3]done
		for i, s := range []side{first, cp, again} {
			if d[i], err = s.run(); err != nil {
				return err
			}
			if i == 0 {
				reader += d[i].CPU
			}
		}
		p.a, p.b = append(p.a, d[0]), append(p.b, d[1])
		q.a, q.b = append(q.a, d[2]), append(q.b, d[1])
		if err := forget(); err != nil {
			return err
		}
	}
	var copying time.Duration
	for _, d := range p.b {
		copying += d.CPU
	}
	b.add(p.ratio("miss/pvc/seq1M", aim(0.9), gigabytes))
	worker, client = c.workers[0].cpu()-worker, c.clients[0].cpu()-client
	perGB := func(d time.Duration) float64 { return d.Seconds() / (float64(size) * float64(b.Runs) / 1e9) }
	b.add(once("miss/pvc/cpu", "s/GB", perGB(worker+client+reader), nil, lower,
		fmt.Sprintf("worker %.2f, client %.2f, reader %.2f; the copy %.2f", perGB(worker), perGB(client), perGB(reader), perGB(copying))))
	b.add(q.ratio("miss/pvc/second-reader", aim(1), gigabytes))
	return nil
}

// copyOf copies a file as cp does: 256 KiB are read and written, no reflink.
func copyOf(from func() string, to string) work {
	return func() (done, error) {
		return measured(1, func(int) (int64, int64, error) {
			in, err := os.Open(from())
			if err != nil {
				return 0, 0, err
			}
			defer in.Close()
			out, err := os.Create(to)
			if err != nil {
				return 0, 0, err
			}
			// Structs hide ReadFrom and WriteTo, which may share blocks.
			n, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 256<<10))
			if e := out.Close(); err == nil {
				err = e
			}
			return n, n >> 20, err
		})
	}
}
