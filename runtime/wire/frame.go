package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// Limits of the data plane, which a decoder holds before it allocates.
const (
	// MaxRange is the most bytes that one request asks for.
	MaxRange = 64 << 20
	// maxObject bounds an encoded Object: two names of 4 KiB and an etag.
	maxObject = 16 << 10
	// maxMessage bounds the words of an error.
	maxMessage = 1 << 10
	// maxSums bounds the checksums of one range.
	maxSums = 4096
)

// A request is this header, little-endian, and then the Object as protobuf:
//
//	0  magic "MRq1" (the digit is the version)
//	4  flags u16
//	6  bytes of the Object u16
//	8  offset u64
//	16 length u32
//
// An answer is
//
//	0  magic "MRa1"
//	4  status u16
//	6  flags u16
//	8  bytes that follow u64: of the range if the status is OK, else of a message
//
// With flag 1 the range is preceded by its checksums: the bytes that each of
// them is for (u32, the last one for less; 0: one for all), and then the CRC-32C
// of each stretch (u32), as they were when the bytes came into the cache.
//
// Requests may be sent before the answers to former ones have come; answers come
// in the order of the requests.
//
// While an answer takes its time, answers with statusWorking come every second,
// so that who waits can tell a slow source from a hung peer.
const (
	requestHeader = 20
	answerHeader  = 16

	statusWorking wirepb.Status = 101

	answerSums = 1 << 0
)

var (
	requestMagic = [4]byte{'M', 'R', 'q', '1'}
	answerMagic  = [4]byte{'M', 'R', 'a', '1'}
	errFrame     = errors.New("not a frame of the data plane")
)

// Flags of a request.
type Flags uint16

const (
	// FlagFetch: what is not cached is read from the source and kept; without
	// it the answer is ErrNotCached.
	FlagFetch Flags = 1 << iota
	// FlagReader: the bytes go to an application, not into a cache.
	FlagReader
	// flagSums: who asks understands checksums.
	flagSums
	// flagKeep: there are no bytes to answer; the peer shall get the range from
	// whoever has it, in its own time.
	flagKeep
	// FlagDoubt: what the peer gave did not verify; it looks at its copy again.
	FlagDoubt
)

// Range is a request for bytes of one object.
type Range struct {
	Object *wirepb.Object
	Off    int64
	N      int64 // at most MaxRange
	Flags  Flags
}

// answer is the header of an answer.
type answer struct {
	status wirepb.Status
	length uint64
	sums   bool
}

// Sums are the checksums of a range: CRC-32C of each stretch of Bytes, the last
// one of what is left.
type Sums struct {
	Bytes int64
	CRCs  []uint32
}

// expects is how many bytes follow the answer if it is well.
func (r Range) expects() int64 {
	if r.Flags&flagKeep != 0 {
		return 0
	}
	return r.N
}

func (r Range) check() error {
	switch {
	case r.N <= 0 || r.N > MaxRange:
		return fmt.Errorf("%w: range of %d bytes", errFrame, r.N)
	case r.Off < 0 || r.Object.GetSize() < 0 || r.Off > r.Object.GetSize()-r.N:
		return fmt.Errorf("%w: range %d+%d of %d bytes", errFrame, r.Off, r.N, r.Object.GetSize())
	case r.Object.GetKey() != ObjectKey(r.Object):
		return fmt.Errorf("%w: the key is not that of the object", errFrame)
	}
	return nil
}

// appendRequest encodes r.
func appendRequest(b []byte, r Range) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	object, err := proto.Marshal(r.Object)
	if err != nil {
		return nil, fmt.Errorf("encode object %s: %w", r.Object.GetPath(), err)
	}
	if len(object) > maxObject {
		return nil, fmt.Errorf("%w: object of %d bytes", errFrame, len(object))
	}
	b = append(b, requestMagic[:]...)
	b = binary.LittleEndian.AppendUint16(b, uint16(r.Flags))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(object)))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Off))
	b = binary.LittleEndian.AppendUint32(b, uint32(r.N))
	return append(b, object...), nil
}

// requestObjectBytes is how long the Object after this header is.
func requestObjectBytes(header []byte) (int, error) {
	n := int(binary.LittleEndian.Uint16(header[6:]))
	if [4]byte(header) != requestMagic || n > maxObject {
		return 0, errFrame
	}
	return n, nil
}

// parseRequest decodes a header and its Object.
func parseRequest(header, object []byte) (Range, error) {
	if n, err := requestObjectBytes(header); err != nil || n != len(object) {
		return Range{}, errFrame
	}
	r := Range{
		Flags:  Flags(binary.LittleEndian.Uint16(header[4:])),
		Off:    int64(binary.LittleEndian.Uint64(header[8:])),
		N:      int64(binary.LittleEndian.Uint32(header[16:])),
		Object: &wirepb.Object{},
	}
	if err := proto.Unmarshal(object, r.Object); err != nil {
		return Range{}, fmt.Errorf("%w: %w", errFrame, err)
	}
	return r, r.check()
}

func appendAnswer(b []byte, a answer) []byte {
	b = append(b, answerMagic[:]...)
	b = binary.LittleEndian.AppendUint16(b, uint16(a.status))
	var flags uint16
	if a.sums {
		flags |= answerSums
	}
	b = binary.LittleEndian.AppendUint16(b, flags)
	return binary.LittleEndian.AppendUint64(b, a.length)
}

// appendSums encodes the checksums of a range.
func appendSums(b []byte, s Sums) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(s.Bytes))
	for _, crc := range s.CRCs {
		b = binary.LittleEndian.AppendUint32(b, crc)
	}
	return b
}

// sumsCount is how many checksums a range of n bytes has, one for each stretch
// of so many bytes.
func sumsCount(each uint32, n int64) (int, error) {
	if each == 0 || int64(each) >= n {
		return 1, nil
	}
	count := (n + int64(each) - 1) / int64(each)
	if count > maxSums {
		return 0, fmt.Errorf("%w: %d checksums", errFrame, count)
	}
	return int(count), nil
}

// parseAnswer decodes the answer to a request for n bytes.
func parseAnswer(header []byte, n int64) (answer, error) {
	if [4]byte(header) != answerMagic {
		return answer{}, errFrame
	}
	a := answer{
		status: wirepb.Status(binary.LittleEndian.Uint16(header[4:])),
		length: binary.LittleEndian.Uint64(header[8:]),
		sums:   binary.LittleEndian.Uint16(header[6:])&answerSums != 0,
	}
	switch {
	case a.status == wirepb.Status_STATUS_OK && a.length != uint64(n),
		a.status == statusWorking && a.length != 0,
		a.sums && (a.status != wirepb.Status_STATUS_OK || n == 0),
		a.status != wirepb.Status_STATUS_OK && a.length > maxMessage:
		return answer{}, fmt.Errorf("%w: status %d with %d bytes", errFrame, a.status, a.length)
	}
	return a, nil
}

// words cuts the text of an error to what an answer carries.
func words(err error) string {
	s := err.Error()
	if len(s) <= maxMessage {
		return s
	}
	s = s[:maxMessage]
	for !utf8.ValidString(s) && len(s) > maxMessage-utf8.UTFMax {
		s = s[:len(s)-1]
	}
	return s
}
