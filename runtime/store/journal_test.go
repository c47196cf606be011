package store

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func FuzzReplay(f *testing.F) {
	const key = Key("0123456789abcdef0123456789abcdef")
	whole := appendFormat(nil)
	whole = appendFile(whole, key, &meta{size: 10 << 20, blockBytes: 4 << 20, guest: true, blocks: []blockRecord{{block: 0, crc: 1}, {block: 2, crc: 3}}})
	whole = appendRecord(whole, recordGone, 0, key, 2, 0)
	f.Add(whole)
	f.Add(whole[:len(whole)-5])
	f.Add(appendRecord(whole, recordDrop, 0, key, 0, 0))
	f.Add(appendRecord(whole, recordFile, 0, key, 1<<63-1, 1))
	f.Add(appendRecord(whole, recordBlock, 0, key, 1<<40, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := replay(bytes.NewReader(data))
		if err != nil {
			return
		}
		again := appendFormat(nil)
		for key, m := range files {
			for _, b := range m.blocks {
				if int64(b.block) >= int64(m.count()) || b.gone {
					t.Errorf("block %+v of %d", b, m.count())
				}
			}
			again = appendFile(again, key.key(), m)
		}
		if same, err := replay(bytes.NewReader(again)); err != nil || len(same) != len(files) {
			t.Errorf("%d files written anew read as %d: %v", len(files), len(same), err)
		}
	})
}

func TestAJournalThatGrowsIsWrittenAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), journalName)
	j, _, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	defer j.close()
	j.limit = 100
	key := func(i int) Key { return Key(fmt.Sprintf("%032x", i)) }
	for i := range 1000 {
		if err := j.append(recordFile, flagsOf(i%2 == 0, false), key(i), 100, 10); err != nil {
			t.Fatal(err)
		}
		if err := j.append(recordBlock, 0, key(i), 3, uint64(i)); err != nil {
			t.Fatal(err)
		}
		if i >= 5 {
			if err := j.append(recordDrop, 0, key(i-5), 0, 0); err != nil {
				t.Fatal(err)
			}
		}
		if i == 50 {
			j.limit = 100
		}
	}
	if st, err := os.Stat(path); err != nil || st.Size() != int64(j.records)*recordBytes {
		t.Errorf("%d records are %d bytes: %v", j.records, st.Size(), err)
	}
	again, files, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	if len(files) != 5 || again.records != 11 {
		t.Errorf("%d files, %d records", len(files), again.records)
	}
	for i := 995; i < 1000; i++ {
		raw, _ := key(i).raw()
		m := files[raw]
		if m == nil || m.size != 100 || len(m.blocks) != 1 || m.blocks[0] != (blockRecord{block: 3, crc: uint32(i)}) || m.guest != (i%2 == 0) {
			t.Errorf("file %d is %+v", i, m)
		}
	}
}
