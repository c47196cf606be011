package store

// place chooses the directory for a new file: in the first tier that can take
// the whole of it the one with the most room; where none can, the one with the
// most room of all, if a block fits. Callers hold mu.
func (s *Store) place(size int64, guest bool) *directory {
	var whole, most *directory
	block := roundUp(min(size, s.blockBytes))
	for _, d := range s.dirs {
		if d.failed != "" {
			continue
		}
		room := d.room(guest)
		if room >= roundUp(size) && (whole == nil || whole.level == d.level && room > whole.room(guest)) {
			whole = d
		}
		if room+d.promised >= block && (most == nil || room > most.room(guest)) {
			most = d
		}
	}
	if whole != nil {
		return whole
	}
	return most
}

// reserve charges n bytes of e to its directory, evicting guests if it must.
func (s *Store) reserve(e *entry, n int64) error {
	d := e.dir
	for tried := false; ; tried = true {
		s.mu.Lock()
		var gone []*entry
		if high := d.limit(true); !e.is(isGuest) && (d.used+n > high && !tried || d.used+n > d.quota) {
			gone = s.evict(d, d.used+n-int64(float64(d.quota)*d.low))
		}
		if len(gone) == 0 && !e.is(isGuest) && d.used+n > d.quota {
			gone = s.evictCold(d, d.used+n-d.quota)
		}
		if len(gone) == 0 {
			defer s.mu.Unlock()
			if d.failed != "" || d.used+n > d.limit(e.is(isGuest)) {
				return ErrNoSpace
			}
			s.charge(e, n)
			return nil
		}
		s.mu.Unlock()
		s.bury(gone)
		s.tell(gone)
	}
}

// charge accounts for n more bytes of a leased e. Callers hold mu.
func (s *Store) charge(e *entry, n int64) {
	e.dir.used += n
	e.charged += n
	kept := min(max(n, 0), e.promised)
	e.promised -= kept
	e.dir.promised -= kept
}

func (s *Store) refund(e *entry, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.charge(e, -n)
}
