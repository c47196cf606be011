package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// verifyAtOnce is how many bytes Complete checks while its caller waits.
const verifyAtOnce = 64 << 20

// File is a lease on a cached file. It is safe for concurrent use until Close.
type File struct {
	store *Store
	e     *entry
	once  sync.Once
}

// Key of the file.
func (f *File) Key() Key { return f.e.key }

// Size of the whole file in bytes.
func (f *File) Size() int64 { return f.e.size }

// Blocks is how many blocks the file has; an empty file has none.
func (f *File) Blocks() int { return len(f.e.states) }

// BlockBytes is the size of all blocks but the last.
func (f *File) BlockBytes() int64 { return f.e.blockBytes }

// Missing lists the blocks of a range that are not there. Blocks from before a
// restart are checked first; one whose bytes are bad is missing from then on.
func (f *File) Missing(off, n int64) []int {
	e := f.e
	end := e.size
	if n < e.size-off {
		end = off + n
	}
	off = max(off, 0)
	if off >= end {
		return nil
	}
	var missing []int
	for block := int(off / e.blockBytes); block <= int((end-1)/e.blockBytes); block++ {
		if !f.Has(block) {
			missing = append(missing, block)
		}
	}
	return missing
}

// Has tells whether a block is there and verifies.
func (f *File) Has(block int) bool {
	e := f.e
	if block < 0 || block >= len(e.states) {
		return false
	}
	if !e.claim(block, func(s blockState) bool { return s != blockUnverified }) {
		return e.state(block) == blockPresent
	}
	defer e.free(block)
	buf, done := f.store.buffer(e.length(block))
	defer done()
	if e.verify(block, buf) {
		return true
	}
	if e.state(block) == blockMissing {
		f.store.mu.Lock()
		f.store.stats.BadBlocks++
		f.store.mu.Unlock()
		f.store.log.Warn("a cached block does not verify: it is fetched again", "key", e.key, "block", block)
		f.changed()
	}
	return false
}

// Checksum is the CRC-32C of a block's bytes as they were stored, for whoever
// passes them on; ok is false when the block is not there.
func (f *File) Checksum(block int) (crc uint32, ok bool) {
	e := f.e
	e.mu.Lock()
	defer e.mu.Unlock()
	if block < 0 || block >= len(e.states) || e.states[block] != blockPresent {
		return 0, false
	}
	return e.crcs[block], true
}

// Recheck reads a block again and tells whether it is still what was stored; one
// that is not is missing from then on.
func (f *File) Recheck(block int) bool {
	e := f.e
	e.mu.Lock()
	if block >= 0 && block < len(e.states) && e.states[block] == blockPresent {
		e.states[block] = blockUnverified
		e.unverified++
	}
	e.mu.Unlock()
	return f.Has(block)
}

// HasRange tells whether every block of a range is there.
func (f *File) HasRange(off, n int64) bool { return len(f.Missing(off, n)) == 0 }

// Complete tells whether every block is there and verifies. A large file from
// before a restart is verified in the background, and is not complete until then.
func (f *File) Complete() bool {
	e := f.e
	e.mu.Lock()
	whole, unverified := e.complete(), int64(e.unverified)*e.blockBytes
	e.mu.Unlock()
	switch {
	case !whole || unverified == 0:
		return whole
	case unverified <= verifyAtOnce:
		return f.HasRange(0, e.size)
	default:
		f.store.verifyLater(e)
		return false
	}
}

// Bitmap marks the blocks that are there and verified, lowest block first.
func (f *File) Bitmap() []byte {
	f.e.mu.Lock()
	defer f.e.mu.Unlock()
	return f.e.bitmap(blockPresent)
}

// WriteBlock stores a whole block. Writing a block again does nothing.
// ErrNoSpace when there is no room.
func (f *File) WriteBlock(block int, p []byte) error {
	if block >= 0 && block < f.Blocks() && int64(len(p)) != f.e.length(block) {
		return fmt.Errorf("write block %d of cached file %s: %d bytes are not a block of it", block, f.e.key, len(p))
	}
	return f.FillBlock(block, func(w io.Writer) error {
		_, err := w.Write(p)
		return err
	})
}

// FillBlock stores a whole block that fill writes from its beginning to its
// end, in pieces as they come: a piece that was just read is still in the
// processor's cache when it is checked and written. Room is reserved before
// fill is called, and only after it has returned does the block count as there.
// A block that is there already is not filled again. ErrNoSpace when there is
// no room. While one fills a block, others who want to fill it wait.
func (f *File) FillBlock(block int, fill func(w io.Writer) error) error {
	return f.fillBlock(block, 0, fill)
}

// Reserve takes room for a block whose bytes are still to come, for whoever must
// not keep others from filling it meanwhile. ErrNoSpace when there is none.
func (f *File) Reserve(block int) (*Room, error) {
	if block < 0 || block >= f.Blocks() {
		return nil, fmt.Errorf("reserve block %d of cached file %s: it has %d blocks", block, f.e.key, f.Blocks())
	}
	n := roundUp(f.e.length(block))
	if err := f.store.reserve(f.e, n); err != nil {
		return nil, fmt.Errorf("reserve block %d of cached file %s: %w", block, f.e.key, err)
	}
	return &Room{f: f, block: block, n: n}, nil
}

