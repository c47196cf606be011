package store

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

// Holds tells what a file takes on the disk and whether it is pinned; ok is
// false when it is not there.
func (s *Store) Holds(key Key) (bytes int64, pinned, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.files[key]
	if e == nil {
		return 0, false, false
	}
	return e.charged, e.pinned, true
}

// Free drops a file because somebody asked for its room. False if it is pinned
// or not there.
func (s *Store) Free(key Key) bool {
	s.mu.Lock()
	e := s.files[key]
	if e == nil || e.pinned {
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
