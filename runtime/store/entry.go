package store

import (
	"container/list"
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

// entry is a cached file in the index.
type entry struct {
	dir        *directory
	key        Key
	size       int64
	blockBytes int64

	// The Store's mu guards these.
	guest     bool
	pinned    bool
	doomed    bool      // a policy chose it while it was leased
	born      time.Time // when it came into the cache
	used      time.Time // when it was leased last
	hits      int       // leases since it came to its directory
	leases    int
	idle      *list.Element // in dir.guests, while it is a guest that nobody leases
	charged   int64         // part of dir.used
	promised  int64         // part of dir.promised, while it is leased
	recovered bool          // not leased yet since a restart
	verifying bool          // in the background

	// dropped is written with both mu held and read with either.
	dropped bool

	// writing is held while bytes are written. It comes before the Store's mu.
	writing sync.Mutex

	// mu guards these. It comes after the Store's mu.
	mu     sync.Mutex
	data   *os.File // while it is leased
	blocks []blockState
	// present counts blocks that are not blockMissing, unverified those of them
	// that nobody has looked at since a restart; crcs has what the blocks that
	// are there must be, nil while there are none.
	present, unverified int
	crcs                []uint32
	// busy has a block while somebody writes or verifies it; it is closed then.
	busy map[int]chan struct{}
	// strays are the bytes on disk, already charged, of blocks that are not
	// there: a write that was cut short, or bytes that do not verify.
	strays map[int]int64
}

type blockState uint8

const (
	blockMissing blockState = iota
	// blockUnverified: it was there before a restart; its CRC is still to be checked.
	blockUnverified
	blockPresent
)

func newEntry(d *directory, key Key, size, blockBytes int64, guest bool) *entry {
	return &entry{dir: d, key: key, size: size, blockBytes: blockBytes, guest: guest, blocks: make([]blockState, blockCount(size, blockBytes))}
}

func recoveredEntry(d *directory, key Key, m *meta, charged int64) *entry {
	e := newEntry(d, key, m.size, m.blockBytes, m.guest)
	e.charged, e.recovered, e.pinned = charged, true, m.pinned
	e.present, e.unverified = len(m.blocks), len(m.blocks)
	if e.unverified > 0 {
		e.crcs = make([]uint32, len(e.blocks))
	}
	for _, b := range m.blocks {
		e.blocks[b.block], e.crcs[b.block] = blockUnverified, b.crc
	}
	return e
}

// open opens the data for the first lease.
func (e *entry) open() error {
	f, err := os.OpenFile(e.dir.file(e.key), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.data = f
	if e.recovered {
		e.recovered = false
		e.findStrays()
	}
	return nil
}

// findStrays looks for bytes that a killed writer left behind. Callers hold mu.
func (e *entry) findStrays() {
	extra := e.charged
	for block, state := range e.blocks {
		if state != blockMissing {
			extra -= roundUp(e.length(block))
		}
	}
	for block := 0; block < len(e.blocks) && extra > 0; block++ {
		if e.blocks[block] == blockMissing {
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

// flags of e's record. Callers hold the Store's mu.
func (e *entry) flags() byte { return flagsOf(e.guest, e.pinned) }

// change describes e for OnChange; ok is false when it has no bytes to speak of.
func (e *entry) change() (c Change, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c = Change{Key: e.key, Size: e.size, Complete: e.present == len(e.blocks)}
	if !c.Complete {
		c.Bitmap = e.bitmap(blockUnverified)
	}
	return c, e.present > 0 || c.Complete
}

// bitmap marks the blocks that are at least as far as min. Callers hold mu.
func (e *entry) bitmap(min blockState) []byte {
	out := make([]byte, (len(e.blocks)+7)/8)
	for i, b := range e.blocks {
		if b >= min {
			out[i/8] |= 1 << (i % 8)
		}
	}
	return out
}

// length is the size of a block; the last one may be shorter.
func (e *entry) length(block int) int64 {
	return min(e.blockBytes, e.size-int64(block)*e.blockBytes)
}

func (e *entry) state(block int) blockState {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.blocks[block]
}

// claim makes the caller the only one who works on a block, until free. It is
// false when, perhaps after waiting for others, the block is settled.
func (e *entry) claim(block int, settled func(blockState) bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		if settled(e.blocks[block]) {
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
		err = e.dir.journal.append(recordBlock, 0, e.key, uint64(block), uint64(crc))
	}
	if err != nil {
		e.setStray(block)
		return err
	}
	if e.crcs == nil {
		e.crcs = make([]uint32, len(e.blocks))
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
	was := e.blocks[block]
	if was == blockUnverified {
		e.unverified--
	}
	if was == blockMissing && now != blockMissing {
		e.present++
	}
	if was != blockMissing && now == blockMissing {
		e.present--
	}
	e.blocks[block] = now
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
		_ = e.dir.journal.append(recordGone, 0, e.key, uint64(block), 0) // else it is found bad again
	}
	return false
}
