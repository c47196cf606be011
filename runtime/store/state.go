package store

// SetGuest says whether this worker owns none of the bytes of a file: guests go
// first. It does nothing to a file that is not there.
func (s *Store) SetGuest(key Key, guest bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.files[key]
	if e == nil || e.guest == guest {
		return
	}
	s.unsetIdle(e)
	e.guest = guest
	if e.leases == 0 {
		s.setIdle(e)
	}
	e.dir.forgo(e)
	e.dir.consider(e)
	if err := e.dir.journal.append(recordFile, e.flags(), key, uint64(e.size), uint64(e.blockBytes)); err != nil {
		s.log.Warn("record whose guest a cached file is", "key", key, "err", err)
	}
}

// State is what the store has of one file now, as in Each; ok is false when it
// has no bytes of it. Changes may reach OnChange out of their order, so who
// keeps a picture of the store asks here what became of a key.
func (s *Store) State(key Key) (c Change, ok bool) {
	s.mu.Lock()
	e := s.files[key]
	s.mu.Unlock()
	if e == nil {
		return Change{Key: key, Dropped: true}, false
	}
	return e.change()
}
