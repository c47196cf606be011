package store

import (
	"bytes"
	"testing"
)

func FuzzReplay(f *testing.F) {
	const key = Key("0123456789abcdef0123456789abcdef")
	whole := appendFormat(nil)
	whole = appendFile(whole, key, &meta{size: 10 << 20, blockBytes: 4 << 20, guest: true, blocks: map[uint32]uint32{0: 1, 2: 3}})
	whole = appendRecord(whole, recordGone, false, key, 2, 0)
	f.Add(whole)
	f.Add(whole[:len(whole)-5])
	f.Add(appendRecord(whole, recordDrop, false, key, 0, 0))
	f.Add(appendRecord(whole, recordFile, false, key, 1<<63-1, 1))
	f.Add(appendRecord(whole, recordBlock, false, key, 1<<40, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := replay(bytes.NewReader(data))
		if err != nil {
			return
		}
		again := appendFormat(nil)
		for key, m := range files {
			for b := range m.blocks {
				if int64(b) >= int64(m.count()) {
					t.Errorf("block %d of %d", b, m.count())
				}
			}
			again = appendFile(again, key, m)
		}
		if same, err := replay(bytes.NewReader(again)); err != nil || len(same) != len(files) {
			t.Errorf("%d files written anew read as %d: %v", len(files), len(same), err)
		}
	})
}
