package store

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// diskUnit is what a file's size on disk is counted in.
const diskUnit = 4096

func roundUp(n int64) int64 { return (n + diskUnit - 1) / diskUnit * diskUnit }

// entry is a cached file that is leased, or that the Store works on under its mu.
type entry struct {
	// record is the file's in the index, until it is buried.
	*record
	id         uint32
	dir        *directory
	key        Key
	size       int64
	blockBytes int64

	// The Store's mu guards these.
	doomed    bool // a policy chose it while it was leased
	leases    int
	promised  int64 // part of dir.promised, while it is leased
	verifying bool  // in the background

	// dropped is written with both mu held and read with either.
	dropped bool

	// writing is held while bytes are written. It comes before the Store's mu.
	writing sync.Mutex

	// mu guards these. It comes after the Store's mu.
	mu   sync.Mutex
	data *os.File // while it is leased
	blocks
	// busy has a block while somebody writes or verifies it; it is closed then.
	busy map[int]chan struct{}
}

// entry gives the file of a record to work on: the one that is leased, if it is.
// Callers hold mu.
func (s *Store) entry(id uint32) *entry {
	if e := s.open[id]; e != nil {
		return e
	}
	r := s.index.at(id)
	return &entry{record: r, id: id, dir: s.dirs[r.dir], key: r.key.key(), size: r.size, blockBytes: s.index.units[r.unit],
		blocks: s.index.blocksOf(id)}
}

// find is entry for a key; nil if there is none. Callers hold mu.
func (s *Store) find(key Key) *entry {
	raw, _ := key.raw()
	if id := s.index.ids[raw]; id != 0 {
		return s.entry(id)
	}
	return nil
}

// openData opens the data for the first lease. Callers hold the Store's mu.
func (e *entry) openData() error {
	f, err := os.OpenFile(e.dir.file(e.key), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if e.is(isOld) {
		if err := e.check(f); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.data = f
	if e.is(isOld) {
		e.set(isOld, false)
		e.findStrays()
	}
	return nil
}

// check compares a file from before a restart with what the journal said of it,
// and corrects its account.
func (e *entry) check(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Size != e.size {
		return fmt.Errorf("it has %d bytes, not %d", st.Size, e.size)
	}
	e.dir.used += st.Blocks*512 - e.charged
	e.charged = st.Blocks * 512
	return nil
}

// findStrays looks for bytes that a killed writer left behind. Callers hold mu.
func (e *entry) findStrays() {
	extra := e.charged
	for block, state := range e.states {
		if state != blockMissing {
			extra -= roundUp(e.length(block))
		}
	}
	for block := 0; block < len(e.states) && extra > 0; block++ {
		if e.states[block] == blockMissing {
			extra -= e.setStray(block)
		}
	}
}

// setStray notes what a missing block takes on the disk. Callers hold mu.
func (e *entry) setStray(block int) int64 {
	n := roundUp(allocated(e.data, int64(block)*e.blockBytes, e.length(block)))
	if n == 0 {
		delete(e.strays, block)
		return 0
	}
	if e.strays == nil {
		e.strays = map[int]int64{}
	}
	e.strays[block] = n
	return n
}

// allocated is how many bytes of a range are not a hole.
func allocated(f *os.File, off, n int64) (total int64) {
	end := off + n
	for off < end {
		data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if err != nil || data >= end {
			return total
		}
		hole, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return total
		}
		hole = min(hole, end)
		total, off = total+hole-data, hole
	}
	return total
}

// takeData gives the descriptor away to be closed.
func (e *entry) takeData() *os.File {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.data
	e.data = nil
	return f
}

// flags of e's record in the journal. Callers hold the Store's mu.
func (r *record) flags() byte { return flagsOf(r.is(isGuest), r.is(isPinned)) }

// change describes e for OnChange; ok is false when it has no bytes to speak of.
func (e *entry) change() (c Change, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c = Change{Key: e.key, Size: e.size, Complete: e.complete()}
	if !c.Complete {
		c.Bitmap = e.bitmap(blockUnverified)
	}
	return c, e.present > 0 || c.Complete
}

// length is the size of a block; the last one may be shorter.
func (e *entry) length(block int) int64 {
	return min(e.blockBytes, e.size-int64(block)*e.blockBytes)
}

func (e *entry) state(block int) blockState {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.states[block]
}

// claim makes the caller the only one who works on a block, until free. It is
// false when, perhaps after waiting for others, the block is settled.
func (e *entry) claim(block int, settled func(blockState) bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		if settled(e.states[block]) {
			return false
		}
		other := e.busy[block]
		if other == nil {
			if e.busy == nil {
				e.busy = map[int]chan struct{}{}
			}
			e.busy[block] = make(chan struct{})
			return true
		}
		e.mu.Unlock()
		<-other
		e.mu.Lock()
	}
}

