package reader

import (
	"container/list"
	"context"
	"sync"
	"time"
)

const (
	// blockBytes is the unit in which bytes come from peers and the source.
	blockBytes = 4 << 20
	// blockIdle is for how long a block that nobody reads is remembered.
	blockIdle = 5 * time.Second
	// blockTimeout bounds the way of one block over all peers and the source.
	blockTimeout = 2 * time.Minute
)

// blockCache holds blocks that come from other nodes for as long as they are
// read, each fetched once however many wait for it, within a budget.
type blockCache struct {
	ctx    context.Context
	wg     *sync.WaitGroup
	budget int64
	spare  sync.Pool // of *[]byte with blockBytes

	mu     sync.Mutex
	used   int64
	blocks map[blockKey]*block
	idle   *list.List    // blocks that nobody uses, the last used in front
	freed  chan struct{} // closed, and made anew, when there may be room
}

type blockKey struct {
	key   string
	index int64
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
}

func newBlockCache(ctx context.Context, budget int64, wg *sync.WaitGroup) *blockCache {
	c := &blockCache{ctx: ctx, wg: wg, budget: budget, blocks: map[blockKey]*block{}, idle: list.New(), freed: make(chan struct{})}
	c.spare.New = func() any {
		b := make([]byte, blockBytes)
		return &b
	}
	return c
}

// get has a block fetched unless it is there or on its way; n is its length.
// The caller waits for ready and puts the block back. Without patience it
// returns nil when there is no room now.
func (c *blockCache) get(ctx context.Context, k blockKey, n int64, patient bool, fetch func(context.Context, []byte) error) (*block, error) {
	for {
		c.mu.Lock()
		if b := c.blocks[k]; b != nil {
			c.useLocked(b)
			c.mu.Unlock()
			return b, nil
		}
		for c.used+n > c.budget && c.idle.Len() > 0 {
			c.dropLocked(c.idle.Back().Value.(*block))
		}
		if c.used+n <= c.budget || c.used == 0 {
			b := &block{key: k, ready: make(chan struct{}), users: 2} // the caller and the fetch
			c.used += n
			b.data = c.buffer(n)
			c.blocks[k] = b
			c.mu.Unlock()
			c.wg.Go(func() { c.fetch(b, fetch) })
			return b, nil
		}
		freed := c.freed
		c.mu.Unlock()
		if !patient {
			return nil, nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-c.ctx.Done():
			return nil, c.ctx.Err()
		}
	}
}

func (c *blockCache) fetch(b *block, fetch func(context.Context, []byte) error) {
	ctx, cancel := context.WithTimeout(c.ctx, blockTimeout)
	defer cancel()
	b.err = fetch(ctx, b.data)
	if b.err != nil {
		c.mu.Lock()
		delete(c.blocks, b.key) // the next one tries anew
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
	close(c.freed)
	c.freed = make(chan struct{})
}

func (c *blockCache) dropLocked(b *block) {
	c.idle.Remove(b.elem)
	delete(c.blocks, b.key)
	c.releaseLocked(b)
}

func (c *blockCache) releaseLocked(b *block) {
	c.used -= int64(len(b.data))
	if cap(b.data) == blockBytes {
		whole := b.data[:blockBytes]
		c.spare.Put(&whole)
	}
	b.data = nil
}

func (c *blockCache) buffer(n int64) []byte {
	if n <= blockBytes/4 {
		return make([]byte, n)
	}
	return (*c.spare.Get().(*[]byte))[:n]
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
