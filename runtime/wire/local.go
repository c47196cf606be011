package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// The local protocol runs over a Unix socket of type SOCK_SEQPACKET: every
// packet is one message, and a descriptor travels with the message it belongs
// to. A connection carries any number of requests and handles at once; answers
// come in any order and name the request by its id. Each message is this
// header, little-endian, and a body:
//
//	0  version, now 1
//	1  kind
//	2  status u16 (answers)
//	4  id u32
//	8  handle u64
//	16 offset u64 (ensure)
//	24 n u64 (open: fetch so many bytes first; ensure: the length; opened: bytes of a block)
//
// The body is the Object of an open, the bitmap of an opened (none: the file is
// complete, or too large for a bitmap and flagged so by kindOpenedBlind), the
// words of a status that is not OK.
const (
	localVersion = 1
	localHeader  = 32
	// maxLocal bounds a packet. Its bitmap covers files of 1 TiB.
	maxLocal = localHeader + 32<<10
	// minLocalBlock and maxBitmap bound what a client keeps of a file.
	minLocalBlock = 4 << 10
	maxBitmap     = 64 << 20
)

type kind uint8

const (
	kindOpen kind = 1 + iota
	kindEnsure
	kindClose // has no answer
	kindWorking
	kindOpened         // with a descriptor, and the bitmap as body
	kindOpenedComplete // with a descriptor
	kindOpenedBlind    // with a descriptor; which blocks are there is not told
	kindEnsured
	kindFailed
	kindHello // asks for a hello
)

type message struct {
	kind   kind
	status wirepb.Status
	id     uint32
	handle uint64
	off, n int64
	body   []byte
}

var errLocal = errors.New("not a message of the local protocol")

func (m message) append(b []byte) []byte {
	b = append(b, localVersion, byte(m.kind))
	b = binary.LittleEndian.AppendUint16(b, uint16(m.status))
	b = binary.LittleEndian.AppendUint32(b, m.id)
	b = binary.LittleEndian.AppendUint64(b, m.handle)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.off))
	b = binary.LittleEndian.AppendUint64(b, uint64(m.n))
	return append(b, m.body...)
}

// parseMessage decodes a packet; the body is part of b.
func parseMessage(b []byte) (message, error) {
	if len(b) < localHeader || len(b) > maxLocal || b[0] != localVersion {
		return message{}, errLocal
	}
	m := message{
		kind:   kind(b[1]),
		status: wirepb.Status(binary.LittleEndian.Uint16(b[2:])),
		id:     binary.LittleEndian.Uint32(b[4:]),
		handle: binary.LittleEndian.Uint64(b[8:]),
		off:    int64(binary.LittleEndian.Uint64(b[16:])),
		n:      int64(binary.LittleEndian.Uint64(b[24:])),
		body:   b[localHeader:],
	}
	if m.off < 0 || m.n < 0 {
		return message{}, errLocal
	}
	return m, nil
}

// parseOpen decodes the Object of an open.
func parseOpen(m message) (*wirepb.Object, error) {
	o := &wirepb.Object{}
	if err := proto.Unmarshal(m.body, o); err != nil {
		return nil, fmt.Errorf("%w: %w", errLocal, err)
	}
	if o.GetSize() < 0 || o.GetKey() != ObjectKey(o) {
		return nil, fmt.Errorf("%w: the key is not that of the object", errLocal)
	}
	return o, nil
}

// Bitmap says which blocks of a file are there, lowest bit first.
type Bitmap []byte

// BitmapBytes is the length of the bitmap of a file.
func BitmapBytes(size, block int64) int64 {
	n := blocksOf(size, block)
	return n/8 + min(1, n%8)
}

// blocksOf is how many blocks a file has; the last may be shorter.
func blocksOf(size, block int64) int64 { return size/block + min(1, size%block) }

// Has tells whether block i is there.
func (b Bitmap) Has(i int64) bool { return i>>3 < int64(len(b)) && b[i>>3]&(1<<(i&7)) != 0 }

// Set marks block i.
func (b Bitmap) Set(i int64) { b[i>>3] |= 1 << (i & 7) }

// Full tells whether the first n blocks are there.
func (b Bitmap) Full(n int64) bool {
	for _, eight := range b[:n/8] {
		if eight != 0xff {
			return false
		}
	}
	return n%8 == 0 || b[n/8]&(1<<(n%8)-1) == 1<<(n%8)-1
}
