package bench

import (
	"context"
	"fmt"
	"path/filepath"
	"time"
)

// local reads one complete file through the mount and where it lies.
func local(ctx context.Context, b *Bench) error {
	if err := write(b.source("local/f"), b.of(1<<30), 1); err != nil {
		return err
	}
	c, err := b.newCache(ctx, "local", cacheConfig{mount: localMount("local"), workers: 1, quota: "4Gi"})
	if err != nil {
		return err
	}
	defer c.close()
	if _, err := c.load(ctx); err != nil {
		return err
	}
	mnt, err := c.mount(ctx, 0)
	if err != nil {
		return err
	}
	through := filepath.Join(mnt, "f")
	plain, err := largest(c.store(0))
	if err != nil {
		return err
	}
	cold := func() error { return dropCache(plain) }
	reads := int(b.of(1 << 18))
	for _, one := range []struct {
		name   string
		of     func(file string) work
		before func() error
		target float64
	}{
		{"seq1M/warm/1-reader", func(f string) work { return sequential(f, 1, 1<<20) }, nil, 0.95},
		{"seq1M/warm/4-readers", func(f string) work { return sequential(f, 4, 1<<20) }, nil, 0.95},
		{"rand4K/warm/1-reader", func(f string) work { return random(f, 1, 4096, reads) }, nil, 0.95},
		{"rand4K/warm/4-readers", func(f string) work { return random(f, 4, 4096, reads/4) }, nil, 0.95},
		{"mmap/warm", mapped, nil, 0.95},
		{"seq1M/cold", func(f string) work { return sequential(f, 1, 1<<20) }, cold, 0.90},
		{"rand4K/cold", func(f string) work { return random(f, 1, 4096, max(1, reads/64)) }, cold, 0.90},
	} {
		x, y := side{one.of(through), one.before}, side{one.of(plain), one.before}
		if one.before == nil { // warm both
			for _, s := range []side{x, y} {
				if _, err := s.run(); err != nil {
					return err
				}
			}
		}
		idle := c.cpu()
		p, err := b.inTurn(x, y)
		if err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
		daemons := c.cpu() - idle
		b.add(p.ratio("local/"+one.name, aim(one.target), gigabytes))
		if one.name == "seq1M/warm/1-reader" {
			b.add(perGiB("local/cpu-per-GiB-over-plain", p, daemons))
		}
	}
	return nil
}

// perGiB is the CPU time of side a per GiB beyond that of side b; servers is
// what the daemons of a spent over all runs.
func perGiB(name string, p pairs, servers time.Duration) Figure {
	var a, y time.Duration
	var bytes int64
	for i := range p.a {
		a, y, bytes = a+p.a[i].CPU, y+p.b[i].CPU, bytes+p.a[i].Bytes
	}
	gib := float64(bytes) / (1 << 30)
	return once(name, "s/GiB", (a+servers-y).Seconds()/gib, aim(0.05), lower,
		fmt.Sprintf("%.3f with, %.3f without", (a+servers).Seconds()/gib, y.Seconds()/gib))
}
