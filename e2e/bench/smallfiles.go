package bench

import (
	"context"
	"fmt"

	"github.com/millrace/millrace/apis/contract"
)

// smallFiles opens, reads and closes files of 64 KiB, in both profiles of the
// mount.
func smallFiles(ctx context.Context, b *Bench) error {
	n := int(b.of(8000)) // fewer than the descriptors that some machines allow
	if err := writeSmall(b.source("small"), n, 64<<10); err != nil {
		return err
	}
	for _, profile := range []string{"large", "small"} {
		c, err := b.newCache(ctx, "small-"+profile, cacheConfig{
			mount: localMount("small"), workers: 1, quota: "4Gi", clientOptions: map[string]string{contract.OptionProfile: profile},
		})
		if err != nil {
			return err
		}
		err = b.smallProfile(ctx, c, profile, n)
		c.close()
		if err != nil {
			return fmt.Errorf("profile %s: %w", profile, err)
		}
	}
	return nil
}

func (b *Bench) smallProfile(ctx context.Context, c *cache, profile string, n int) error {
	if _, err := c.load(ctx); err != nil {
		return err
	}
	// A mount of its own for each cold run: the kernel has cached nothing of it.
	plain := side{work: small(b.source("small"), n, 1)}
	if _, err := plain.run(); err != nil {
		return err
	}
	var rates []float64
	for range b.Runs {
		mnt, err := c.mount(ctx, 0)
		if err != nil {
			return err
		}
		d, err := small(mnt, n, 1)()
		c.unmount()
		if err != nil {
			return err
		}
		rates = append(rates, d.perSecond()/1e3)
	}
	b.add(ofRuns("small/"+profile+"/64KiB/kernel-cold/1-thread", "k/s", rates, aim(9), higher))

	mnt, err := c.mount(ctx, 0)
	if err != nil {
		return err
	}
	defer c.unmount()
	through := side{work: small(mnt, n, 1)}
	if _, err := through.run(); err != nil { // warm
		return err
	}
	p, err := b.inTurn(through, plain)
	if err != nil {
		return err
	}
	if profile == "small" {
		b.add(p.ratio("small/small/64KiB/warm/1-thread", aim(0.5), thousands))
		return nil
	}
	b.add(p.ratio("small/large/64KiB/warm/1-thread", nil, thousands))
	p, err = b.inTurn(side{work: small(mnt, n, 8)}, side{work: small(b.source("small"), n, 8)})
	if err != nil {
		return err
	}
	rates = rates[:0]
	for _, d := range p.a {
		rates = append(rates, d.perSecond()/1e3)
	}
	f := ofRuns("small/large/64KiB/warm/8-threads", "k/s", rates, aim(45), higher)
	f.Note = thousands(p.a[0], p.b[0])
	b.add(f)
	return nil
}
