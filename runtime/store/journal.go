package store

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
)

// What the blocks of a directory's files are worth after a restart stands in
// its journal: records of one size, appended after the bytes they speak of. A
// process may be killed at any point; a record that does not verify is passed
// over, and what it said is a miss. The CRC of a block's bytes decides in the end.
//
//	kind 1 | flags 1 | zero 2 | key 16 | a 8 | b 8 | crc of the former 4
const (
	recordBytes = 40

	recordFormat = 'J' // the first record, unless there is none; a is the version
	recordFile   = 'F' // a file came or changed its flags; a is its size, b that of its blocks
	recordBlock  = 'B' // block a was written; b is the CRC of its bytes
	recordGone   = 'G' // block a was found bad
	recordDrop   = 'D' // the file was dropped

	flagGuest  = 1 << 0
	flagPinned = 1 << 1

	formatVersion = 1
	formatName    = "millrace journal" // the key of the first record

	// A journal is written anew when it has grown to this many records and to
	// this many times what it was at first.
	compactRecords = 1 << 20
	compactGrowth  = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

var errJournal = errors.New("not a journal of this version")

// meta is what the journal knows of one file.
type meta struct {
	size, blockBytes int64
	guest, pinned    bool
	// blocks that are there, the lowest first; while a journal is read, what it
	// says of them in its order.
	blocks []blockRecord
}

// blockRecord is what a journal says of a block: the CRC-32C of its bytes, or
// that it is gone.
type blockRecord struct {
	block, crc uint32
	gone       bool
}

func (m *meta) count() int { return blockCount(m.size, m.blockBytes) }

// settle keeps the last word on each block.
func (m *meta) settle() {
	if len(m.blocks) < 2 && (len(m.blocks) == 0 || !m.blocks[0].gone) {
		return
	}
	slices.SortStableFunc(m.blocks, func(a, b blockRecord) int { return cmp.Compare(a.block, b.block) })
	kept := m.blocks[:0]
	for i, b := range m.blocks {
		if !b.gone && (i+1 == len(m.blocks) || m.blocks[i+1].block != b.block) {
			kept = append(kept, b)
		}
	}
	m.blocks = kept
}

// rawKey is a Key in half the bytes and without a pointer.
type rawKey [16]byte

func (k rawKey) key() Key { return Key(hex.EncodeToString(k[:])) }

// raw is the reverse; ok is false for what is no key.
func (k Key) raw() (r rawKey, ok bool) {
	if !k.valid() {
		return r, false
	}
	_, err := hex.Decode(r[:], []byte(k))
	return r, err == nil
}

func blockCount(size, blockBytes int64) int {
	n := size / blockBytes
	if size%blockBytes != 0 {
		n++
	}
	return int(n)
}

// maxBlocks bounds what a damaged record can make the store allocate.
const maxBlocks = 1 << 30

// flagsOf are the flags of a file's record.
func flagsOf(guest, pinned bool) (flags byte) {
	if guest {
		flags |= flagGuest
	}
	if pinned {
		flags |= flagPinned
	}
	return flags
}

func appendRecord(out []byte, kind, flags byte, key Key, a, b uint64) []byte {
	start := len(out)
	out = append(out, kind, flags, 0, 0)
	if kind == recordFormat {
		out = append(out, key...)
	} else {
		out, _ = hex.AppendDecode(out, []byte(key)) // Key.valid
	}
	out = binary.LittleEndian.AppendUint64(out, a)
	out = binary.LittleEndian.AppendUint64(out, b)
	return binary.LittleEndian.AppendUint32(out, checksum(out[start:]))
}

func appendFormat(out []byte) []byte {
	return appendRecord(out, recordFormat, 0, formatName, formatVersion, 0)
}

func appendFile(out []byte, key Key, m *meta) []byte {
	out = appendRecord(out, recordFile, flagsOf(m.guest, m.pinned), key, uint64(m.size), uint64(m.blockBytes))
	for _, b := range m.blocks {
		out = appendRecord(out, recordBlock, 0, key, uint64(b.block), uint64(b.crc))
	}
	return out
}

// replay reads a journal. Only what it does not begin as is an error.
func replay(in io.Reader) (map[rawKey]*meta, error) {
	files := map[rawKey]*meta{}
	r := make([]byte, recordBytes)
	for first := true; ; first = false {
		if _, err := io.ReadFull(in, r); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			for _, m := range files {
				m.settle()
			}
			return files, nil // the last record may be torn
		} else if err != nil {
			return nil, err
		}
		whole := checksum(r[:recordBytes-4]) == binary.LittleEndian.Uint32(r[recordBytes-4:])
		kind, a, b := r[0], binary.LittleEndian.Uint64(r[20:]), binary.LittleEndian.Uint64(r[28:])
		if first {
			if !whole || kind != recordFormat || string(r[4:20]) != formatName || a != formatVersion {
				return nil, errJournal
			}
			continue
		}
		if !whole {
			continue
		}
		key := rawKey(r[4:20])
		m := files[key]
		switch kind {
		case recordFile:
			size, blockBytes := int64(a), int64(b)
			if size < 0 || blockBytes <= 0 || size/blockBytes >= maxBlocks {
				continue
			}
			if m == nil || m.size != size || m.blockBytes != blockBytes {
				m = &meta{size: size, blockBytes: blockBytes}
				files[key] = m
			}
			m.guest, m.pinned = r[1]&flagGuest != 0, r[1]&flagPinned != 0
		case recordBlock:
			if m != nil && a < uint64(m.count()) {
				m.blocks = append(m.blocks, blockRecord{block: uint32(a), crc: uint32(b)})
			}
		case recordGone:
			if m != nil && a < maxBlocks {
				m.blocks = append(m.blocks, blockRecord{block: uint32(a), gone: true})
			}
		case recordDrop:
			delete(files, key)
		}
	}
}

