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
	ReasonFreed    Reason = "freed"    // somebody asked for it
)

// Reasons lists them all.
func Reasons() []Reason {
	return []Reason{ReasonQuota, ReasonGuest, ReasonTTL, ReasonReplaced, ReasonCorrupt, ReasonDemoted, ReasonFreed}
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
