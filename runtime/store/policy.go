package store

import (
	"fmt"
	"sync"

	"github.com/maypok86/otter/v2"
)

// Policy says which of the owners' files go when the quota is reached. Guests
// go first under every policy.
type Policy string

const (
	// PolicyUniform lets none go: the rest is read through. It has the most hits
	// when everything is read once an epoch.
	PolicyUniform Policy = "uniform"
	// PolicyTinyLFU lets those go that are read least (W-TinyLFU over whole files).
	PolicyTinyLFU Policy = "tinylfu"
)

func (p Policy) check() error {
	switch p {
	case "", PolicyUniform, PolicyTinyLFU:
		return nil
	default:
		return fmt.Errorf("policy %q: want %s or %s", p, PolicyUniform, PolicyTinyLFU)
	}
}

// chooser ranks the files of a directory by how often and how lately they were
// leased. What it ranks lowest, when they weigh too much together, are victims.
// A nil chooser ranks nothing. Its mu comes after the Store's.
type chooser struct {
	cache *otter.Cache[Key, uint32]
	most  int64

	mu      sync.Mutex
	victims []Key
}

func newChooser(bytes int64) (*chooser, error) {
	c := &chooser{most: bytes / diskUnit}
	var err error
	c.cache, err = otter.New(&otter.Options[Key, uint32]{
		MaximumWeight: uint64(max(1, c.most)),
		Weigher:       func(_ Key, units uint32) uint32 { return units },
		Executor:      func(f func()) { f() },
		OnAtomicDeletion: func(e otter.DeletionEvent[Key, uint32]) {
			if e.Cause == otter.CauseOverflow {
				c.mu.Lock()
				c.victims = append(c.victims, e.Key)
				c.mu.Unlock()
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make the policy %s: %w", PolicyTinyLFU, err)
	}
	return c, nil
}

func (c *chooser) touch(key Key) {
	if c != nil {
		c.cache.GetIfPresent(key)
	}
}

// bytes is what the ranked files weigh.
func (c *chooser) bytes() int64 {
	if c == nil {
		return 0
	}
	return int64(c.cache.WeightedSize()) * diskUnit
}

// consider ranks an owner's file that is not pinned. Callers hold the Store's mu.
func (d *directory) consider(e *entry) {
	units := max(1, roundUp(e.size)/diskUnit)
	if d.choose == nil || e.guest || e.pinned || units > d.choose.most {
		return
	}
	d.choose.cache.Set(e.key, uint32(units))
	d.choose.cache.CleanUp()
}

// forgo ranks a file no more. Callers hold the Store's mu.
func (d *directory) forgo(e *entry) {
	if d.choose != nil {
		d.choose.cache.Invalidate(e.key)
	}
}

// take gives the victims away.
func (c *chooser) take() (victims []Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	victims, c.victims = c.victims, nil
	return victims
}

// evictChosen forgets what the policy has chosen.
func (s *Store) evictChosen() {
	if s.policy != PolicyTinyLFU {
		return
	}
	s.mu.Lock()
	var gone []*entry
	for _, d := range s.dirs {
		for _, key := range d.choose.take() {
			e := s.files[key]
			switch {
			case e == nil || e.dir != d || e.guest || e.pinned:
			case e.leases > 0:
				e.doomed = true // it goes with its last lease
			default:
				gone = append(gone, s.forget(e)...)
				s.stats.Evicted[ReasonQuota]++
			}
		}
	}
	s.mu.Unlock()
	s.bury(gone)
	s.tell(gone)
}

// evictCold forgets the files that the policy ranks lowest, until n bytes are
// free once they are buried. Callers hold mu.
func (s *Store) evictCold(d *directory, n int64) (gone []*entry) {
	if d.choose == nil {
		return nil
	}
	var keys []Key
	for cold := range d.choose.cache.Coldest() {
		e := s.files[cold.Key]
		if e == nil || e.dir != d || e.leases > 0 || e.pinned {
			continue
		}
		keys = append(keys, cold.Key)
		if n -= e.charged; n <= 0 {
			break
		}
	}
	for _, key := range keys {
		gone = append(gone, s.forget(s.files[key])...)
		s.stats.Evicted[ReasonQuota]++
	}
	return gone
}
