package store

import "iter"

// record is a cached file in the index. There may be millions, so it holds no
// pointer, and what only an open file needs is in its entry. The Store's mu
// guards it.
type record struct {
	key  rawKey
	size int64
	// charged is what the file takes on the disk, and part of its directory's used.
	charged int64
	// born is when it came into the cache, used when it was leased last, in Unix
	// nanoseconds.
	born, used int64
	// crc is what the only block must have, while isPlain.
	crc uint32
	// prev and next are its neighbours among the guests that may go; next is also
	// the next record that is free.
	prev, next uint32
	hits       uint8 // leases since it came to its directory, or the most that fit
	dir        uint8 // of Store.dirs
	unit       uint8 // of index.units: bytes of a block
	marks      marks
}

type marks uint8

const (
	isLive    marks = 1 << iota // it is in the index
	isGuest                     // this worker owns none of its bytes: it goes first
	isPinned                    // nothing evicts it
	isIdle                      // it is in the queue of its directory's guests
	isOld                       // it is from before a restart and was not opened since
	isPlain                     // it has at most one block and no strays, and no pointer in index.many
	hasBlock                    // its only block is there, while isPlain
	isDoubted                   // and is still to be verified
)

func (r *record) is(m marks) bool { return r.marks&m == m }

func (r *record) set(m marks, on bool) {
	if on {
		r.marks |= m
	} else {
		r.marks &^= m
	}
}

func (r *record) hit() {
	if r.hits < 1<<8-1 {
		r.hits++
	}
}

const (
	chunkRecords = 1 << 12
	// maxUnits and maxDirs are what a record can tell apart.
	maxUnits, maxDirs = 1 << 8, 1 << 8
)

// index has the records of all cached files, in chunks that never move. A
// record is named by its number; 0 is none.
type index struct {
	ids    map[rawKey]uint32
	chunks []*[chunkRecords]record
	last   uint32 // the largest number given out
	free   uint32 // the first of the records that are free
	units  []int64
	many   map[uint32]*blocks // of the files that are not plain
}

// grow makes room for n more files.
func (x *index) grow(n int) {
	if len(x.ids) == 0 {
		x.ids, x.many = make(map[rawKey]uint32, n), map[uint32]*blocks{}
	}
}

func (x *index) at(id uint32) *record { return &x.chunks[id/chunkRecords][id%chunkRecords] }

// unit is the number of a size of blocks; ok is false when there are too many.
func (x *index) unit(blockBytes int64) (unit uint8, ok bool) {
	for i, u := range x.units {
		if u == blockBytes {
			return uint8(i), true
		}
	}
	if len(x.units) == maxUnits {
		return 0, false
	}
	x.units = append(x.units, blockBytes)
	return uint8(len(x.units) - 1), true
}

// add makes a record, which is plain and has no block.
func (x *index) add(key rawKey) (uint32, *record) {
	id := x.free
	if id == 0 {
		x.last++
		id = x.last
		if int(id/chunkRecords) == len(x.chunks) {
			x.chunks = append(x.chunks, new([chunkRecords]record))
		}
	} else {
		x.free = x.at(id).next
	}
	r := x.at(id)
	*r = record{key: key, marks: isLive | isPlain}
	x.ids[key] = id
	return id, r
}

// hide takes a record out of the index; it keeps its number until release.
func (x *index) hide(id uint32) {
	r := x.at(id)
	if x.ids[r.key] == id {
		delete(x.ids, r.key)
	}
	r.set(isLive, false)
}

// release gives the number of a hidden record free.
func (x *index) release(id uint32) {
	delete(x.many, id)
	*x.at(id) = record{next: x.free}
	x.free = id
}

// all goes over the records with numbers above after, in their order.
func (x *index) all(after uint32) iter.Seq2[uint32, *record] {
	return func(yield func(uint32, *record) bool) {
		for id := after + 1; id <= x.last && id != 0; id++ {
			if r := x.at(id); r.is(isLive) && !yield(id, r) {
				return
			}
		}
	}
}

// blocks are the states of a file's blocks.
type blocks struct {
	states []blockState
	// present counts blocks that are not blockMissing, unverified those of them
	// that nobody has looked at since a restart; crcs has what the blocks that
	// are there must be, nil while there are none.
	present, unverified int
	crcs                []uint32
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

// complete tells that every block is there, verified or not.
func (b *blocks) complete() bool { return b.present == len(b.states) }

// bitmap marks the blocks that are at least as far as min.
func (b *blocks) bitmap(min blockState) []byte {
	out := make([]byte, (len(b.states)+7)/8)
	for i, state := range b.states {
		if state >= min {
			out[i/8] |= 1 << (i % 8)
		}
	}
	return out
}

// blocksOf gives the states of a record's blocks.
func (x *index) blocksOf(id uint32) blocks {
	if b := x.many[id]; b != nil {
		return *b
	}
	r := x.at(id)
	b := blocks{states: make([]blockState, blockCount(r.size, x.units[r.unit]))}
	if r.is(hasBlock) {
		b.states[0], b.crcs, b.present = blockPresent, []uint32{r.crc}, 1
		if r.is(isDoubted) {
			b.states[0], b.unverified = blockUnverified, 1
		}
	}
	return b
}

// keep is the reverse of blocksOf.
func (x *index) keep(id uint32, b blocks) {
	r := x.at(id)
	r.set(isPlain|hasBlock|isDoubted, false)
	if len(b.states) > 1 || len(b.strays) > 0 {
		x.many[id] = &b
		return
	}
	delete(x.many, id)
	r.set(isPlain, true)
	if b.present == 1 {
		r.crc = b.crcs[0]
		r.set(hasBlock, true)
		r.set(isDoubted, b.unverified == 1)
	}
}

// isWhole tells that every block of a file is there, verified or not.
func (x *index) isWhole(id uint32) bool {
	if b := x.many[id]; b != nil {
		return b.complete()
	}
	r := x.at(id)
	return r.size == 0 || r.is(hasBlock)
}

// isVerified tells that no block is still to be verified.
func (x *index) isVerified(id uint32) bool {
	if b := x.many[id]; b != nil {
		return b.unverified == 0
	}
	return !x.at(id).is(isDoubted)
}

// change describes a file that nobody leases.
func (x *index) change(id uint32) (c Change, ok bool) {
	r := x.at(id)
	c = Change{Key: r.key.key(), Size: r.size, Complete: x.isWhole(id)}
	if b := x.many[id]; b != nil && !c.Complete {
		c.Bitmap = b.bitmap(blockUnverified)
		return c, b.present > 0
	}
	return c, c.Complete
}

// queue is a list of records, the longest waiting first.
type queue struct {
	x           *index
	front, back uint32
}

func (q *queue) push(id uint32) {
	r := q.x.at(id)
	r.prev, r.next = q.back, 0
	if q.back == 0 {
		q.front = id
	} else {
		q.x.at(q.back).next = id
	}
	q.back = id
}

func (q *queue) remove(id uint32) {
	r := q.x.at(id)
	if r.prev == 0 {
		q.front = r.next
	} else {
		q.x.at(r.prev).next = r.next
	}
	if r.next == 0 {
		q.back = r.prev
	} else {
		q.x.at(r.next).prev = r.prev
	}
	r.prev, r.next = 0, 0
}
