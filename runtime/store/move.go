package store

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

const (
	// hotHits is how often a file is leased before it is worth a faster tier.
	hotHits = 3
	// maxMoves bounds what one round of upkeep moves.
	maxMoves = 64
)

// move brings the coldest files of a tier that is above its high mark to a
// slower one, and hot files to a faster one that stays below its low mark.
func (s *Store) move() {
	if s.moveRate <= 0 {
		return
	}
	for _, m := range s.moves() {
		if err := s.moveTo(m.e, m.to); err != nil {
			s.log.Debug("move a cached file to another tier", "key", m.e.key, "to", m.to.path, "err", err)
			continue
		}
		if !s.sleep(time.Duration(float64(m.e.size) / float64(s.moveRate) * float64(time.Second))) {
			return
		}
	}
}

type transfer struct {
	e  *entry
	to *directory
}

// moves are those of one round.
func (s *Store) moves() (out []transfer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.dirs) == 0 || s.dirs[0].level == s.dirs[len(s.dirs)-1].level {
		return nil
	}
	coming := map[*directory]int64{} // bytes
	var hot []*entry
	cold := map[*directory][]*entry{}
	for _, e := range s.files {
		if e.guest || e.pinned || e.doomed || e.size == 0 || !e.complete() {
			continue
		}
		if e.hits >= hotHits && e.dir.level > s.dirs[0].level {
			hot = append(hot, e)
		}
		if e.dir.used > e.dir.mark(e.dir.high) && e.leases == 0 {
			cold[e.dir] = append(cold[e.dir], e)
		}
	}
	for d, files := range cold {
		slices.SortFunc(files, func(a, b *entry) int { return a.used.Compare(b.used) })
		left := d.used
		for _, e := range files {
			if left <= d.mark(d.low) || len(out) == maxMoves {
				break
			}
			if to := s.target(e, coming, true); to != nil {
				out = append(out, transfer{e, to})
				left -= e.charged
			}
		}
	}
	slices.SortFunc(hot, func(a, b *entry) int { return cmp.Compare(b.hits, a.hits) })
	for _, e := range hot {
		if len(out) == maxMoves {
			break
		}
		if to := s.target(e, coming, false); to != nil {
			out = append(out, transfer{e, to})
		}
	}
	return out
}

// target is the directory of a slower or a faster tier that has the most room
// for e, and counts on it. What moves up leaves the tier below its low mark, so
// that it does not come down again at once. Callers hold mu.
func (s *Store) target(e *entry, coming map[*directory]int64, slower bool) (best *directory) {
	room := func(d *directory) int64 {
		most := d.limit(true)
		if !slower {
			most = d.mark(d.low)
		}
		return most - d.used - d.promised - coming[d]
	}
	for _, d := range s.dirs {
		if d.failed != "" || slower && d.level <= e.dir.level || !slower && d.level >= e.dir.level || room(d) < roundUp(e.size) {
			continue
		}
		if best == nil || d.level == best.level && room(d) > room(best) {
			best = d
		}
	}
	if best != nil {
		coming[best] += roundUp(e.size)
	}
	return best
}

// mark is a fraction of the quota in bytes.
func (d *directory) mark(fraction float64) int64 { return int64(float64(d.quota) * fraction) }

// complete tells that every block is there and verified.
func (e *entry) complete() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.present == len(e.blocks) && e.unverified == 0
}

var errMoved = errors.New("the file went while it was moved")

// moveTo copies a complete file to another directory and then lets the copy
// take its place. The old file is unlinked and nothing else, so whoever holds it
// open, the kernel too, reads on. A process that is killed in between leaves a
// copy that no journal knows, or two whole ones of which one is removed.
func (s *Store) moveTo(e *entry, to *directory) error {
	n := roundUp(e.size)
	s.mu.Lock()
	if s.closed || e.dropped || to.failed != "" || to.used+n > to.limit(true) {
		s.mu.Unlock()
		return errMoved
	}
	hits, used := e.hits, e.used
	f, err := s.lease(e)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	e.hits, e.used = hits, used
	to.used += n
	s.mu.Unlock()
	defer f.Close()

	moved, err := s.copyTo(f, to)
	s.mu.Lock()
	if err == nil && (s.closed || e.dropped || s.files[e.key] != e) {
		err = errors.Join(errMoved, to.journal.append(recordDrop, 0, e.key, 0, 0), os.Remove(to.file(e.key)))
	}
	if err != nil {
		to.used -= n
		s.broken(to, err)
		s.mu.Unlock()
		return err
	}
	moved.guest, moved.pinned, moved.born, moved.used, moved.charged = e.guest, e.pinned, e.born, e.used, n
	up := to.level < e.dir.level
	s.forget(e)
	s.files[e.key] = moved
	if moved.pinned {
		s.stats.Pinned++
	}
	s.setIdle(moved)
	to.consider(moved)
	s.stats.MovedBytes += e.size
	if up {
		s.stats.Promotions++
	} else {
		s.stats.Evicted[ReasonDemoted]++
	}
	s.mu.Unlock()
	return nil
}

// copyTo writes and records a copy of a leased file; what fails leaves nothing.
func (s *Store) copyTo(f *File, to *directory) (_ *entry, err error) {
	e := f.e
	data, err := to.createData(e.key, e.size)
	if err != nil {
		return nil, err
	}
	out := newEntry(to, e.key, e.size, e.blockBytes, e.guest)
	defer func() {
		err = errors.Join(err, data.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(to.file(e.key)))
		}
	}()
	out.crcs = make([]uint32, len(e.blocks))
	for block := range e.blocks {
		if err := copyBlock(f, data, out, block, s); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	flags := e.flags()
	s.mu.Unlock()
	if err := to.journal.append(recordFile, flags, e.key, uint64(e.size), uint64(e.blockBytes)); err != nil {
		return nil, err
	}
	for block, crc := range out.crcs {
		if err := to.journal.append(recordBlock, 0, e.key, uint64(block), uint64(crc)); err != nil {
			return nil, errors.Join(err, to.journal.append(recordDrop, 0, e.key, 0, 0))
		}
	}
	return out, nil
}

func copyBlock(f *File, data *os.File, out *entry, block int, s *Store) error {
	buf, done := s.buffer(f.e.length(block))
	defer done()
	off := int64(block) * f.e.blockBytes
	if _, err := f.ReadAt(buf, off); err != nil {
		return err
	}
	crc, ok := f.Checksum(block)
	if !ok || checksum(buf) != crc {
		f.Recheck(block)
		return fmt.Errorf("move cached file %s: block %d does not verify", f.e.key, block)
	}
	if _, err := data.WriteAt(buf, off); err != nil {
		return err
	}
	out.crcs[block] = crc
	out.setState(block, blockPresent)
	return nil
}
