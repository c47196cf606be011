package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// isBroken tells that the disk fails: others go on without it.
func isBroken(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.EROFS)
}

// broken takes a directory whose disk fails out of service: nothing new comes
// to it, and what is there is given out as long as it verifies. Callers hold mu.
func (s *Store) broken(d *directory, err error) {
	if d.failed != "" || !isBroken(err) {
		return
	}
	d.failed = fmt.Sprintf("%s takes no more files, its disk fails: %v: repair it, or take it out of the cache's levels", d.path, err)
	s.log.Error("a directory of the cache fails", "message", d.failed)
}

// upkeep looks at TTL, tiers and failed directories until stop.
func (s *Store) upkeep() {
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		s.probe()
		s.expire(time.Now())
		s.evictChosen()
		s.shrink()
		s.move()
		for _, d := range s.dirs { // they stay while this runs
			d.journal.compact()
		}
	}
}

// sleep waits, and is false when the store closes.
func (s *Store) sleep(d time.Duration) bool {
	select {
	case <-s.stop:
		return false
	case <-time.After(d):
		return true
	}
}

// pace sleeps for as long as n bytes take at a rate, which may be none by now.
func (s *Store) pace(n, rate int64) bool {
	if rate <= 0 {
		return true
	}
	return s.sleep(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
}

// probe takes directories back into service that can be written again.
func (s *Store) probe() {
	s.mu.Lock()
	var failed []*directory
	for _, d := range s.dirs {
		if d.failed != "" {
			failed = append(failed, d)
		}
	}
	s.mu.Unlock()
	for _, d := range failed {
		if err := d.probe(); err != nil {
			continue
		}
		s.mu.Lock()
		d.failed = ""
		s.mu.Unlock()
		s.log.Info("a directory of the cache works again", "path", d.path)
	}
}

func (d *directory) probe() error {
	path := filepath.Join(d.data, "probe") // recover removes it if need be
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, diskUnit))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close(), os.Remove(path))
}

// expire forgets files that were there for the TTL.
func (s *Store) expire(now time.Time) {
	ttl := s.ttl.Load()
	if ttl <= 0 {
		return
	}
	s.mu.Lock()
	var gone []*entry
	for id, r := range s.index.all(0) {
		if s.open[id] == nil && !r.is(isPinned) && now.UnixNano()-r.born >= ttl {
			gone = append(gone, s.forget(s.entry(id))...)
			s.stats.Evicted[ReasonTTL]++
		}
	}
	s.mu.Unlock()
	s.bury(gone)
	s.tell(gone)
}

// scrub reads all files again and again, at its rate, and compares.
func (s *Store) scrub() {
	for s.sleep(s.every) {
		for after := uint32(0); s.scrubRate.Load() > 0; {
			var key Key
			s.mu.Lock()
			for id, r := range s.index.all(after) {
				key, after = r.key.key(), id
				break
			}
			if key == "" {
				s.stats.ScrubProgress = 1
			} else {
				s.stats.ScrubProgress = float64(after-1) / float64(s.index.last)
			}
			s.mu.Unlock()
			if key == "" {
				break
			}
			if !s.scrubFile(key) {
				return
			}
		}
	}
}

// scrubFile is false when the store closes. A file with a bad block goes as a
// whole: the kernel may be reading it without anybody between, so nothing that
// is written into it would be in time; who has it open is told that it dropped.
func (s *Store) scrubFile(key Key) bool {
	s.mu.Lock()
	e := s.find(key)
	if e == nil {
		s.mu.Unlock()
		return true
	}
	f, err := s.leaseQuietly(e)
	s.mu.Unlock()
	if err != nil {
		s.tell([]*entry{e})
		return true
	}
	defer f.Close()
	for block := range e.states {
		if _, there := f.Checksum(block); !there {
			continue
		}
		n := e.length(block)
		good := f.onDisk(block)
		s.mu.Lock()
		s.stats.ScrubbedBytes += n
		if !good {
			s.stats.BadBlocks++
			s.stats.Evicted[ReasonCorrupt]++
			s.forget(e)
		}
		s.mu.Unlock()
		if !good {
			s.log.Warn("a cached file does not verify: it is dropped", "key", key, "block", block)
			s.tell([]*entry{e})
			return true
		}
		if !s.pace(n, s.scrubRate.Load()) {
			return false
		}
	}
	return true
}

// onDisk tells whether a block is on the disk what was stored: it is read
// around the page cache where the file system can.
func (f *File) onDisk(block int) bool {
	e := f.e
	want, ok := f.Checksum(block)
	if !ok {
		return true // somebody else found it bad
	}
	buf, err := unix.Mmap(-1, 0, int(roundUp(e.length(block))), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return true
	}
	defer func() { _ = unix.Munmap(buf) }()
	off, n := int64(block)*e.blockBytes, int(e.length(block))
	data, err := f.Data()
	if err != nil {
		return true
	}
	if direct, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", data.Fd()), unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0); err == nil {
		defer unix.Close(direct)
		if got, err := unix.Pread(direct, buf, off); err == nil && got >= n {
			return checksum(buf[:n]) == want
		}
	}
	if _, err := data.ReadAt(buf[:n], off); errors.Is(err, os.ErrClosed) {
		return true
	} else if err != nil {
		return false
	}
	return checksum(buf[:n]) == want
}
