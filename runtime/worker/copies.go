package worker

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

const (
	// maxCopies is how many ranges wait to be copied, or to be told of. One more
	// is let go: the stripe has a copy less until it is loaded or read again.
	maxCopies = 4096
	// copiers are at work at once on each of both.
	copiers = 4
)

// copies sees to it that every owner of a stripe has it: an owner that reads the
// source tells the others, and they get the bytes from it when they can.
type copies struct {
	w    *Worker
	news chan news       // to tell
	todo chan wire.Range // to copy
}

// news is that this worker has a range which the peer at addr is to have too.
type news struct {
	addr string
	r    wire.Range
}

func newCopies(w *Worker) *copies {
	return &copies{w: w, news: make(chan news, maxCopies), todo: make(chan wire.Range, maxCopies)}
}

// run works until ctx ends.
func (c *copies) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for range copiers {
		g.Go(func() error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case n := <-c.news:
					err := c.w.client.Keep(ctx, n.addr, n.r)
					c.w.m.copies.WithLabelValues("told", wire.Kind(err)).Inc()
				}
			}
		})
		g.Go(func() error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case r := <-c.todo:
					err := c.copy(ctx, r)
					c.w.m.copies.WithLabelValues("copied", wire.Kind(err)).Inc()
				}
			}
		})
	}
	return g.Wait()
}

// have tells the other owners of a range that this worker has it.
func (c *copies) have(o *wirepb.Object, off, n int64, owners []*wirepb.Member) {
	for _, m := range owners {
		if m.GetName() == c.w.cfg.Name || c.w.client.Suspect(m.GetAddress()) {
			continue
		}
		select {
		case c.news <- news{m.GetAddress(), wire.Range{Object: o, Off: off, N: n}}:
		default:
			c.w.m.copies.WithLabelValues("told", "dropped").Inc()
		}
	}
}

// told notes that a range is to be copied; false if there is too much already.
func (c *copies) told(r wire.Range) bool {
	select {
	case c.todo <- r:
		return true
	default:
		return false
	}
}

// copy gets a range from peers that have it. The source is not read for it.
func (c *copies) copy(ctx context.Context, r wire.Range) error {
	file, err := c.w.acquire(r.Object, false)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = c.w.fetch.ensure(ctx, file, r.Object, r.Off, r.N, asCopy)
	return err
}
