package wire

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// gatherBytes is up to where a range is small.
	gatherBytes = smallRange
	// lanes exchanges of small ranges go on with one peer before others wait for
	// one to end.
	lanes = 4
	// gatherFor is the longest wait: where answers take their time, the next
	// ranges are asked for beside them. It is a small part of what a source takes,
	// and longer than an exchange takes whose bytes are cached.
	gatherFor = 500 * time.Microsecond
)

// queue is where small ranges wait that are wanted of one peer while lanes are
// busy; they go in one batch. So who is alone waits for nobody, and of a crowd
// each costs a part of a round trip, and of a connection. The Client's mu guards
// it.
type queue struct {
	busy    int // lanes
	waiting []*fetch
	timer   *time.Timer // of the first of those who wait; nil if nobody does
}

// batch is one exchange for several callers. Each of them may go away; when all
// have, it ends.
type batch struct {
	ctx    context.Context
	cancel context.CancelFunc

	mu   sync.Mutex
	left int // callers that still wait
	gone int // callers that went away
}

// ticket is what a fetch has that does not go alone.
type ticket struct {
	over   chan struct{} // closed when it is done, or failed is set
	failed error
	batch  *batch // set when it leaves the queue
	gone   bool   // its caller is; under the batch's mu
}

// send has one range answered, alone or with others.
func (c *Client) send(ctx context.Context, addr string, f *fetch) error {
	if f.N > gatherBytes {
		return c.alone(ctx, addr, f)
	}
	if c.enter(addr, f) {
		defer c.leave(addr)
		return c.alone(ctx, addr, f)
	}
	select {
	case <-f.ticket.over:
	case <-ctx.Done():
		if !c.settled(addr, f) {
			return ctx.Err()
		}
		<-f.ticket.over
	}
	if !f.done {
		return f.ticket.failed
	}
	return f.err
}

// enter takes a lane, or has f wait for one.
func (c *Client) enter(addr string, f *fetch) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.queues[addr]
	if q == nil {
		q = &queue{}
		c.queues[addr] = q
	}
	if q.busy < lanes || c.closed { // nobody waits for what starts after Close
		q.busy++
		return true
	}
	f.ticket = &ticket{over: make(chan struct{})}
	q.waiting = append(q.waiting, f)
	switch {
	case len(q.waiting) >= maxBatch:
		c.departLocked(addr, q)
	case q.timer == nil:
		q.timer = time.AfterFunc(c.gather, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.departLocked(addr, q)
		})
	}
	return false
}

// leave gives a lane back, to those who wait.
func (c *Client) leave(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.queues[addr]
	q.busy--
	c.departLocked(addr, q)
	if q.busy == 0 {
		delete(c.queues, addr)
	}
}

// departLocked has those who wait asked for in one exchange.
func (c *Client) departLocked(addr string, q *queue) {
	if q.timer != nil {
		q.timer.Stop()
		q.timer = nil
	}
	some := q.waiting
	q.waiting = nil
	if len(some) == 0 {
		return
	}
	b := &batch{left: len(some)}
	b.ctx, b.cancel = context.WithCancel(c.ctx)
	for _, f := range some {
		f.ticket.batch = b
	}
	q.busy++
	c.wg.Go(func() {
		defer c.leave(addr)
		defer b.cancel()
		failed := c.all(b.ctx, addr, some)
		for _, f := range some {
			if !f.done {
				f.ticket.failed = failed
				close(f.ticket.over)
			}
		}
	})
}

// settled tells that the answer is there although the caller does not want it
// any more; otherwise none will touch his buffer.
func (c *Client) settled(addr string, f *fetch) bool {
	c.mu.Lock()
	if q := c.queues[addr]; q != nil {
		if i := slices.Index(q.waiting, f); i >= 0 {
			q.waiting = slices.Delete(q.waiting, i, i+1)
			c.mu.Unlock()
			return false
		}
	}
	b := f.ticket.batch
	c.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if f.done {
		return true
	}
	f.ticket.gone = true
	b.gone++
	b.leftLocked()
	return false
}

// leftLocked counts one caller less.
func (b *batch) leftLocked() {
	if b.left--; b.left == 0 && b.gone > 0 {
		b.cancel() // the answers that are missing are for nobody
	}
}

// fill has the bytes of an answer received into the caller's buffer, or into one
// of its own as long as the caller may go away.
func (f *fetch) fill(receive func(dst []byte) error) error {
	if f.ticket == nil {
		return receive(f.dst)
	}
	held := chunks.Get().(*[]byte)
	defer chunks.Put(held)
	p := (*held)[:len(f.dst)]
	if err := receive(p); err != nil {
		return err
	}
	f.ticket.batch.mu.Lock()
	defer f.ticket.batch.mu.Unlock()
	if !f.ticket.gone {
		copy(f.dst, p)
	}
	return nil
}

// settle takes in what the peer said.
func (f *fetch) settle(said error) {
	if f.ticket == nil {
		f.done, f.err = true, said
		return
	}
	b := f.ticket.batch
	b.mu.Lock()
	defer b.mu.Unlock()
	f.done, f.err = true, said
	if !f.ticket.gone {
		b.leftLocked()
	}
	close(f.ticket.over)
}
