package bench

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// epochs reads every file once an epoch in a new random order, with room for
// half of the bytes. The best possible keeps one half and never lets go of it:
// it hits half of the reads of every epoch but the first.
func epochs(ctx context.Context, b *Bench) error {
	const rounds, size = 6, 256 << 10
	n := int(max(16, b.of(2000)))
	source, err := b.newCounted(ctx, n, size)
	if err != nil {
		return err
	}
	defer source.close()
	half := strconv.Itoa(n / 2 * size)
	c, err := b.newCache(ctx, "epoch", cacheConfig{mount: source.mount, workers: 1, quota: half})
	if err != nil {
		return err
	}
	defer c.close()
	if _, err := c.listed(ctx, n); err != nil {
		return err
	}
	source.taken()
	r := rand.New(rand.NewPCG(1, 2))
	var read int64
	for range rounds {
		// A new mount: no read is answered by the kernel's pages.
		mnt, err := c.mount(ctx, 0)
		if err != nil {
			return err
		}
		for _, i := range r.Perm(n) {
			got, err := readWhole(filepath.Join(mnt, smallName(i)))
			if err != nil {
				return err
			}
			read += got
		}
		c.unmount()
	}
	fetched := source.taken()
	hits := 1 - float64(fetched)/float64(read)
	best := 0.5 * (rounds - 1) / rounds
	b.add(once("epoch/uniform/half-cached", "x", hits/best, aim(0.9), higher,
		fmt.Sprintf("%.1f %% hits of at most %.1f %%, %d epochs", 100*hits, 100*best, rounds)))
	return nil
}

// readWhole reads a file and tells how long it was.
func readWhole(file string) (total int64, err error) {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", file, err)
	}
	defer unix.Close(fd)
	p := make([]byte, 256<<10)
	for {
		n, err := unix.Read(fd, p)
		if err != nil {
			return total, fmt.Errorf("read %s: %w", file, err)
		}
		if n == 0 {
			return total, nil
		}
		total += int64(n)
	}
}

// amplification has two readers on each of three nodes read everything at once,
// each in its own order.
func amplification(ctx context.Context, b *Bench) error {
	const nodes, readers, size = 3, 2, 1 << 20
	n, large := int(max(8, b.of(400))), b.of(256<<20)
	source, err := b.newCounted(ctx, n, size)
	if err != nil {
		return err
	}
	defer source.close()
	err = source.store.put(ctx, source.bucket, 1, func(int) (string, io.Reader) { return "large", stream(3, large) })
	if err != nil {
		return err
	}
	c, err := b.newCache(ctx, "origin", cacheConfig{mount: source.mount, workers: nodes, quota: "2Gi"})
	if err != nil {
		return err
	}
	defer c.close()
	if _, err := c.listed(ctx, n+1); err != nil {
		return err
	}
	source.taken()
	var mounts []string
	for i := range nodes {
		mnt, err := c.mount(ctx, i)
		if err != nil {
			return err
		}
		mounts = append(mounts, mnt)
	}
	errs := make([]error, nodes*readers)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			mnt := mounts[i%nodes]
			names := []string{"large"}
			for _, f := range rand.New(rand.NewPCG(uint64(i), 5)).Perm(n) {
				names = append(names, smallName(f))
			}
			for _, name := range names {
				if _, err := readWhole(filepath.Join(mnt, name)); err != nil {
					errs[i] = err
					return
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	fetched := source.taken()
	total := int64(n)*size + large
	b.add(once("origin/bytes-per-byte-of-the-dataset", "x", float64(fetched)/float64(total), aim(1.05), lower,
		fmt.Sprintf("%d readers on %d nodes, %d MiB", nodes*readers, nodes, total>>20)))
	return nil
}
