package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// diskUnit is what a file's size on disk is counted in.
const diskUnit = 4096

func roundUp(n int64) int64 { return (n + diskUnit - 1) / diskUnit * diskUnit }

// entry is a cached file in the index. The Store's mu guards the accounts
// (leases, lastUse, charged, dropped, guest); its own mu guards the blocks.
type entry struct {
	dir        *directory
	key        Key
	size       int64
	blockBytes int64

	guest   bool
	leases  int
	lastUse int64
	charged int64
	dropped bool

	mu     sync.Mutex
	blocks []blockState
	// present counts blocks that are not blockMissing.
	present int
	data    *os.File
	meta    *os.File
	// crcs of recovered blocks that nobody has looked at yet.
	crcs map[int]uint32
}

type blockState uint8

const (
	blockMissing blockState = iota
	// blockUnverified: it was there before a restart; its CRC is still to be checked.
	blockUnverified
	blockPresent
)

func createEntry(d *directory, key Key, size, blockBytes int64, guest bool) (*entry, error) {
	path := d.file(key)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	meta, err := os.OpenFile(path+metaSuffix, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	e := &entry{dir: d, key: key, size: size, blockBytes: blockBytes, guest: guest, meta: meta, blocks: make([]blockState, blockCount(size, blockBytes))}
	if _, err := meta.Write(encodeHeader(size, blockBytes, guest)); err != nil {
		return nil, errors.Join(err, e.unlink(), e.close())
	}
	if e.data, err = os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o644); err != nil {
		return nil, errors.Join(err, e.unlink(), e.close())
	}
	// Its size first: the file stays sparse, and tmpfs can choose huge pages.
	if err := e.data.Truncate(size); err != nil {
		return nil, errors.Join(err, e.unlink(), e.close())
	}
	return e, nil
}

func recoverEntry(d *directory, key Key) (*entry, error) {
	if !key.valid() {
		return nil, errMeta
	}
	path := d.file(key)
	raw, err := os.ReadFile(path + metaSuffix)
	if err != nil {
		return nil, err
	}
	m, err := decodeMeta(raw)
	if err != nil {
		return nil, err
	}
	data, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(data.Fd()), &st); err != nil || st.Size != m.size {
		data.Close()
		return nil, fmt.Errorf("%w: the file has %d bytes, not %d", errMeta, st.Size, m.size)
	}
	e := &entry{dir: d, key: key, size: m.size, blockBytes: m.blockBytes, guest: m.guest, charged: st.Blocks * 512, data: data,
		blocks: make([]blockState, m.count()), present: len(m.blocks), crcs: map[int]uint32{}}
	for block, crc := range m.blocks {
		e.blocks[block], e.crcs[int(block)] = blockUnverified, crc
	}
	// A torn record at the end would hide those that are appended after it.
	if e.meta, err = rewriteMeta(path+metaSuffix, m); err != nil {
		data.Close()
		return nil, err
	}
	return e, nil
}

