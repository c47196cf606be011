package store

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"os"
	"slices"
	"time"
)

// past is what a journal says of the files of its directory.
type past struct {
	ids   map[rawKey]uint32 // in files
	files []meta            // in the order in which they were named
	free  []uint32          // of files, that were dropped
	many  map[uint32][]blockRecord
	// dropped is the file of the last drop. All that were dropped before it are
	// gone from the disk, it perhaps not yet.
	dropped rawKey
	drops   bool
	// damaged: a record before the last does not verify.
	damaged bool
}

// meta is what a journal knows of one file. There may be millions: it has no
// pointer.
type meta struct {
	key              rawKey
	size, blockBytes int64
	// born is in Unix nanoseconds, 0 when it is not known. charged is what the
	// file takes on the disk.
	born, charged int64
	order         uint32 // that of its last block's record
	crc           uint32 // of the only block, if it has no more
	flags         byte
	there         bool // the only block
	lost          bool // it is forgotten
}

// blockRecord is what a journal says of a block: the CRC-32C of its bytes, or
// that it is gone.
type blockRecord struct {
	block, crc uint32
	gone       bool
}

// whole is what the blocks of the file take when all are there.
func (m *meta) whole() int64 {
	full := m.size / m.blockBytes
	return full*roundUp(m.blockBytes) + roundUp(m.size%m.blockBytes)
}

func (m *meta) count() int { return blockCount(m.size, m.blockBytes) }

func newPast(records int) *past {
	return &past{ids: make(map[rawKey]uint32, records/2), files: make([]meta, 0, records/2), many: map[uint32][]blockRecord{}}
}

// count is how many files there are.
func (p *past) count() int { return len(p.ids) }

// live goes over the files.
func (p *past) live() iter.Seq2[uint32, *meta] {
	return func(yield func(uint32, *meta) bool) {
		for i := range p.files {
			if m := &p.files[i]; !m.lost && !yield(uint32(i), m) {
				return
			}
		}
	}
}

// present counts the blocks of a file that are there.
func (p *past) present(id uint32) int {
	if m := &p.files[id]; m.there {
		return 1
	}
	return len(p.many[id])
}

// lose forgets a file.
func (p *past) lose(id uint32) {
	m := &p.files[id]
	delete(p.ids, m.key)
	delete(p.many, id)
	*m = meta{lost: true}
	p.free = append(p.free, id)
}

// name makes a file, or gives the one of a key if it is the same.
func (p *past) name(key rawKey, size, blockBytes int64) *meta {
	id, ok := p.ids[key]
	if ok && p.files[id].size == size && p.files[id].blockBytes == blockBytes {
		return &p.files[id]
	}
	switch {
	case ok:
		delete(p.many, id)
	case len(p.free) > 0:
		id, p.free = p.free[len(p.free)-1], p.free[:len(p.free)-1]
	default:
		id = uint32(len(p.files))
		p.files = append(p.files, meta{})
	}
	p.ids[key] = id
	p.files[id] = meta{key: key, size: size, blockBytes: blockBytes}
	return &p.files[id]
}

// block takes in a record of a block.
func (p *past) block(id uint32, b blockRecord) {
	m := &p.files[id]
	if m.count() == 1 {
		m.there, m.crc = !b.gone, b.crc
		return
	}
	p.many[id] = append(p.many[id], b)
}

// settle keeps the last word on each block.
func (p *past) settle() {
	for id, records := range p.many {
		slices.SortStableFunc(records, func(a, b blockRecord) int { return cmp.Compare(a.block, b.block) })
		kept := records[:0]
		for i, b := range records {
			if !b.gone && (i+1 == len(records) || records[i+1].block != b.block) {
				kept = append(kept, b)
			}
		}
		p.many[id] = kept
	}
}

// replay reads a journal of size bytes. Only what it does not begin as is an error.
func replay(in io.Reader, size int64) (*past, error) {
	p := newPast(int(min(size/recordBytes, 1<<24)))
	buffered := bufio.NewReaderSize(in, 1<<20)
	r := make([]byte, recordBytes)
	for at := uint32(0); ; at++ {
		if _, err := io.ReadFull(buffered, r); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			p.settle() // the last record may be torn
			return p, nil
		} else if err != nil {
			return nil, err
		}
		whole := checksum(r[:recordBytes-4]) == binary.LittleEndian.Uint32(r[recordBytes-4:])
		if at == 0 {
			if !whole || r[0] != recordFormat || string(r[4:20]) != formatName || binary.LittleEndian.Uint64(r[20:]) != formatVersion {
				return nil, errJournal
			}
			continue
		}
		if !whole {
			p.damaged = true
			continue
		}
		p.take(r, at)
	}
}

