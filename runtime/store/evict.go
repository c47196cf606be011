package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Drop forgets a file. Its bytes go when the last lease ends; whoever holds a
// descriptor keeps reading what it had.
func (s *Store) Drop(key Key) {
	s.mu.Lock()
	e := s.find(key)
	var gone []*entry
	if e != nil {
		gone = s.forget(e)
		s.stats.Evicted[ReasonReplaced]++
	}
	s.mu.Unlock()
	s.bury(gone)
	if e != nil {
		s.onChange(Change{Key: key, Size: e.size, Dropped: true})
	}
}

// atOnce is how many records are looked at while others wait.
const atOnce = 1024

// DropAll forgets every file.
func (s *Store) DropAll() {
	for after, more := uint32(0), true; more; {
		var keys []Key
		s.mu.Lock()
		for id, r := range s.index.all(after) {
			keys, after = append(keys, r.key.key()), id
			if len(keys) == atOnce {
				break
			}
		}
		s.mu.Unlock()
		for _, key := range keys {
			s.Drop(key)
		}
		more = len(keys) == atOnce
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	busy := map[uint8]bool{}
	for _, r := range s.index.all(0) { // made meanwhile
		busy[r.dir] = true
	}
	for _, d := range s.dirs {
		if busy[d.number] || d.coming > 0 {
			continue
		}
		if err := d.journal.clear(); err != nil {
			s.log.Error("clear the journal", "path", d.path, "err", err)
		}
	}
}

// evict forgets guests that nobody leases, the longest unused first, until at
// least n bytes are free once they are buried. Callers hold mu.
func (s *Store) evict(d *directory, n int64) (gone []*entry) {
	for d.guests.front != 0 && n > 0 {
		e := s.entry(d.guests.front)
		n -= e.charged
		gone = append(gone, s.forget(e)...)
		s.stats.Evicted[ReasonGuest]++
	}
	return gone
}

// makeRoom evicts guests when the disk is full before the quota is.
func (s *Store) makeRoom(d *directory, n int64) bool {
	s.mu.Lock()
	gone := s.evict(d, n)
	s.mu.Unlock()
	s.bury(gone)
	s.tell(gone)
	return len(gone) > 0
}

// diskFull remembers for Message whether the disk had no room.
func (s *Store) diskFull(d *directory, full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !full:
		d.full = ""
	case d.full == "":
		d.full = fmt.Sprintf("the disk of %s is full, with %d of the cache's %d bytes used: free or add disk, or lower the quota", d.path, d.used, d.quota)
		s.log.Warn("a disk of the cache is full", "message", d.full)
	}
}

// forget takes e out of the index and unlinks it, and gives it back if it can
// be buried: nobody leases it. Callers hold mu.
func (s *Store) forget(e *entry) []*entry {
	if e.dropped {
		return nil
	}
	e.mu.Lock()
	e.dropped = true
	e.mu.Unlock()
	s.unsetIdle(e.id)
	e.dir.forgo(e.record.key)
	if e.is(isPinned) && e.is(isLive) {
		s.stats.Pinned--
	}
	s.index.hide(e.id)
	if err := e.dir.journal.append(recordDrop, 0, e.record.key, 0, 0); err != nil {
		e.dir.distrust()
		s.log.Error("record that a cached file is dropped", "key", e.key, "err", err)
	}
	if e.leases == 0 && e.data == nil {
		// Freeing a large file takes long: that is for bury, without the lock.
		if f, err := os.Open(e.dir.file(e.key)); err == nil {
			e.data = f
		}
	}
	if err := os.Remove(e.dir.file(e.key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.dir.distrust()
		s.log.Error("unlink a cached file", "key", e.key, "err", err)
	}
	if e.leases > 0 {
		return nil
	}
	return []*entry{e}
}

// bury frees the bytes of dropped files and only then their account. Callers
// do not hold mu.
func (s *Store) bury(gone []*entry) {
	for _, e := range gone {
		if data := e.takeData(); data != nil {
			if err := data.Close(); err != nil {
				s.log.Error("close a cached file", "key", e.key, "err", err)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range gone {
		s.settle(e)
	}
}

// settle ends the account of a dropped file whose bytes are free, and its
// record. Callers hold mu.
func (s *Store) settle(e *entry) {
	e.dir.used -= e.charged
	e.charged = 0
	if !s.closed {
		s.index.release(e.id)
	}
}

func (s *Store) tell(dropped []*entry) {
	for _, e := range dropped {
		s.onChange(Change{Key: e.key, Size: e.size, Dropped: true})
	}
}

func sum(entries []*entry) (n int64) {
	for _, e := range entries {
		n += e.charged
	}
	return n
}
