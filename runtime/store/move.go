package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
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
	if s.moveRate.Load() <= 0 {
		return
	}
	for _, m := range s.moves() {
		if err := s.moveTo(m.key, m.to); err != nil {
			s.log.Debug("move a cached file to another tier", "key", m.key.key(), "to", m.to.path, "err", err)
			continue
		}
		if !s.pace(m.size, s.moveRate.Load()) {
			return
		}
	}
}

type transfer struct {
	key  rawKey
	size int64
	to   *directory
}

// moves are those of one round.
func (s *Store) moves() (out []transfer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.dirs) == 0 || s.dirs[0].level == s.dirs[len(s.dirs)-1].level {
		return nil
	}
	coming := map[*directory]int64{} // bytes
	var hot []*record
	cold := map[*directory][]*record{}
	for _, d := range s.dirs {
		d.draining = d.used > d.mark(d.high) || d.draining && d.used > d.mark(d.low)
	}
	for id, r := range s.index.all(0) {
		if r.is(isGuest) || r.is(isPinned) || r.size == 0 || !s.movable(id) {
			continue
		}
		d := s.dirs[r.dir]
		if r.hits >= hotHits && d.level > s.dirs[0].level {
			hot = append(hot, r)
		}
		if d.draining && s.open[id] == nil {
			cold[d] = append(cold[d], r)
		}
	}
	for d, files := range cold {
		slices.SortFunc(files, func(a, b *record) int { return cmp.Compare(a.used, b.used) })
		left := d.used
		for _, r := range files {
			if left <= d.mark(d.low) || len(out) == maxMoves {
				break
			}
			if to := s.target(r, coming, true); to != nil {
				out = append(out, transfer{r.key, r.size, to})
				left -= r.charged
			}
		}
	}
	slices.SortFunc(hot, func(a, b *record) int { return cmp.Compare(b.hits, a.hits) })
	for _, r := range hot {
		if len(out) == maxMoves {
			break
		}
		if to := s.target(r, coming, false); to != nil {
			out = append(out, transfer{r.key, r.size, to})
		}
	}
	return out
}

// movable tells that every block is there and verified, and no policy has chosen
// the file. Callers hold mu.
func (s *Store) movable(id uint32) bool {
	e := s.open[id]
	if e == nil {
		return s.index.isWhole(id) && s.index.isVerified(id)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.doomed && e.complete() && e.unverified == 0
}

// target is the directory of a slower or a faster tier that has the most room
// for a file, and counts on it. What moves up leaves the tier below its low mark, so
// that it does not come down again at once. Callers hold mu.
func (s *Store) target(r *record, coming map[*directory]int64, slower bool) (best *directory) {
	room := func(d *directory) int64 {
		most := d.limit(true)
		if !slower {
			most = d.mark(d.low)
		}
		return most - d.used - d.promised - coming[d]
	}
	from := s.dirs[r.dir].level
	for _, d := range s.dirs {
		if d.failed != "" || slower && d.level <= from || !slower && d.level >= from || room(d) < roundUp(r.size) {
			continue
		}
		if best == nil || d.level == best.level && room(d) > room(best) {
			best = d
		}
	}
	if best != nil {
		coming[best] += roundUp(r.size)
	}
	return best
}

// mark is a fraction of the quota in bytes.
func (d *directory) mark(fraction float64) int64 { return int64(float64(d.quota) * fraction) }

var errMoved = errors.New("the file went while it was moved")

// moveTo copies a complete file to another directory and then lets the copy
// take its place. The old file is unlinked and nothing else, so whoever holds it
// open, the kernel too, reads on. A process that is killed in between leaves a
// part of a copy, or two whole ones; of both the next start removes one.
func (s *Store) moveTo(key rawKey, to *directory) error {
	s.mu.Lock()
	id := s.index.ids[key]
	if s.closed || id == 0 || to.failed != "" {
		s.mu.Unlock()
		return errMoved
	}
	e := s.entry(id)
	n := roundUp(e.size)
	if e.dir == to || to.used+n > to.limit(true) {
		s.mu.Unlock()
		return errMoved
	}
	f, err := s.leaseQuietly(e)
	if err != nil {
		s.mu.Unlock()
		s.tell([]*entry{e})
		return err
	}
	to.used += n
	to.coming++
	flags := e.flags()
	s.mu.Unlock()
	defer f.Close()

	crcs, err := s.copyTo(f, to, flags)
	s.mu.Lock()
	defer s.mu.Unlock()
	to.coming--
	if err == nil && (s.closed || e.dropped) {
		err = errMoved
	}
	if err != nil {
		to.used -= n
		s.broken(to, err)
		if s.closed {
			return err
		}
		// Its drop is recorded last: of a part of a copy the next start knows.
		if gone := os.Remove(to.file(e.key)); gone != nil && !errors.Is(gone, fs.ErrNotExist) || to.journal.append(recordDrop, 0, key, 0, 0) != nil {
			to.distrust()
		}
		return err
	}
	s.replace(e, to, crcs, flags)
	return nil
}

// replace puts a whole copy of a leased file, whose room is charged already, in
// its place; flags are those that the journal knows. Callers hold mu.
func (s *Store) replace(e *entry, to *directory, crcs []uint32, flags byte) {
	old := *e.record
	s.forget(e)
	moved := s.record(to, old.key, e.size, e.blockBytes)
	moved.set(isGuest, old.is(isGuest))
	moved.set(isPinned, old.is(isPinned))
	moved.born, moved.used, moved.charged = old.born, old.used, roundUp(e.size)
	moved.crcs, moved.present = crcs, len(crcs)
	for block := range moved.states {
		moved.states[block] = blockPresent
	}
	s.index.keep(moved.id, moved.blocks)
	if old.is(isPinned) {
		s.stats.Pinned++
	}
	if moved.flags() != flags {
		s.recordFlags(moved)
	}
	s.setIdle(moved.id)
	to.consider(old.key, moved.record)
	s.stats.MovedBytes += e.size
	if to.level < e.dir.level {
		s.stats.Promotions++
	} else {
		s.stats.Evicted[ReasonDemoted]++
	}
}

// copyTo writes and records a copy of a leased file. What fails leaves a part of
// it, which its caller removes.
func (s *Store) copyTo(f *File, to *directory, flags byte) (crcs []uint32, err error) {
	e := f.e
	data, err := to.create(e.record.key, e.size, e.blockBytes, flags)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, data.Close()) }()
	var records []byte
	for block := range e.states {
		crc, err := copyBlock(f, data, block, s)
		if err != nil {
			return nil, err
		}
		crcs = append(crcs, crc)
		records = appendRecord(records, recordBlock, 0, e.record.key, uint64(block), stamped(crc, time.Now()))
	}
	return crcs, to.journal.appendAll(records)
}

func copyBlock(f *File, data *os.File, block int, s *Store) (crc uint32, err error) {
	buf, done := s.buffer(f.e.length(block))
	defer done()
	off := int64(block) * f.e.blockBytes
	if _, err := f.ReadAt(buf, off); err != nil {
		return 0, err
	}
	crc, ok := f.Checksum(block)
	if !ok || checksum(buf) != crc {
		f.Recheck(block)
		return 0, fmt.Errorf("move cached file %s: block %d does not verify", f.e.key, block)
	}
	_, err = data.WriteAt(buf, off)
	return crc, err
}