// rewriteMeta opens the log for appending; one that does not end cleanly is
// written anew beside it and renamed over it.
func rewriteMeta(path string, m meta) (*os.File, error) {
	want := encodeHeader(m.size, m.blockBytes, m.guest)
	for block, crc := range m.blocks {
		want = appendRecord(want, block, crc)
	}
	if st, err := os.Stat(path); err != nil || st.Size() != int64(len(want)) {
		if err := os.WriteFile(path+".tmp", want, 0o644); err != nil {
			return nil, err
		}
		if err := os.Rename(path+".tmp", path); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
}

func (e *entry) unlink() error {
	path := e.dir.file(e.key)
	var errs []error
	for _, p := range []string{path + metaSuffix, path} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (e *entry) close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var errs []error
	for _, f := range []*os.File{e.data, e.meta} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	e.data, e.meta = nil, nil
	return errors.Join(errs...)
}

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
func (f *File) Blocks() int { return len(f.e.blocks) }

// BlockBytes is the size of all blocks but the last.
func (f *File) BlockBytes() int64 { return f.e.blockBytes }

// Missing lists the blocks of a range that are not there. Blocks from before a
// restart are checked first; one whose bytes are bad is missing from then on.
func (f *File) Missing(off, n int64) []int {
	e := f.e
	if n <= 0 || off >= e.size {
		return nil
	}
	first, last := int(off/e.blockBytes), int((min(off+n, e.size)-1)/e.blockBytes)
	var missing []int
	for block := first; block <= last; block++ {
		if !f.Has(block) {
			missing = append(missing, block)
		}
	}
	return missing
}

// Has tells whether a block is there and verifies.
func (f *File) Has(block int) bool {
	e := f.e
	e.mu.Lock()
	state := e.blocks[block]
	if state != blockUnverified {
		e.mu.Unlock()
		return state == blockPresent
	}
	good := e.verify(block)
	e.mu.Unlock()
	if !good {
		f.store.log.Warn("a cached block does not verify after a restart: fetching it again", "key", e.key, "block", block)
		f.changed()
	}
	return good
}

// verify checks a recovered block and says whether it is good. Callers hold mu.
func (e *entry) verify(block int) bool {
	buf := make([]byte, e.length(block))
	if e.data != nil {
		if _, err := e.data.ReadAt(buf, int64(block)*e.blockBytes); err == nil && checksum(buf) == e.crcs[block] {
			e.blocks[block] = blockPresent
			delete(e.crcs, block)
			return true
		}
	}
	e.blocks[block] = blockMissing
	e.present--
	delete(e.crcs, block)
	if e.meta != nil {
		_, _ = e.meta.Write(appendRecord(nil, uint32(block)|blockGone, 0)) // else it is found bad again
	}
	return false
}

// HasRange tells whether every block of a range is there.
func (f *File) HasRange(off, n int64) bool { return len(f.Missing(off, n)) == 0 }

// Complete tells whether every block is there and verifies.
func (f *File) Complete() bool {
	e := f.e
	e.mu.Lock()
	whole, checked := e.present == len(e.blocks), len(e.crcs) == 0
	e.mu.Unlock()
	return whole && (checked || f.HasRange(0, e.size))
}

// Bitmap marks the blocks that are there and verified, lowest block first.
func (f *File) Bitmap() []byte {
	f.e.mu.Lock()
	defer f.e.mu.Unlock()
	return f.e.bitmap(blockPresent)
}

// WriteBlock stores a whole block: room is reserved, the bytes are written, and
// only then the block counts as there. Writing a block again does nothing.
// ErrNoSpace when there is no room.
func (f *File) WriteBlock(block int, p []byte) error {
	e := f.e
	if block < 0 || block >= len(e.blocks) || int64(len(p)) != e.length(block) {
		return fmt.Errorf("write block %d of cached file %s: %d bytes are not a block of it", block, e.key, len(p))
	}
	e.mu.Lock()
	there := e.blocks[block] == blockPresent
	e.mu.Unlock()
	if there {
		return nil
	}
	cost := roundUp(int64(len(p)))
	evicted, err := f.store.reserve(e, cost)
	for _, gone := range evicted {
		f.store.onChange(Change{Key: gone.key, Size: gone.size, Dropped: true})
	}
	if err != nil {
		return fmt.Errorf("write block %d of cached file %s: %w", block, e.key, err)
	}
	wrote, err := e.write(block, p)
	if !wrote {
		f.store.refund(e, cost)
	}
	if err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			err = fmt.Errorf("%w: %w", ErrNoSpace, err)
		}
		return fmt.Errorf("write block %d of cached file %s: %w", block, e.key, err)
	}
	if wrote {
		f.changed()
	}
	return nil
}

// write puts the bytes down, then their record, then marks the block. wrote is
// false when nothing was added to the disk.
func (e *entry) write(block int, p []byte) (wrote bool, err error) {
	e.mu.Lock()
	data := e.data
	there := e.blocks[block] == blockPresent
	e.mu.Unlock()
	if data == nil {
		return false, os.ErrClosed
	}
	if there {
		return false, nil
	}
	// Outside the lock: writers of one block are single-flight at the worker,
	// and two would write the same bytes.
	if _, err := data.WriteAt(p, int64(block)*e.blockBytes); err != nil {
		return false, err
	}
	crc := checksum(p)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.blocks[block] == blockPresent {
		return false, nil
	}
	if e.meta == nil {
		return false, os.ErrClosed
	}
	if _, err := e.meta.Write(appendRecord(nil, uint32(block), crc)); err != nil {
		return false, err
	}
	if e.blocks[block] == blockMissing {
		e.present++
	}
	e.blocks[block] = blockPresent
	delete(e.crcs, block)
	return true, nil
}

// changed tells OnChange, unless the file has been dropped meanwhile.
func (f *File) changed() {
	f.store.mu.Lock()
	dropped := f.e.dropped
	f.store.mu.Unlock()
	if dropped {
		return
	}
	c, _ := f.e.change()
	f.store.onChange(c)
}

// ReadAt reads bytes of blocks that are there; asking for others is an error.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	e := f.e
	if off >= e.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), e.size-off)]
	if missing := f.Missing(off, int64(len(want))); len(missing) > 0 {
		return 0, fmt.Errorf("read cached file %s at %d: block %d is not there", e.key, off, missing[0])
	}
	n, err := e.data.ReadAt(want, off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
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

// Close ends the lease.
func (f *File) Close() error {
	f.once.Do(func() {
		s := f.store
		s.mu.Lock()
		defer s.mu.Unlock()
		f.e.leases--
		if f.e.dropped && f.e.leases == 0 {
			s.release(f.e)
		}
	})
	return nil
}
