package store

// SetGuest says whether this worker owns none of the bytes of a file: guests go
// first. It does nothing to a file that is not there.
func (s *Store) SetGuest(key Key, guest bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(key)
	if e == nil || e.is(isGuest) == guest {
		return
	}
	s.unsetIdle(e.id)
	e.set(isGuest, guest)
	if e.leases == 0 {
		s.setIdle(e.id)
	}
	e.dir.forgo(e.record.key)
	e.dir.consider(e.record.key, e.record)
	s.recordFlags(e)
}

// State is what the store has of one file now, as in Each; ok is false when it
// has no bytes of it. Changes may reach OnChange out of their order, so who
// keeps a picture of the store asks here what became of a key.
func (s *Store) State(key Key) (c Change, ok bool) {
	raw, _ := key.raw()
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.index.ids[raw]
	if id == 0 {
		return Change{Key: key, Dropped: true}, false
	}
	return s.change(id)
}

// change describes a file. Callers hold mu.
func (s *Store) change(id uint32) (Change, bool) {
	if e := s.open[id]; e != nil {
		return e.change()
	}
	return s.index.change(id)
}

// Each tells of every file that has bytes. What comes meanwhile may be missed.
func (s *Store) Each(f func(Change)) {
	changes := make([]Change, 0, atOnce)
	for after, more := uint32(0), true; more; {
		changes, more = changes[:0], false
		s.mu.Lock()
		for id := range s.index.all(after) {
			if after, more = id, len(changes) == atOnce; more {
				after--
				break
			}
			if c, ok := s.change(id); ok {
				changes = append(changes, c)
			}
		}
		s.mu.Unlock()
		for _, c := range changes {
			f(c)
		}
	}
}