// journal is open for appending. Its mu comes after every other lock.
type journal struct {
	path string

	mu      sync.Mutex
	file    *os.File
	records int
	limit   int
}

// openJournal reads the journal at path, as empty if there is none or it is not
// one of this version, and writes it anew if much of it is past.
func openJournal(path string) (*journal, map[rawKey]*meta, error) {
	files := map[rawKey]*meta{}
	old, err := os.Open(path)
	switch {
	case err == nil:
		defer old.Close()
		if files, err = replay(bufio.NewReaderSize(old, 1<<20)); errors.Is(err, errJournal) {
			files = map[rawKey]*meta{}
		} else if err != nil {
			return nil, nil, fmt.Errorf("read %s: %w", path, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, nil, err
	}
	j := &journal{path: path}
	worth := 1
	for _, m := range files {
		worth += 1 + len(m.blocks)
	}
	if st, statErr := os.Stat(path); statErr == nil && len(files) > 0 && st.Size() <= int64(worth+worth/2)*recordBytes {
		err = j.reopen(max(compactRecords, compactGrowth*worth))
	} else if err = j.rewrite(files); isFull(err) && len(files) > 0 {
		err = j.reopen(1 << 62) // there is no room for another
	}
	if err != nil {
		return nil, nil, fmt.Errorf("write %s: %w", path, err)
	}
	return j, files, nil
}

// reopen goes on with the journal as it is, until it has limit records.
func (j *journal) reopen(limit int) error {
	f, err := os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil {
		j.file, j.records, j.limit = f, int(st.Size()/recordBytes), limit
		err = f.Truncate(int64(j.records) * recordBytes)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	return nil
}

// rewrite replaces the journal by one that says no more than files. Callers
// hold mu or are alone.
func (j *journal) rewrite(files map[rawKey]*meta) error {
	temp := j.path + ".tmp"
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	records := 0
	w := bufio.NewWriterSize(f, 1<<20)
	if len(files) > 0 {
		records, err = 1, writeAll(w, appendFormat(nil))
	}
	var buf []byte
	for key, m := range files {
		if err != nil {
			break
		}
		buf = appendFile(buf[:0], key.key(), m)
		records += len(buf) / recordBytes
		err = writeAll(w, buf)
	}
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = os.Rename(temp, j.path)
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(temp))
	}
	if j.file != nil {
		_ = j.file.Close() // it has been replaced
	}
	j.file, j.records, j.limit = f, records, max(compactRecords, compactGrowth*records)
	return nil
}

func writeAll(w io.Writer, p []byte) error {
	_, err := w.Write(p)
	return err
}

// append adds one record, and before the first the format. A torn one, when the
// disk is full, is cut off again: those that follow must stand at a multiple of
// their size.
func (j *journal) append(kind, flags byte, key Key, a, b uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return os.ErrClosed
	}
	out := make([]byte, 0, 2*recordBytes)
	if j.records == 0 {
		out = appendFormat(out)
	}
	out = appendRecord(out, kind, flags, key, a, b)
	if n, err := j.file.Write(out); err != nil {
		if n > 0 {
			err = errors.Join(err, j.file.Truncate(int64(j.records)*recordBytes))
		}
		return err
	}
	j.records += len(out) / recordBytes
	if j.records >= j.limit {
		j.limit *= 2 // if it cannot be done, later
		j.compact()
	}
	return nil
}

// clear empties the journal of a directory without files.
func (j *journal) clear() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return os.ErrClosed
	}
	if err := j.file.Truncate(0); err != nil {
		return err
	}
	j.records = 0
	return nil
}

// compact is best effort: a journal that stays long is still right.
func (j *journal) compact() {
	old, err := os.Open(j.path)
	if err != nil {
		return
	}
	defer old.Close()
	if files, err := replay(bufio.NewReaderSize(old, 1<<20)); err == nil {
		_ = j.rewrite(files)
	}
}

func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	return err
}