// take takes in one record that verifies.
func (p *past) take(r []byte, at uint32) {
	key, a, b := rawKey(r[4:20]), binary.LittleEndian.Uint64(r[20:]), binary.LittleEndian.Uint64(r[28:])
	id, known := p.ids[key]
	switch r[0] {
	case recordFile:
		size, blockBytes := int64(a), int64(b)
		if size < 0 || blockBytes <= 0 || size/blockBytes >= maxBlocks {
			p.damaged = true
			return
		}
		m := p.name(key, size, blockBytes)
		m.flags = r[1]
		if m.order == 0 {
			m.order = at
		}
	case recordBlock:
		if known && a < uint64(p.files[id].count()) {
			p.block(id, blockRecord{block: uint32(a), crc: uint32(b)})
			p.files[id].order = at
			if seconds := b >> 32; seconds > 0 {
				p.files[id].born = time.Unix(int64(seconds), 0).UnixNano()
			}
		}
	case recordGone:
		if known && a < uint64(p.files[id].count()) {
			p.block(id, blockRecord{block: uint32(a), gone: true})
		}
	case recordDrop:
		p.dropped, p.drops = key, true
		if known {
			p.lose(id)
		}
	}
}

// sorted gives the files, the longest unwritten first.
func (p *past) sorted() []uint32 {
	out := make([]uint32, 0, p.count())
	inOrder := true
	for id := range p.live() {
		inOrder = inOrder && (len(out) == 0 || p.before(out[len(out)-1], id) <= 0)
		out = append(out, id)
	}
	if !inOrder {
		slices.SortFunc(out, p.before)
	}
	return out
}

func (p *past) before(a, b uint32) int {
	return cmp.Or(cmp.Compare(p.files[a].born, p.files[b].born), cmp.Compare(p.files[a].order, p.files[b].order))
}

// records is how many say it all.
func (p *past) records() int {
	n := 2 + p.count()
	for id := range p.live() {
		n += p.present(id)
	}
	return n
}

// write writes a journal that says the same, and tells how many records it has.
// The last file that was dropped is named again, for its bytes may be there.
func (p *past) write(f *os.File) (records int, err error) {
	w := bufio.NewWriterSize(f, 1<<20)
	var buf []byte
	if p.count() > 0 || p.drops {
		buf = appendFormat(buf)
	}
	for _, id := range p.sorted() {
		buf = p.appendFile(buf, id)
		if len(buf) > 1<<16 {
			records += len(buf) / recordBytes
			if _, err := w.Write(buf); err != nil {
				return 0, err
			}
			buf = buf[:0]
		}
	}
	if p.drops {
		if _, again := p.ids[p.dropped]; !again {
			buf = appendRecord(buf, recordDrop, 0, p.dropped, 0, 0)
		}
	}
	if _, err := w.Write(buf); err != nil {
		return 0, err
	}
	return records + len(buf)/recordBytes, w.Flush()
}

func (p *past) appendFile(out []byte, id uint32) []byte {
	m := &p.files[id]
	out = appendRecord(out, recordFile, m.flags, m.key, uint64(m.size), uint64(m.blockBytes))
	born := time.Unix(0, m.born)
	if m.there {
		return appendRecord(out, recordBlock, 0, m.key, 0, stamped(m.crc, born))
	}
	for _, b := range p.many[id] {
		out = appendRecord(out, recordBlock, 0, m.key, uint64(b.block), stamped(b.crc, born))
	}
	return out
}

// blocks are those of a file of several that are there, none of them verified.
func (p *past) blocks(id uint32) blocks {
	m := &p.files[id]
	b := blocks{states: make([]blockState, m.count()), present: p.present(id), unverified: p.present(id)}
	if b.present > 0 {
		b.crcs = make([]uint32, len(b.states))
	}
	for _, one := range p.many[id] {
		b.states[one.block], b.crcs[one.block] = blockUnverified, one.crc
	}
	return b
}
