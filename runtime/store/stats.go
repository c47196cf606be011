package store

import "maps"

// Reason says why a file went.
type Reason string

// Reasons of evictions.
const (
	ReasonQuota    Reason = "quota"    // a policy chose it, or the quota became smaller
	ReasonGuest    Reason = "guest"    // a guest made room for what the worker owns
	ReasonTTL      Reason = "ttl"      // it was there for long enough
	ReasonReplaced Reason = "replaced" // the source has another version, or the cache is emptied
	ReasonCorrupt  Reason = "corrupt"  // its bytes are not what was stored
	ReasonDemoted  Reason = "demoted"  // it moved to a slower tier
)

// Reasons lists them all.
func Reasons() []Reason {
	return []Reason{ReasonQuota, ReasonGuest, ReasonTTL, ReasonReplaced, ReasonCorrupt, ReasonDemoted}
}

// Stats counts what the store did since it was opened.
type Stats struct {
	Evicted map[Reason]int64 // files
	// BadBlocks had other bytes than those that were stored.
	BadBlocks int64
	// ScrubbedBytes were read again; ScrubProgress is the part of the files that
	// this round has seen.
	ScrubbedBytes int64
	ScrubProgress float64
	// Promotions are moves to a faster tier.
	Promotions, MovedBytes int64
	// Pinned is how many files are pinned now.
	Pinned int64
}

// Stats tells what the store did.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stats
	out.Evicted = maps.Clone(s.stats.Evicted)
	return out
}

// Pin keeps a file from every eviction, also after a restart, until Unpin. Drop
// still drops it: its version is gone. False if it is not there.
func (s *Store) Pin(key Key) bool { return s.setPinned(key, true) }

// Unpin ends Pin. False if the file is not there.
func (s *Store) Unpin(key Key) bool { return s.setPinned(key, false) }

func (s *Store) setPinned(key Key, pinned bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.files[key]
	if e == nil || e.pinned == pinned {
		return e != nil
	}
	s.unsetIdle(e)
	e.pinned, e.doomed = pinned, false
	if e.leases == 0 {
		s.setIdle(e)
	}
	e.dir.forgo(e)
	e.dir.consider(e)
	if pinned {
		s.stats.Pinned++
	} else {
		s.stats.Pinned--
	}
	if err := e.dir.journal.append(recordFile, e.flags(), key, uint64(e.size), uint64(e.blockBytes)); err != nil {
		s.log.Warn("record whether a cached file is pinned", "key", key, "err", err)
	}
	return true
}
