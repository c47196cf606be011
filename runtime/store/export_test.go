package store

import "time"

// What upkeep does when its time comes, for tests that want it now.

func (s *Store) MoveNow()             { s.move() }
func (s *Store) ExpireAt(t time.Time) { s.expire(t) }
func (s *Store) ScrubNow(key Key)     { s.scrubFile(key) }

// CompactNow writes every journal anew.
func (s *Store) CompactNow() {
	for _, d := range s.dirs {
		d.journal.mu.Lock()
		d.journal.limit = 1
		d.journal.mu.Unlock()
		d.journal.compact()
	}
}

// Trusted tells how many directories go by their journals when they are opened.
func (s *Store) Trusted() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.dirs {
		if d.marker != "" {
			n++
		}
	}
	return n
}
