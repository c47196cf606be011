package store

import "testing"

func FuzzDecodeMeta(f *testing.F) {
	whole := appendRecord(appendRecord(encodeHeader(10<<20, 4<<20, true), 0, 1), 2, 3)
	f.Add(whole)
	f.Add(whole[:len(whole)-5])
	f.Add(appendRecord(whole, 2|blockGone, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decodeMeta(data)
		if err != nil {
			return
		}
		for b := range m.blocks {
			if int(b) >= m.count() {
				t.Errorf("block %d of %d", b, m.count())
			}
		}
	})
}
