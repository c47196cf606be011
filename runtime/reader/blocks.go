package reader

import (
	"container/list"
	"context"
	"sync"
	"time"
)

const (
	// blockIdle is for how long a block that nobody reads is remembered.
	blockIdle = 5 * time.Second
	// blockTimeout bounds the way of one block over all peers and the source.
	blockTimeout = 2 * time.Minute
)

// units of a block, the largest first.
var units = [...]int64{blockBytes, mediumBytes, smallBytes}

// blockCache holds blocks that come from other nodes for as long as they are
// read, each fetched once however many wait for it, within a budget.
type blockCache struct {
	ctx    context.Context
	wg     *sync.WaitGroup
	budget int64
	m      *metrics
	spare  map[int64]*sync.Pool // of *[]byte, by unit

	mu     sync.Mutex
	closed bool
	used   int64
	blocks map[blockKey]*block
	idle   *list.List    // blocks that nobody uses, the last used in front
	freed  chan struct{} // closed, and made anew, when there may be room
}

// blockKey is one range of one version of a file: bytes from index × unit on.
type blockKey struct {
	key         string
	unit, index int64
}

type block struct {
	key   blockKey
	data  []byte
	ready chan struct{} // closed when data or err are good
	err   error

	// Under blockCache.mu.
	users int
	elem  *list.Element // its place in idle
	since time.Time     // when it became idle
	ahead *pattern      // who had it fetched ahead, nil once it was read
}

type fetchFunc func(ctx context.Context, p []byte, off int64) error

func newBlockCache(ctx context.Context, budget int64, wg *sync.WaitGroup) *blockCache {
	c := &blockCache{
		ctx: ctx, wg: wg, budget: budget, spare: map[int64]*sync.Pool{},
		blocks: map[blockKey]*block{}, idle: list.New(), freed: make(chan struct{}),
	}
	for _, unit := range units {
		c.spare[unit] = &sync.Pool{New: func() any {
			b := make([]byte, unit)
			return &b
		}}
	}
	return c
}

// get has a block of n bytes fetched unless it is there or on its way. The
// caller waits for ready and puts the block back.
func (c *blockCache) get(ctx context.Context, k blockKey, n int64, fetch fetchFunc) (*block, error) {
	for {
		c.mu.Lock()
		if b := c.findLocked(k.key, k.index*k.unit, k.unit); b != nil {
			c.useLocked(b)
			c.readLocked(b)
			c.mu.Unlock()
			return b, nil
		}
		if b := c.startLocked(k, n, nil, fetch); b != nil {
			c.mu.Unlock()
			return b, nil
		}
		freed := c.freed
		c.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-c.ctx.Done():
			return nil, c.ctx.Err()
		}
	}
}

// start has a block fetched that is not there and not on its way, for somebody
// to get it soon, if there is room. ahead is who guesses that it will be
// wanted, nil if that is known.
func (c *blockCache) start(k blockKey, n int64, ahead *pattern, fetch fetchFunc) (room bool) {
	c.mu.Lock()
	if c.findLocked(k.key, k.index*k.unit, k.unit) != nil {
		c.mu.Unlock()
		return true
	}
	b := c.startLocked(k, n, ahead, fetch)
	c.mu.Unlock()
	if b == nil {
		return false
	}
	c.put(b)
	return true
}

func (c *blockCache) findLocked(key string, off, unit int64) *block {
	for _, u := range units {
		if u < unit {
			break
		}
		if b := c.blocks[blockKey{key, u, off / u}]; b != nil {
			return b
		}
	}
	return nil
}

func (c *blockCache) startLocked(k blockKey, n int64, ahead *pattern, fetch fetchFunc) *block {
	if c.closed || !c.roomLocked(n) {
		return nil
	}
	b := &block{key: k, ready: make(chan struct{}), users: 2, ahead: ahead} // the caller and the fetch
	c.used += n
	b.data = (*c.spare[k.unit].Get().(*[]byte))[:n]
	c.blocks[k] = b
	c.wg.Go(func() { c.fetch(b, fetch) })
	return b
}

// roomLocked makes room for n bytes, if what is idle has as much.
func (c *blockCache) roomLocked(n int64) bool {
	for c.used+n > c.budget && c.idle.Len() > 0 {
		c.dropLocked(c.idle.Back().Value.(*block))
	}
	return c.used+n <= c.budget || c.used == 0
}

// reserve takes n bytes of the budget, if they are there at once.
func (c *blockCache) reserve(n int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.roomLocked(n) {
		return false
	}
	c.used += n
	return true
}

// release gives reserved bytes back.
func (c *blockCache) release(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used -= n
	c.wakeLocked()
}

func (c *blockCache) wakeLocked() {
	close(c.freed)
	c.freed = make(chan struct{})
}

func (c *blockCache) fetch(b *block, fetch fetchFunc) {
	ctx, cancel := context.WithTimeout(c.ctx, blockTimeout)
	defer cancel()
	b.err = fetch(ctx, b.data, b.key.index*b.key.unit)
	if b.err != nil {
		c.mu.Lock()
		delete(c.blocks, b.key) // the next one tries anew
		b.ahead = nil
		c.mu.Unlock()
	}
	close(b.ready)
	c.put(b)
}

func (c *blockCache) useLocked(b *block) {
	if b.elem != nil {
		c.idle.Remove(b.elem)
		b.elem = nil
	}
	b.users++
}

// readLocked notes that a block is read.
func (c *blockCache) readLocked(b *block) {
	if b.ahead == nil {
		return
	}
	b.ahead.used()
	b.ahead = nil
	c.m.ahead.WithLabelValues("used").Add(float64(len(b.data)))
}

// put ends a use of a block.
func (c *blockCache) put(b *block) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.users--; b.users > 0 {
		return
	}
	if c.blocks[b.key] == b {
		b.since, b.elem = time.Now(), c.idle.PushFront(b)
	} else {
		c.releaseLocked(b)
	}
	c.wakeLocked()
}

func (c *blockCache) dropLocked(b *block) {
	c.idle.Remove(b.elem)
	b.elem = nil
	delete(c.blocks, b.key)
	if b.ahead != nil {
		b.ahead.wasted()
		c.m.ahead.WithLabelValues("wasted").Add(float64(len(b.data)))
	}
	c.releaseLocked(b)
}

func (c *blockCache) releaseLocked(b *block) {
	c.used -= int64(len(b.data))
	whole := b.data[:cap(b.data)]
	c.spare[b.key.unit].Put(&whole)
	b.data = nil
}

// expire forgets what nobody reads any more, until ctx ends.
func (c *blockCache) expire(ctx context.Context) {
	tick := time.NewTicker(blockIdle)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c.mu.Lock()
		for e := c.idle.Back(); e != nil && time.Since(e.Value.(*block).since) >= blockIdle; e = c.idle.Back() {
			c.dropLocked(e.Value.(*block))
		}
		c.mu.Unlock()
	}
}

// bytes is what is held now.
func (c *blockCache) bytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used
}

// close has no more fetches begin.
func (c *blockCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
}

// clear forgets what nobody uses; with all fetches ended that is everything.
func (c *blockCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := c.idle.Back(); e != nil; e = c.idle.Back() {
		c.dropLocked(e.Value.(*block))
	}
}
