package hdfs

import "io"

// DataNode is where a reader gets its bytes now.
func DataNode(r io.Reader) string {
	one := r.(*body).one
	one.mu.Lock()
	defer one.mu.Unlock()
	for c := range one.conns {
		if c.data {
			return c.RemoteAddr().String()
		}
	}
	return ""
}

// Sessions is how many sessions of a store idle and work.
func (s *Store) Sessions() (idle, busy int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.idle), len(s.slots)
}