// Room is reserved for one block, until Write or Release. It is for one
// goroutine, and ends before its File does.
type Room struct {
	f     *File
	block int
	n     int64
}

// Write stores the whole block as WriteBlock does.
func (r *Room) Write(p []byte) error {
	n := r.n
	r.n = 0
	return r.f.fillBlock(r.block, n, func(w io.Writer) error {
		_, err := w.Write(p)
		return err
	})
}

// Release gives the room back, if nothing was written.
func (r *Room) Release() {
	if r.n > 0 {
		r.f.store.refund(r.f.e, r.n)
		r.n = 0
	}
}

func (f *File) fillBlock(block int, reserved int64, fill func(w io.Writer) error) error {
	e := f.e
	if block < 0 || block >= len(e.states) {
		return fmt.Errorf("write block %d of cached file %s: it has %d blocks", block, e.key, len(e.states))
	}
	if !e.claim(block, func(s blockState) bool { return s == blockPresent }) {
		f.store.refund(e, reserved)
		return nil
	}
	defer e.free(block)
	err := f.fill(block, reserved, fill)
	f.store.diskFull(e.dir, isFull(err))
	if isBroken(err) {
		f.store.mu.Lock()
		f.store.broken(e.dir, err)
		f.store.mu.Unlock()
	}
	if isFull(err) || isBroken(err) {
		err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	if err != nil {
		return fmt.Errorf("write block %d of cached file %s: %w", block, e.key, err)
	}
	f.changed()
	return nil
}

// isFull tells that the disk has no room, whatever the quota says.
func isFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// fill reserves what a claimed block takes beyond what is reserved for it, and
// has it written.
func (f *File) fill(block int, reserved int64, fill func(w io.Writer) error) error {
	e := f.e
	taken := func() int64 {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.states[block] != blockMissing {
			return roundUp(e.length(block))
		}
		return e.strays[block]
	}
	before := taken()
	cost := max(0, roundUp(e.length(block))-before)
	if cost <= reserved {
		f.store.refund(e, reserved-cost)
	} else if err := f.store.reserve(e, cost-reserved); err != nil {
		f.store.refund(e, reserved)
		return err
	}
	w := &blockWriter{e: e, off: int64(block) * e.blockBytes, left: e.length(block)}
	w.room = func(n int64) bool { return f.store.makeRoom(e.dir, n) }
	err := fill(w)
	if err == nil && w.left > 0 {
		err = fmt.Errorf("%w: %d bytes of it are missing", io.ErrShortWrite, w.left)
	}
	if err = e.settle(block, w.crc, err); err != nil {
		f.store.refund(e, before+cost-taken())
	}
	return err
}

// changed tells OnChange, unless the file has been dropped meanwhile.
func (f *File) changed() {
	f.e.mu.Lock()
	dropped := f.e.dropped
	f.e.mu.Unlock()
	if dropped {
		return
	}
	c, _ := f.e.change()
	f.store.onChange(c)
}

// ReadAt reads bytes of blocks that are there; asking for others is an error.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	e := f.e
	if off < 0 {
		return 0, fmt.Errorf("read cached file %s at %d: there is nothing before 0", e.key, off)
	}
	if off >= e.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), e.size-off)]
	if missing := f.Missing(off, int64(len(want))); len(missing) > 0 {
		return 0, fmt.Errorf("read cached file %s at %d: block %d is not there", e.key, off, missing[0])
	}
	e.mu.Lock()
	data := e.data
	e.mu.Unlock()
	if data == nil {
		return 0, os.ErrClosed
	}
	n, err := data.ReadAt(want, off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// Data is the cached file, for reading blocks that are there until Close.
// Whoever may read longer takes Dup.
func (f *File) Data() (*os.File, error) {
	f.e.mu.Lock()
	defer f.e.mu.Unlock()
	if f.e.data == nil {
		return nil, os.ErrClosed
	}
	return f.e.data, nil
}

// Dup gives a read-only descriptor of its own; the caller closes it. It reads
// right as long as only blocks that are there are read.
func (f *File) Dup() (*os.File, error) {
	f.e.mu.Lock()
	defer f.e.mu.Unlock()
	if f.e.data == nil {
		return nil, os.ErrClosed
	}
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", f.e.data.Fd()))
}

// Close ends the lease. A file that has no block by then is forgotten.
func (f *File) Close() error {
	f.once.Do(func() { f.store.unlease(f.e) })
	return nil
}

// verifyLater checks the recovered blocks of a file in the background.
func (s *Store) verifyLater(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || e.verifying || e.dropped {
		return
	}
	f, err := s.lease(e)
	if err != nil {
		return
	}
	e.verifying = true
	s.background.Go(func() {
		defer f.Close()
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			e.verifying = false
		}()
		select {
		case s.verifier <- struct{}{}:
		case <-s.stop:
			return
		}
		defer func() { <-s.verifier }()
		for block := range e.states {
			select {
			case <-s.stop:
				return
			default:
				f.Has(block)
			}
		}
	})
}

// buffer has n bytes, until done.
func (s *Store) buffer(n int64) (p []byte, done func()) {
	if n < s.blockBytes/4 || n > s.blockBytes {
		return make([]byte, n), func() {}
	}
	b := s.buffers.Get().(*[]byte)
	return (*b)[:n], func() { s.buffers.Put(b) }
}
