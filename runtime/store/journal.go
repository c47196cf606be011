package store

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"
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
	recordBlock  = 'B' // block a was written; b is the CRC of its bytes, and above it when
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

	tempSuffix = ".tmp"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

var errJournal = errors.New("not a journal of this version")

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

// stamped is what a block's record says: its CRC, and above it when it was
// written, in Unix seconds; 0, of a former process, is unknown.
func stamped(crc uint32, at time.Time) uint64 { return uint64(crc) | uint64(uint32(at.Unix()))<<32 }

func appendRecord(out []byte, kind, flags byte, key rawKey, a, b uint64) []byte {
	start := len(out)
	out = append(out, kind, flags, 0, 0)
	out = append(out, key[:]...)
	out = binary.LittleEndian.AppendUint64(out, a)
	out = binary.LittleEndian.AppendUint64(out, b)
	return binary.LittleEndian.AppendUint32(out, checksum(out[start:]))
}

func appendFormat(out []byte) []byte {
	return appendRecord(out, recordFormat, 0, rawKey([]byte(formatName)), formatVersion, 0)
}

// journal is open for appending. Its mu comes after every other lock.
type journal struct {
	path string

	mu      sync.Mutex
	file    *os.File
	records int
	limit   int
	cleared int // how often
}

// openJournal reads the journal at path, as empty if there is none or it is not
// one of this version, and writes it anew if much of it is past.
func openJournal(path string) (*journal, *past, error) {
	old, size, err := openPast(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, err)
	}
	j := &journal{path: path}
	worth := old.records()
	if old.count() > 0 && size <= int64(worth+worth/2)*recordBytes {
		err = j.reopen(max(compactRecords, compactGrowth*worth))
	} else if err = j.replace(old, 0); isFull(err) && old.count() > 0 {
		err = j.reopen(1 << 62) // there is no room for another
	}
	if err != nil {
		return nil, nil, fmt.Errorf("write %s: %w", path, err)
	}
	return j, old, nil
}

// openPast reads what a journal says; size is that of its file.
func openPast(path string) (_ *past, size int64, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newPast(0), 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	p, err := replay(f, st.Size())
	if errors.Is(err, errJournal) {
		return newPast(0), st.Size(), nil
	}
	return p, st.Size(), err
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

// replace writes a journal that says no more than p, and after that the records
// of the present one from number from on. Callers hold mu or are alone; p may
// have been read without it.
func (j *journal) replace(p *past, from int) error {
	temp := j.path + tempSuffix
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	records, err := p.write(f)
	if err == nil && j.file != nil {
		err = j.copyTail(f, from)
		records += j.records - from
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

// copyTail appends the records from number from on to f.
func (j *journal) copyTail(f *os.File, from int) error {
	old, err := os.Open(j.path)
	if err != nil {
		return err
	}
	defer old.Close()
	n := int64(j.records-from) * recordBytes
	_, err = io.Copy(f, io.NewSectionReader(old, int64(from)*recordBytes, n))
	return err
}

// append adds one record, and before the first the format.
func (j *journal) append(kind, flags byte, key rawKey, a, b uint64) error {
	return j.appendAll(appendRecord(make([]byte, 0, recordBytes), kind, flags, key, a, b))
}

// appendAll adds whole records. A torn one, when the disk is full, is cut off
// again: those that follow must stand at a multiple of their size.
func (j *journal) appendAll(records []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return os.ErrClosed
	}
	if j.records == 0 {
		records = append(appendFormat(nil), records...)
	}
	if n, err := j.file.Write(records); err != nil {
		if n > 0 {
			err = errors.Join(err, j.file.Truncate(int64(j.records)*recordBytes))
		}
		return err
	}
	j.records += len(records) / recordBytes
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
	j.records, j.cleared = 0, j.cleared+1
	return nil
}

// compact writes a journal that has grown anew. It is best effort: one that
// stays long is still right. What it says until now is read without the lock,
// so nobody waits but for the copy.
func (j *journal) compact() {
	j.mu.Lock()
	records, cleared := j.records, j.cleared
	long := j.file != nil && records >= j.limit
	if long {
		j.limit *= 2 // if it cannot be done, later
	}
	j.mu.Unlock()
	if !long {
		return
	}
	f, err := os.Open(j.path)
	if err != nil {
		return
	}
	defer f.Close()
	size := int64(records) * recordBytes
	p, err := replay(io.LimitReader(f, size), size)
	if err != nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file != nil && j.cleared == cleared {
		_ = j.replace(p, records)
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
