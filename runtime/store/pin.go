package store

// Pin keeps a file from every eviction, also after a restart, until Unpin. Drop
// still drops it: its version is gone. False if it is not there.
func (s *Store) Pin(key Key) bool { return s.setPinned(key, true) }

// Unpin ends Pin. False if the file is not there.
func (s *Store) Unpin(key Key) bool { return s.setPinned(key, false) }

func (s *Store) setPinned(key Key, pinned bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(key)
	if e == nil || e.is(isPinned) == pinned {
		return e != nil
	}
	s.unsetIdle(e.id)
	e.set(isPinned, pinned)
	e.doomed = false
	if e.leases == 0 {
		s.setIdle(e.id)
	}
	e.dir.forgo(e.record.key)
	e.dir.consider(e.record.key, e.record)
	if pinned {
		s.stats.Pinned++
	} else {
		s.stats.Pinned--
	}
	s.recordFlags(e)
	return true
}

// Holds tells what a file takes on the disk and whether it is pinned; ok is
// false when it is not there.
func (s *Store) Holds(key Key) (bytes int64, pinned, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(key)
	if e == nil {
		return 0, false, false
	}
	return e.charged, e.is(isPinned), true
}

// Free drops a file because somebody asked for its room. False if it is pinned
// or not there.
func (s *Store) Free(key Key) bool {
	s.mu.Lock()
	e := s.find(key)
	if e == nil || e.is(isPinned) {
		s.mu.Unlock()
		return false
	}
	gone := s.forget(e)
	s.stats.Evicted[ReasonFreed]++
	s.mu.Unlock()
	s.bury(gone)
	s.tell([]*entry{e})
	return true
}
