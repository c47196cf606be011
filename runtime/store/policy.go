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
	cache *otter.Cache[rawKey, uint32]
	most  int64

	mu      sync.Mutex
	victims []rawKey
}

func newChooser(bytes int64) (*chooser, error) {
	c := &chooser{most: bytes / diskUnit}
	var err error
	c.cache, err = otter.New(&otter.Options[rawKey, uint32]{
		MaximumWeight: uint64(max(1, c.most)),
		Weigher:       func(_ rawKey, units uint32) uint32 { return units },
		Executor:      func(f func()) { f() },
		OnAtomicDeletion: func(e otter.DeletionEvent[rawKey, uint32]) {
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

// resize changes what the ranked files may weigh together. Callers hold the Store's mu.
func (c *chooser) resize(bytes int64) {
	c.most = bytes / diskUnit
	c.cache.SetMaximum(uint64(max(1, c.most)))
	c.cache.CleanUp()
}

func (c *chooser) touch(key rawKey) {
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
func (d *directory) consider(key rawKey, r *record) {
	units := max(1, roundUp(r.size)/diskUnit)
	if d.choose == nil || r.is(isGuest) || r.is(isPinned) || units > d.choose.most {
		return
	}
	d.choose.cache.Set(key, uint32(units))
	d.choose.cache.CleanUp()
}

// forgo ranks a file no more. Callers hold the Store's mu.
func (d *directory) forgo(key rawKey) {
	if d.choose != nil {
		d.choose.cache.Invalidate(key)
	}
}

// take gives the victims away.
func (c *chooser) take() (victims []rawKey) {
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
			id := s.index.ids[key]
			if id == 0 {
				continue
			}
			switch e := s.entry(id); {
			case e.dir != d || e.is(isGuest) || e.is(isPinned):
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
	var cold []uint32
	for one := range d.choose.cache.Coldest() {
		id := s.index.ids[one.Key]
		if id == 0 || s.open[id] != nil {
			continue
		}
		r := s.index.at(id)
		if r.dir != d.number || r.is(isPinned) {
			continue
		}
		cold = append(cold, id)
		if n -= r.charged; n <= 0 {
			break
		}
	}
	for _, id := range cold {
		gone = append(gone, s.forget(s.entry(id))...)
		s.stats.Evicted[ReasonQuota]++
	}
	return gone
}
