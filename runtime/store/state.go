package store

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
