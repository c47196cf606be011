package bench

import (
	"context"
	"fmt"
	"os"
	"time"
)

// listed waits until the master has walked the source and gives the time since
// the cache began.
func (c *cache) listed(ctx context.Context, files int) (took time.Duration, err error) {
	began := time.Now()
	err = until(ctx, "the walk of the source", 10*time.Minute, func() (bool, error) {
		if err := c.up(); err != nil {
			return true, err
		}
		s, err := c.summary(ctx)
		return err == nil && s.MetadataComplete && s.FileNum == int64(files), err
	})
	return time.Since(began), err
}

// metadata visits a million entries.
func metadata(ctx context.Context, b *Bench) error {
	n := int(b.of(1_000_000))
	if err := writeSmall(b.source("metadata"), n, 16); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(b.source("metadata")) }()
	plain := side{work: find(b.source("metadata"))}
	if _, err := plain.run(); err != nil {
		return err
	}
	c, err := b.newCache(ctx, "metadata", cacheConfig{mount: localMount("metadata"), workers: 1, quota: "1Gi"})
	if err != nil {
		return err
	}
	defer c.close()
	walked, err := c.listed(ctx, n)
	if err != nil {
		return err
	}
	first := side{work: nil, before: nil}
	var mnt string
	first.before = func() (err error) {
		c.unmount()
		mnt, err = c.mount(ctx, 0)
		return err
	}
	first.work = func() (done, error) { return find(mnt)() }
	runs := b.Runs
	b.Runs = min(b.Runs, 3)
	defer func() { b.Runs = runs }()
	p, err := b.inTurn(first, plain)
	if err != nil {
		return err
	}
	b.add(p.ratio("metadata/find/first", nil, thousands))
	p, err = b.inTurn(side{work: find(mnt)}, plain)
	if err != nil {
		return err
	}
	b.add(p.ratio("metadata/find/again", aim(0.5), thousands))
	b.add(once("metadata/walk", "k/s", float64(n)/walked.Seconds()/1e3, nil, higher, fmt.Sprintf("%d entries in %.1f s", n, walked.Seconds())))
	b.add(once("metadata/client-memory", "MiB", float64(c.clients[0].resident())/(1<<20), nil, lower, fmt.Sprintf("after %d entries", n)))
	return nil
}

// growthLimit is after what time a load is measured as far as it has come.
const growthLimit = 2 * time.Minute

// growth shows how costs grow with files and with workers.
func growth(ctx context.Context, b *Bench) error {
	var empty int64
	for _, n := range []int{1000, 10_000, 100_000, 1_000_000} {
		n = int(b.of(int64(n)))
		if err := b.growFiles(ctx, n, &empty); err != nil {
			return fmt.Errorf("%d files: %w", n, err)
		}
	}
	n := int(b.of(10_000))
	if err := writeSmall(b.source("growth"), n, 64<<10); err != nil {
		return err
	}
	for _, workers := range []int{1, 2, 4} {
		if err := b.growWorkers(ctx, n, workers); err != nil {
			return fmt.Errorf("%d workers: %w", workers, err)
		}
	}
	return os.RemoveAll(b.source("growth"))
}

// growFiles walks and loads n files of 4 KiB.
func (b *Bench) growFiles(ctx context.Context, n int, empty *int64) error {
	defer func() { _ = os.RemoveAll(b.source("growth")) }()
	if err := writeSmall(b.source("growth"), n, 4<<10); err != nil {
		return err
	}
	c, err := b.newCache(ctx, "growth", cacheConfig{mount: localMount("growth"), workers: 1, quota: "16Gi"})
	if err != nil {
		return err
	}
	defer c.close()
	if _, err := c.listed(ctx, n); err != nil {
		return err
	}
	name := fmt.Sprintf("growth/%d-files/", n)
	if *empty == 0 {
		*empty = c.master.resident()
	}
	before := c.cpu()
	took, err := c.loadFor(ctx, growthLimit)
	if err != nil {
		return err
	}
	spent := c.cpu() - before
	s, err := c.summary(ctx)
	if err != nil {
		return err
	}
	loaded := float64(s.CachedBytes / (4 << 10))
	note := fmt.Sprintf("files of 4 KiB, %.1f s", took.Seconds())
	if loaded < float64(n) {
		note = fmt.Sprintf("files of 4 KiB, the first %.0f, in %.0f s", loaded, took.Seconds())
	}
	b.add(
		once(name+"load", "k/s", loaded/took.Seconds()/1e3, nil, higher, note),
		once(name+"load-cpu", "us/file", spent.Seconds()*1e6/max(1, loaded), nil, lower, "master and worker"),
		once(name+"master-memory", "MiB", float64(c.master.resident())/(1<<20), nil, lower,
			fmt.Sprintf("%.0f bytes an entry beyond the first run's", float64(c.master.resident()-*empty)/float64(n))),
		once(name+"worker-memory", "MiB", float64(c.workers[0].resident())/(1<<20), nil, lower, fmt.Sprintf("with %.0f cached files", loaded)),
	)
	return nil
}

func (b *Bench) growWorkers(ctx context.Context, n, workers int) error {
	c, err := b.newCache(ctx, "growth", cacheConfig{mount: localMount("growth"), workers: workers, quota: "8Gi"})
	if err != nil {
		return err
	}
	defer c.close()
	if _, err := c.listed(ctx, n); err != nil {
		return err
	}
	before := c.cpu()
	took, err := c.load(ctx)
	if err != nil {
		return err
	}
	b.add(once(fmt.Sprintf("growth/%d-workers/load", workers), "k/s", float64(n)/took.Seconds()/1e3, nil, higher,
		fmt.Sprintf("files of 64 KiB, %.0f us of CPU a file", (c.cpu()-before).Seconds()*1e6/float64(n))))
	return nil
}

// memory of processes that have nothing to do.
func memory(ctx context.Context, b *Bench) error {
	if err := writeSmall(b.source("memory"), 100, 4<<10); err != nil {
		return err
	}
	c, err := b.newCache(ctx, "memory", cacheConfig{mount: localMount("memory"), workers: 1, quota: "1Gi"})
	if err != nil {
		return err
	}
	defer c.close()
	mnt, err := c.mount(ctx, 0)
	if err != nil {
		return err
	}
	if _, err := small(mnt, 100, 1)(); err != nil {
		return err
	}
	for _, p := range []struct {
		name string
		*process
		target float64
	}{{"client", c.clients[0], 32}, {"worker", c.workers[0], 64}, {"master", c.master, 64}} {
		b.add(once("memory/idle/"+p.name, "MiB", float64(p.resident())/(1<<20), aim(p.target), lower, "resident, the binary included"))
	}
	return nil
}
