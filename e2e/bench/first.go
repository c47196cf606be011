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

// keepBytes is what the files of one run may take to stay until the end.
const keepBytes = 1 << 30

// stream is size bytes that differ by seed.
func stream(seed byte, size int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), size)
}

// smallBody is what the i-th small object holds.
func smallBody(i, size int) io.Reader {
	p := bytes.Repeat([]byte(fmt.Sprintf("%016d", i)), size/16)
	return bytes.NewReader(p)
}

// fresh is a cache that begins anew with each run, and what its processes and
// the server spent in the last one. The files of the runs before stay until the
// end where they are small: ext4 gives the inodes of files that were removed in
// the last minutes to nobody, and who makes files by the thousand looks through
// them all, which took a third of the worker's time.
type fresh struct {
	side
	c                      *cache
	former                 []*cache
	worker, client, server time.Duration
}

// newFresh reads a bucket through a cache that has nothing yet, whose client is
// on the node of a worker, or on one without if node is negative.
func (b *Bench) newFresh(ctx context.Context, store *objectStore, bucket string, node int, size int64, read func(mnt string) work) (*fresh, error) {
	mount, err := store.mount(bucket)
	if err != nil {
		return nil, err
	}
	f := &fresh{}
	var mnt string
	f.before = func() (err error) {
		if f.c != nil {
			f.c.stop()
			f.former = append(f.former, f.c)
		}
		if size > keepBytes {
			f.end()
		}
		f.c = nil
		if f.c, err = b.newCache(ctx, "s3", cacheConfig{mount: mount, workers: 1, quota: "8Gi"}); err != nil {
			return err
		}
		if mnt, err = f.c.mount(ctx, node); err != nil {
			return err
		}
		return b.settle(size)
	}
	f.work = func() (done, error) {
		worker, client, server := f.c.workers[0].cpu(), f.c.clients[0].cpu(), store.cpu()
		d, err := read(mnt)()
		f.worker, f.client, f.server = f.c.workers[0].cpu()-worker, f.c.clients[0].cpu()-client, store.cpu()-server
		return d, err
	}
	return f, nil
}

func (f *fresh) end() {
	for _, c := range append(f.former, f.c) {
		if c != nil {
			c.close()
		}
	}
	f.c, f.former = nil, nil
}

// spent is a figure of what the last run cost, for each of so many units.
func (f *fresh) spent(name, unit string, units float64) Figure {
	per := func(d time.Duration) float64 { return d.Seconds() / units }
	return once(name, unit, per(f.worker+f.client+f.server), nil, lower,
		fmt.Sprintf("worker %.3g, client %.3g, S3 server %.3g; without the reader, in the last run", per(f.worker), per(f.client), per(f.server)))
}

// fromS3 reads a large object for the first time.
func fromS3(ctx context.Context, b *Bench) error {
	store, err := b.newObjectStore(ctx)
	if err != nil {
		return err
	}
	defer store.stop()
	size := b.of(2 << 30)
	if err := store.bucket(ctx, "large"); err != nil {
		return err
	}
	if err := store.put(ctx, "large", 1, func(int) (string, io.Reader) { return "f", stream(1, size) }); err != nil {
		return err
	}
	first, err := b.newFresh(ctx, store, "large", 0, 2*size, func(mnt string) work { return sequential(filepath.Join(mnt, "f"), 1, 1<<20) })
	if err != nil {
		return err
	}
	defer first.end()
	p, err := b.inTurn(first.side, side{work: store.fetch(ctx, "large", "f", size)})
	if err != nil {
		return err
	}
	b.add(p.ratio("s3/first-read/2GiB", aim(0.75), gigabytes), first.spent("s3/first-read/cpu", "s/GB", float64(size)/1e9))
	return nil
}

// firstTouch reads many small objects for the first time, on a node with a
// worker and on one without.
func firstTouch(ctx context.Context, b *Bench) error {
	store, err := b.newObjectStore(ctx)
	if err != nil {
		return err
	}
	defer store.stop()
	n := int(b.of(5000))
	if err := store.bucket(ctx, "small"); err != nil {
		return err
	}
	if err := store.put(ctx, "small", n, func(i int) (string, io.Reader) { return smallName(i), smallBody(i, 64<<10) }); err != nil {
		return err
	}
	for _, at := range []struct {
		name string
		node int
	}{{"s3/first-touch", 0}, {"s3/first-touch/no-worker", -1}} {
		if err := b.touch(ctx, store, at.node, at.name, n); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bench) touch(ctx context.Context, store *objectStore, node int, name string, n int) error {
	first, err := b.newFresh(ctx, store, "small", node, int64(2*n)<<16, func(mnt string) work { return small(mnt, n, 1) })
	if err != nil {
		return err
	}
	defer first.end()
	p, err := b.inTurn(first.side, side{work: store.fetchAll(ctx, "small", n, 1)})
	if err != nil {
		return err
	}
	var rates []float64
	for _, d := range p.a {
		rates = append(rates, d.perSecond()/1e3)
	}
	f := ofRuns(name+"/64KiB/1-reader", "k/s", rates, aim(2), higher)
	f.Note = "one GET after the other: " + thousands(p.a[0], p.b[0])
	b.add(f, first.spent(name+"/cpu", "us/file", float64(n)/1e6))
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
