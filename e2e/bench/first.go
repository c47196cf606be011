package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// stream is size bytes that differ by seed.
func stream(seed byte, size int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), size)
}

// smallBody is what the i-th small object holds.
func smallBody(i, size int) io.Reader {
	p := bytes.Repeat([]byte(fmt.Sprintf("%016d", i)), size/16)
	return bytes.NewReader(p)
}

// fromS3 reads for the first time: a large object, and many small ones.
func fromS3(ctx context.Context, b *Bench) error {
	store, err := b.newObjectStore(ctx)
	if err != nil {
		return err
	}
	defer store.stop()
	size, n := b.of(2<<30), int(b.of(5000))
	for _, bucket := range []string{"large", "small"} {
		if err := store.bucket(ctx, bucket); err != nil {
			return err
		}
	}
	if err := store.put(ctx, "large", 1, func(int) (string, io.Reader) { return "f", stream(1, size) }); err != nil {
		return err
	}
	if err := store.put(ctx, "small", n, func(i int) (string, io.Reader) { return smallName(i), smallBody(i, 64<<10) }); err != nil {
		return err
	}
	// The first read of a cache needs a new cache each time.
	var last struct{ worker, client, server time.Duration }
	fresh := func(bucket string, read func(mnt string) work) (side, func(), error) {
		mount, err := store.mount(bucket)
		if err != nil {
			return side{}, nil, err
		}
		var c *cache
		var mnt string
		end := func() {
			if c != nil {
				c.close()
				c = nil
			}
		}
		return side{
			before: func() (err error) {
				end()
				if c, err = b.newCache(ctx, "s3", cacheConfig{mount: mount, workers: 1, quota: "8Gi"}); err != nil {
					return err
				}
				if mnt, err = c.mount(ctx, 0); err != nil {
					return err
				}
				return b.settle(2 * size)
			},
			work: func() (done, error) {
				server := store.cpu()
				d, err := read(mnt)()
				last.worker, last.client, last.server = c.workers[0].cpu(), c.clients[0].cpu(), store.cpu()-server
				return d, err
			},
		}, end, nil
	}
	first, end, err := fresh("large", func(mnt string) work { return sequential(filepath.Join(mnt, "f"), 1, 1<<20) })
	if err != nil {
		return err
	}
	p, err := b.inTurn(first, side{work: store.fetch(ctx, "large", "f", size)})
	end()
	if err != nil {
		return err
	}
	b.add(p.ratio("s3/first-read/2GiB", aim(0.75), gigabytes))
	if last.worker > 0 {
		perGB := func(d time.Duration) float64 { return d.Seconds() / (float64(size) / 1e9) }
		b.add(once("s3/first-read/cpu", "s/GB", perGB(last.worker+last.client+last.server), nil, lower,
			fmt.Sprintf("worker %.2f, client %.2f, S3 server %.2f; without the reader, in the last run", perGB(last.worker), perGB(last.client), perGB(last.server))))
	}

	first, end, err = fresh("small", func(mnt string) work { return small(mnt, n, 1) })
	if err != nil {
		return err
	}
	p, err = b.inTurn(first, side{work: store.fetchAll(ctx, "small", n, 1)})
	end()
	if err != nil {
		return err
	}
	var rates []float64
	for _, d := range p.a {
		rates = append(rates, d.perSecond()/1e3)
	}
	f := ofRuns("s3/first-touch/64KiB/1-reader", "k/s", rates, aim(2), higher)
	f.Note = "one GET after the other: " + thousands(p.a[0], p.b[0])
	b.add(f)
	return nil
}

// dataLoad brings objects in, large and small, and copies the same into files.
func dataLoad(ctx context.Context, b *Bench) error {
	store, err := b.newObjectStore(ctx)
	if err != nil {
		return err
	}
	defer store.stop()
	for _, set := range []struct {
		name     string
		n        int
		size     int64
		parallel int
	}{
		{"large", 8, b.of(256 << 20), 2},
		{"small", int(b.of(10000)), 64 << 10, 16},
	} {
		if err := store.bucket(ctx, set.name); err != nil {
			return err
		}
		keys := make([]string, set.n)
		for i := range keys {
			keys[i] = smallName(i)
		}
		if err := store.put(ctx, set.name, set.n, func(i int) (string, io.Reader) { return keys[i], stream(byte(i), set.size) }); err != nil {
			return err
		}
		mount, err := store.mount(set.name)
		if err != nil {
			return err
		}
		dir := filepath.Join(b.dir, "download")
		down := side{work: store.download(ctx, set.name, keys, set.parallel, dir), before: func() error {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			return b.settle(int64(set.n) * set.size)
		}}
		var c *cache
		load := side{
			before: func() (err error) {
				if c != nil {
					c.close()
				}
				if c, err = b.newCache(ctx, "load", cacheConfig{mount: mount, workers: 1, quota: "8Gi"}); err != nil {
					return err
				}
				return b.settle(int64(set.n) * set.size)
			},
			work: func() (done, error) {
				took, err := c.load(ctx)
				if err != nil {
					return done{}, err
				}
				s, err := c.summary(ctx)
				if want := int64(set.n) * set.size; err == nil && s.CachedBytes != want {
					err = fmt.Errorf("the load left %d bytes of %d in the cache", s.CachedBytes, want)
				}
				return done{Bytes: s.CachedBytes, Ops: s.FileNum, Elapsed: took}, err
			},
		}
		p, err := b.inTurn(load, down)
		if c != nil {
			c.close()
		}
		_ = os.RemoveAll(dir)
		if err != nil {
			return err
		}
		note := gigabytes
		if set.name == "small" {
			note = thousands
		}
		b.add(p.ratio("load/s3/"+set.name, aim(0.9), note))
	}
	return nil
}
