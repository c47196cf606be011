package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The metadata of a cached file is a log: a header and one record for each
// block that was written, appended after the block's bytes. What does not
// verify ends the log, so a process may be killed at any point.
//
//	header  magic 4 | version 2 | flags 2 | size 8 | block bytes 8 | crc 4
//	record  block 4 | crc of the block's bytes 4 | crc of the record 4
const (
	metaMagic   = "MRCF"
	metaVersion = 1
	headerBytes = 28
	recordBytes = 12
	flagGuest   = 1 << 0
	// blockGone: a record with the
	// top bit of its block number set says that the block is there no more.
	blockGone = 1 << 31
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

var errMeta = errors.New("not the metadata of a cached file")

type meta struct {
	size, blockBytes int64
	guest            bool
	// blocks maps each block that is there to the CRC-32C of its bytes.
	blocks map[uint32]uint32
}

func (m meta) count() int { return blockCount(m.size, m.blockBytes) }

func blockCount(size, blockBytes int64) int { return int((size + blockBytes - 1) / blockBytes) }

func encodeHeader(size, blockBytes int64, guest bool) []byte {
	out := append(make([]byte, 0, headerBytes), metaMagic...)
	out = binary.LittleEndian.AppendUint16(out, metaVersion)
	var flags uint16
	if guest {
		flags |= flagGuest
	}
	out = binary.LittleEndian.AppendUint16(out, flags)
	out = binary.LittleEndian.AppendUint64(out, uint64(size))
	out = binary.LittleEndian.AppendUint64(out, uint64(blockBytes))
	return binary.LittleEndian.AppendUint32(out, checksum(out))
}

func appendRecord(out []byte, block, crc uint32) []byte {
	start := len(out)
	out = binary.LittleEndian.AppendUint32(out, block)
	out = binary.LittleEndian.AppendUint32(out, crc)
	return binary.LittleEndian.AppendUint32(out, checksum(out[start:]))
}

// decodeMeta reads as much as verifies; an error means that not even the header does.
func decodeMeta(data []byte) (meta, error) {
	if len(data) < headerBytes || string(data[:4]) != metaMagic {
		return meta{}, errMeta
	}
	if checksum(data[:headerBytes-4]) != binary.LittleEndian.Uint32(data[headerBytes-4:]) {
		return meta{}, fmt.Errorf("%w: header does not verify", errMeta)
	}
	if v := binary.LittleEndian.Uint16(data[4:]); v != metaVersion {
		return meta{}, fmt.Errorf("%w: version %d", errMeta, v)
	}
	m := meta{
		guest:      binary.LittleEndian.Uint16(data[6:])&flagGuest != 0,
		size:       int64(binary.LittleEndian.Uint64(data[8:])),
		blockBytes: int64(binary.LittleEndian.Uint64(data[16:])),
		blocks:     map[uint32]uint32{},
	}
	if m.size < 0 || m.blockBytes <= 0 || m.size/m.blockBytes >= blockGone {
		return meta{}, fmt.Errorf("%w: size %d in blocks of %d", errMeta, m.size, m.blockBytes)
	}
	for rest := data[headerBytes:]; len(rest) >= recordBytes; rest = rest[recordBytes:] {
		if checksum(rest[:8]) != binary.LittleEndian.Uint32(rest[8:]) {
			break
		}
		block, crc := binary.LittleEndian.Uint32(rest), binary.LittleEndian.Uint32(rest[4:])
		if block&blockGone != 0 {
			delete(m.blocks, block&^blockGone)
			continue
		}
		if int(block) >= m.count() {
			break
		}
		m.blocks[block] = crc
	}
	return m, nil
}
