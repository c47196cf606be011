package store

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// Acquire leases the file of key, making an empty one if there is none. While a
// file is leased it is not evicted. guest says that this worker does not own
// the bytes: guests go first. ErrNoSpace if no directory could ever take a block.
func (s *Store) Acquire(key Key, size int64, guest bool) (*File, error) {
	if !key.valid() || size < 0 {
		return nil, fmt.Errorf("acquire cached file %q of %d bytes: bad key or size", key, size)
	}
	f, err := s.acquire(key, size, guest)
	s.evictChosen()
	return f, err
}

func (s *Store) acquire(key Key, size int64, guest bool) (*File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.find(key); e != nil {
		if e.size != size {
			return nil, fmt.Errorf("acquire cached file %s: it has %d bytes, not %d", key, e.size, size)
		}
		f, err := s.lease(e)
		if err == nil && e.is(isGuest) && !guest {
			e.set(isGuest, false) // an owner's interest outlives a guest's
			e.dir.consider(e.record.key, e.record)
			s.recordFlags(e)
		}
		if f != nil {
			return f, nil
		}
		s.log.Warn("a cached file cannot be opened: it is made anew", "key", key, "err", err)
	}
	f, err := s.create(key, size, guest)
	for range s.dirs { // another directory may work
		if isBroken(err) {
			f, err = s.create(key, size, guest)
		}
	}
	if isFull(err) || isBroken(err) {
		err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	if err != nil {
		return nil, fmt.Errorf("acquire cached file %s of %d bytes: %w", key, size, err)
	}
	return f, nil
}

// create makes an empty file and leases it. Callers hold mu.
func (s *Store) create(key Key, size int64, guest bool) (*File, error) {
	if s.closed {
		return nil, os.ErrClosed
	}
	d := s.place(size, guest)
	if d == nil {
		return nil, ErrNoSpace
	}
	raw, _ := key.raw()
	data, err := d.create(raw, size, s.blockBytes, flagsOf(guest, false))
	if err != nil {
		s.broken(d, err)
		return nil, err
	}
	e := s.record(d, raw, size, s.blockBytes)
	e.set(isGuest, guest)
	e.data, e.born = data, time.Now().UnixNano()
	d.consider(raw, e.record)
	return s.lease(e)
}

// record makes a record of a file without a block. Callers hold mu.
func (s *Store) record(d *directory, key rawKey, size, blockBytes int64) *entry {
	id, r := s.index.add(key)
	r.size, r.dir = size, d.number
	r.unit, _ = s.index.unit(blockBytes) // that of the store is among the first
	return s.entry(id)
}

// recordFlags tells the journal whose a file is and whether it is pinned.
// Callers hold mu.
func (s *Store) recordFlags(e *entry) {
	if err := e.dir.journal.append(recordFile, e.flags(), e.record.key, uint64(e.size), uint64(e.blockBytes)); err != nil {
		s.log.Warn("record how a cached file is kept", "key", e.key, "err", err)
	}
}

// Lookup leases the file of key if there is one.
func (s *Store) Lookup(key Key) (*File, bool) {
	s.mu.Lock()
	e := s.find(key)
	if e == nil {
		s.mu.Unlock()
		return nil, false
	}
	f, err := s.lease(e)
	s.mu.Unlock()
	if err != nil {
		s.log.Warn("a cached file cannot be opened: it is forgotten", "key", key, "err", err)
		s.tell([]*entry{e})
		return nil, false
	}
	return f, true
}

// lease opens the file if it must; one that cannot be opened is forgotten.
// Callers hold mu.
func (s *Store) lease(e *entry) (*File, error) {
	if e.leases == 0 {
		s.unsetIdle(e.id)
		if e.data == nil {
			if err := e.openData(); err != nil {
				s.forget(e)
				if data := e.takeData(); data != nil {
					err = errors.Join(err, data.Close())
				}
				s.settle(e)
				return nil, err
			}
		}
		s.open[e.id] = e
		e.promised = max(0, roundUp(e.size)-e.charged)
		e.dir.promised += e.promised
	}
	e.leases++
	e.hit()
	e.used = time.Now().UnixNano()
	e.dir.choose.touch(e.record.key)
	return &File{store: s, e: e}, nil
}

// leaseQuietly is lease for who does not read. Callers hold mu.
func (s *Store) leaseQuietly(e *entry) (*File, error) {
	hits, used := e.hits, e.used
	f, err := s.lease(e)
	if err == nil {
		e.hits, e.used = hits, used
	}
	return f, err
}

// unlease ends a lease. What nobody leases holds no descriptor.
func (s *Store) unlease(e *entry) {
	s.mu.Lock()
	if e.leases--; e.leases > 0 {
		s.mu.Unlock()
		return
	}
	if s.closed {
		s.mu.Unlock()
		if data := e.takeData(); data != nil {
			_ = data.Close()
		}
		return
	}
	e.dir.promised -= e.promised
	e.promised = 0
	delete(s.open, e.id)
	_, worth := e.change()
	chosen := e.doomed && !e.is(isPinned) && !e.is(isGuest)
	if (!worth || chosen) && !e.dropped {
		s.forget(e)
		if chosen {
			s.stats.Evicted[ReasonQuota]++
		}
	} else {
		chosen = false
	}
	if e.dropped {
		s.mu.Unlock()
		s.bury([]*entry{e})
		if chosen {
			s.tell([]*entry{e})
		}
		return
	}
	s.index.keep(e.id, e.blocks)
	s.setIdle(e.id)
	data := e.takeData()
	s.mu.Unlock()
	if data != nil {
		_ = data.Close()
	}
}

// setIdle and unsetIdle keep the queue of guests that may go. Callers hold mu.
func (s *Store) setIdle(id uint32) {
	r := s.index.at(id)
	if r.is(isGuest) && !r.is(isPinned) && !r.is(isIdle) {
		r.set(isIdle, true)
		d := s.dirs[r.dir]
		d.guests.push(id)
		d.guestBytes += r.charged
	}
}

func (s *Store) unsetIdle(id uint32) {
	r := s.index.at(id)
	if r.is(isIdle) {
		r.set(isIdle, false)
		d := s.dirs[r.dir]
		d.guests.remove(id)
		d.guestBytes -= r.charged
	}
}
