// Package wire is what the processes of one cache say to each other: control by
// gRPC (wirepb), bulk bytes over framed TCP with sendfile, and descriptors of
// cached files over a Unix socket on the node.
package wire

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// KeyBytes is the length of a key; in text it has twice as many hex digits.
const KeyBytes = 16

// ObjectKey is the key of one version of an object in hex: the name of its
// cached file. Any other identity of the bytes has another key. The key field
// of o is not looked at.
func ObjectKey(o *wirepb.Object) string {
	k := SumObject(o)
	return hex.EncodeToString(k[:])
}

// SumObject is ObjectKey before it is text: the head of a SHA-256 over mount,
// path and etag, each after its length, then size and modification time.
func SumObject(o *wirepb.Object) (k [KeyBytes]byte) {
	b := make([]byte, 0, 192)
	for _, s := range []string{o.GetMount(), o.GetPath(), o.GetEtag()} {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(o.GetSize()))
	b = binary.LittleEndian.AppendUint64(b, uint64(o.GetMtimeNs()))
	sum := sha256.Sum256(b)
	copy(k[:], sum[:])
	return k
}