func (e *entry) free(block int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.busy[block])
	delete(e.busy, block)
}

// settle records a claimed block whose bytes are down, and then marks it. After
// an error, its own or failed, what is left on the disk is a stray.
func (e *entry) settle(block int, crc uint32, failed error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.data == nil {
		return os.ErrClosed
	}
	err := failed
	// A dropped file has no more record: its key may be that of another by now.
	if err == nil && !e.dropped {
		err = e.dir.journal.append(recordBlock, 0, e.record.key, uint64(block), stamped(crc, time.Now()))
	}
	if err != nil {
		e.setStray(block)
		return err
	}
	if e.crcs == nil {
		e.crcs = make([]uint32, len(e.states))
	}
	e.crcs[block] = crc
	e.setState(block, blockPresent)
	delete(e.strays, block)
	return nil
}

// pieceBytes is what is checked and written at once: it fits into the second
// level of the processor's caches.
const pieceBytes = 256 << 10

// blockWriter puts the bytes of a claimed block down, one piece after the
// other, and keeps their checksum.
type blockWriter struct {
	e         *entry
	off, left int64
	crc       uint32
	// room makes some when the disk has none, and tells whether it did.
	room func(n int64) bool
}

// Write implements io.Writer.
func (w *blockWriter) Write(p []byte) (n int, _ error) {
	if int64(len(p)) > w.left {
		return 0, fmt.Errorf("%d bytes are %d too many for the block", len(p), int64(len(p))-w.left)
	}
	for len(p) > 0 {
		piece := p[:min(len(p), pieceBytes)]
		if err := w.put(piece); err != nil {
			return n, err
		}
		w.crc = crc32.Update(w.crc, castagnoli, piece)
		w.off, w.left = w.off+int64(len(piece)), w.left-int64(len(piece))
		p, n = p[len(piece):], n+len(piece)
	}
	return n, nil
}

func (w *blockWriter) put(piece []byte) error {
	w.e.mu.Lock()
	data := w.e.data
	w.e.mu.Unlock()
	if data == nil {
		return os.ErrClosed
	}
	// The kernel lets one write to a file at a time; who waits for it there
	// burns the processor that the other needs.
	w.e.writing.Lock()
	defer w.e.writing.Unlock()
	_, err := data.WriteAt(piece, w.off)
	if isFull(err) && w.room(w.left+w.e.blockBytes) {
		_, err = data.WriteAt(piece, w.off)
	}
	return err
}

// setState keeps the counts. Callers hold mu.
func (e *entry) setState(block int, now blockState) {
	was := e.states[block]
	if was == blockUnverified {
		e.unverified--
	}
	if was == blockMissing && now != blockMissing {
		e.present++
	}
	if was != blockMissing && now == blockMissing {
		e.present--
	}
	e.states[block] = now
}

// verify reads a claimed block that was recovered and says whether it is good.
func (e *entry) verify(block int, buf []byte) bool {
	e.mu.Lock()
	data, want := e.data, e.crcs[block]
	e.mu.Unlock()
	good := false
	if data != nil {
		_, err := data.ReadAt(buf, int64(block)*e.blockBytes)
		if errors.Is(err, os.ErrClosed) {
			return false // nothing is known of it
		}
		good = err == nil && checksum(buf) == want
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if good {
		e.setState(block, blockPresent)
		return true
	}
	if e.data == nil {
		return false
	}
	e.setState(block, blockMissing)
	e.setStray(block)
	if !e.dropped {
		_ = e.dir.journal.append(recordGone, 0, e.record.key, uint64(block), 0) // else it is found bad again
	}
	return false
}
