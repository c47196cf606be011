package store

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// written is a journal as p is written.
func written(t *testing.T, p *past) []byte {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), journalName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := p.write(f); err != nil {
		t.Fatal(err)
	}
	out, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func FuzzReplay(f *testing.F) {
	key, _ := Key("0123456789abcdef0123456789abcdef").raw()
	whole := appendFormat(nil)
	whole = appendRecord(whole, recordFile, flagGuest, key, 10<<20, 4<<20)
	whole = appendRecord(whole, recordBlock, 0, key, 0, 1)
	whole = appendRecord(whole, recordBlock, 0, key, 2, stamped(3, time.Unix(1e9, 0)))
	whole = appendRecord(whole, recordGone, 0, key, 2, 0)
	f.Add(whole)
	f.Add(whole[:len(whole)-5])
	f.Add(appendRecord(whole, recordDrop, 0, key, 0, 0))
	f.Add(appendRecord(whole, recordFile, 0, key, 1<<63-1, 1))
	f.Add(appendRecord(whole, recordFile, 0, key, 100, 4096))
	f.Add(appendRecord(whole, recordBlock, 0, key, 1<<40, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := replay(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		for id, m := range p.live() {
			if p.ids[m.key] != id || p.present(id) > m.count() {
				t.Errorf("file %d, which is %d: %d blocks of %d", id, p.ids[m.key], p.present(id), m.count())
			}
			for _, b := range p.many[id] {
				if int64(b.block) >= int64(m.count()) || b.gone {
					t.Errorf("block %+v of %d", b, m.count())
				}
			}
		}
		if p.count() == 0 {
			return
		}
		again := written(t, p)
		if len(again)/recordBytes > p.records() {
			t.Errorf("%d bytes are more than %d records", len(again), p.records())
		}
		same, err := replay(bytes.NewReader(again), int64(len(again)))
		if err != nil || same.count() != p.count() || same.damaged {
			t.Fatalf("%d files written anew read as %d: %v", p.count(), same.count(), err)
		}
		for id, m := range p.live() {
			if as := same.ids[m.key]; same.present(as) != p.present(id) || same.files[as].flags != m.flags || same.files[as].born != m.born && p.present(id) > 0 {
				t.Errorf("%+v was written as %+v", m, same.files[as])
			}
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
	key := func(i int) rawKey { k, _ := Key(fmt.Sprintf("%032x", i)).raw(); return k }
	at := time.Unix(1e9, 0)
	for i := range 1000 {
		if err := j.append(recordFile, flagsOf(i%2 == 0, false), key(i), 100, 10); err != nil {
			t.Fatal(err)
		}
		if err := j.append(recordBlock, 0, key(i), 3, stamped(uint32(i), at)); err != nil {
			t.Fatal(err)
		}
		if i >= 5 {
			if err := j.append(recordDrop, 0, key(i-5), 0, 0); err != nil {
				t.Fatal(err)
			}
		}
		j.compact()
		if i == 50 {
			j.limit = 100
		}
	}
	if st, err := os.Stat(path); err != nil || st.Size() != int64(j.records)*recordBytes {
		t.Errorf("%d records are %d bytes: %v", j.records, st.Size(), err)
	}
	again, p, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	if p.count() != 5 || again.records != 12 || !p.drops || p.dropped != key(994) {
		t.Errorf("%d files, %d records, dropped last: %x", p.count(), again.records, p.dropped)
	}
	for i := 995; i < 1000; i++ {
		id, ok := p.ids[key(i)]
		if !ok {
			t.Fatalf("file %d is gone", i)
		}
		m, blocks := p.files[id], p.many[id]
		if m.size != 100 || len(blocks) != 1 || blocks[0] != (blockRecord{block: 3, crc: uint32(i)}) || m.flags != flagsOf(i%2 == 0, false) || m.born != at.UnixNano() {
			t.Errorf("file %d is %+v, %v", i, m, blocks)
		}
	}
}

// TestAJournalIsWrittenAnewWhileItGrows writes records between reading and
// replacing.
func TestAJournalIsWrittenAnewWhileItGrows(t *testing.T) {
	path := filepath.Join(t.TempDir(), journalName)
	j, _, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	key := func(i int) rawKey { return rawKey{byte(i), byte(i >> 8)} }
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 3000 {
			if err := j.append(recordFile, 0, key(i), 100, 100); err != nil {
				t.Error(err)
			}
			if i%3 == 0 {
				if err := j.append(recordDrop, 0, key(i), 0, 0); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		j.mu.Lock()
		j.limit = 1
		j.mu.Unlock()
		j.compact()
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	p, _, err := openPast(path)
	if err != nil || p.count() != 2000 || p.damaged || p.dropped != key(2997) {
		t.Errorf("%d files: %v", p.count(), err)
	}
}
