package store

import (
	"cmp"
	"slices"
)

func (s *Store) setRates(o Options) {
	s.ttl.Store(int64(o.TTL))
	s.scrubRate.Store(o.ScrubBytes)
	s.moveRate.Store(o.MoveBytes)
}

// Change takes in, while everything goes on, TTL, ScrubBytes and MoveBytes of o,
// and of its tiers the quotas and marks of the directories that the store has.
// What is above a quota that became smaller goes within the second: guests first,
// then the files that were not leased for longest. Pinned files and those in use
// stay until they are not; nothing new comes meanwhile.
func (s *Store) Change(o Options) {
	s.setRates(o)
	s.mu.Lock()
	for _, tier := range o.Tiers {
		for _, dir := range tier.Dirs {
			for _, d := range s.dirs {
				if d.path == dir.Path {
					s.resize(d, dir.QuotaBytes, tier)
				}
			}
		}
	}
	s.mu.Unlock()
	s.shrink()
}

// resize gives a directory another quota and other marks. Callers hold mu.
func (s *Store) resize(d *directory, quota int64, t Tier) {
	d.setMarks(t)
	d.quota, d.full = quota, ""
	if d.cut = d.fitDisk(); d.cut != "" {
		s.log.Warn("quota is larger than the disk", "message", d.cut)
	}
	if d.choose != nil {
		d.choose.resize(d.limit(true))
	}
}

// shrink forgets what is above the quotas, as far as it may go.
func (s *Store) shrink() {
	s.mu.Lock()
	var gone []*entry
	for _, d := range s.dirs {
		over := d.used - d.quota
		if over <= 0 {
			continue
		}
		some := s.evict(d, over)
		over -= sum(some)
		gone = append(gone, some...)
		if over > 0 {
			gone = append(gone, s.evictOldest(d, over)...)
		}
	}
	s.mu.Unlock()
	s.bury(gone)
	s.tell(gone)
}

// evictOldest forgets files that nobody leases and that are not pinned, the
// longest unused first, until n bytes are free once they are buried. Callers hold mu.
func (s *Store) evictOldest(d *directory, n int64) (gone []*entry) {
	type old struct {
		id   uint32
		used int64
	}
	var all []old
	for id, r := range s.index.all(0) {
		if r.dir == d.number && s.open[id] == nil && !r.is(isPinned) && r.charged > 0 {
			all = append(all, old{id, r.used})
		}
	}
	slices.SortFunc(all, func(a, b old) int { return cmp.Compare(a.used, b.used) })
	for _, one := range all {
		if n <= 0 {
			break
		}
		e := s.entry(one.id)
		n -= e.charged
		gone = append(gone, s.forget(e)...)
		s.stats.Evicted[ReasonQuota]++
	}
	return gone
}
