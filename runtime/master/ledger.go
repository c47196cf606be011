package master

import (
	"encoding/hex"
	"math/bits"
	"slices"
	"sync"

	"github.com/millrace/millrace/runtime/wire"
)

// key names the bytes of one version of a file.
type key = [wire.KeyBytes]byte

func parseKey(s string) (k key, ok bool) {
	if len(s) != hex.EncodedLen(len(k)) {
		return k, false
	}
	_, err := hex.Decode(k[:], []byte(s))
	return k, err == nil
}

func keyText(k key) string { return hex.EncodeToString(k[:]) }

// ledger knows which bytes of the current snapshot lie where. Its sums are exact
// at any time: each byte of the snapshot counts once however many hold it.
type ledger struct {
	blockBytes int64

	mu     sync.Mutex
	files  map[key]*file
	cached int64 // of the snapshot, each byte once
}

// file is one version of a file; there may be millions.
type file struct {
	size    int64
	current bool // it belongs to the snapshot
	holders []holding
}

// holding is what one worker has of a file.
type holding struct {
	by *holder
	// blocks is a bitmap, lowest bit first; nil when all of it is there.
	blocks []byte
}

// holder is a worker as the ledger sees it.
type holder struct {
	cached int64 // bytes of the snapshot
	keys   int64 // files of which it has anything, current or not
	// unseen are the keys that a full report has not named yet; nil outside of one.
	unseen map[key]struct{}
}

func newLedger(blockBytes int64) *ledger {
	return &ledger{blockBytes: blockBytes, files: map[key]*file{}}
}

// present counts the bytes of [off, off+n) of a file of the given size that a
// bitmap has.
func (l *ledger) present(blocks []byte, size, off, n int64) int64 {
	end := min(off+n, size)
	if blocks == nil {
		return max(0, end-off)
	}
	if off == 0 && end == size { // whole blocks but for the last
		count := 0
		for _, b := range blocks {
			count += bits.OnesCount8(b)
		}
		sum := int64(count) * l.blockBytes
		if last := (size - 1) / l.blockBytes; size > 0 && bit(blocks, last) {
			sum -= (last+1)*l.blockBytes - size
		}
		return sum
	}
	var sum int64
	for at := off; at < end; {
		i := at / l.blockBytes
		next := min((i+1)*l.blockBytes, end)
		if bit(blocks, i) {
			sum += next - at
		}
		at = next
	}
	return sum
}

func bit(blocks []byte, i int64) bool {
	return i>>3 < int64(len(blocks)) && blocks[i>>3]&(1<<(i&7)) != 0
}

// union is the bytes of the range that at least one worker has.
func (l *ledger) union(f *file, off, n int64) int64 {
	switch len(f.holders) {
	case 0:
		return 0
	case 1:
		return l.present(f.holders[0].blocks, f.size, off, n)
	}
	var all []byte
	for _, h := range f.holders {
		if h.blocks == nil {
			return l.present(nil, f.size, off, n)
		}
		if len(h.blocks) > len(all) {
			all = append(all, make([]byte, len(h.blocks)-len(all))...)
		}
		for i, b := range h.blocks {
			all[i] |= b
		}
	}
	return l.present(all, f.size, off, n)
}

// count adds f to the sums, or takes it away, if it belongs to the snapshot.
func (l *ledger) count(f *file, sign int64) {
	if !f.current {
		return
	}
	l.cached += sign * l.union(f, 0, f.size)
	for _, h := range f.holders {
		h.by.cached += sign * l.present(h.blocks, f.size, 0, f.size)
	}
}

// add makes a version part of the snapshot.
func (l *ledger) add(k key, size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.files[k]
	if f == nil {
		f = &file{}
		l.files[k] = f
	}
	l.count(f, -1)
	f.size, f.current = size, true
	l.count(f, +1)
}

// remove takes a version out of the snapshot and tells who holds it.
func (l *ledger) remove(k key) []*holder {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.files[k]
	if f == nil {
		return nil
	}
	l.count(f, -1)
	f.current = false
	if len(f.holders) == 0 {
		delete(l.files, k)
	}
	by := make([]*holder, len(f.holders))
	for i, h := range f.holders {
		by[i] = h.by
	}
	return by
}

// hold replaces what is known of k at a worker. complete means all of it; no
// blocks, nothing. It tells whether k belongs to the snapshot.
func (l *ledger) hold(by *holder, k key, size int64, complete bool, blocks []byte) (current bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(by.unseen, k)
	f := l.files[k]
	if f == nil {
		if !complete && empty(blocks) {
			return false
		}
		f = &file{size: size}
		l.files[k] = f
	}
	l.count(f, -1)
	defer func() {
		l.count(f, +1)
		if !f.current && len(f.holders) == 0 {
			delete(l.files, k)
		}
	}()
	i := slices.IndexFunc(f.holders, func(h holding) bool { return h.by == by })
	switch {
	case !complete && empty(blocks):
		if i >= 0 {
			f.holders = slices.Delete(f.holders, i, i+1)
			by.keys--
		}
		return f.current
	case i < 0:
		f.holders = append(slices.Grow(f.holders, 1), holding{by: by})
		i = len(f.holders) - 1
		by.keys++
	}
	if complete {
		f.holders[i].blocks = nil
	} else {
		f.holders[i].blocks = slices.Clone(blocks)
	}
	return f.current
}

func empty(blocks []byte) bool {
	return !slices.ContainsFunc(blocks, func(b byte) bool { return b != 0 })
}

// beginSync starts a full report: what it does not name is gone at its end.
func (l *ledger) beginSync(by *holder) {
	l.mu.Lock()
	defer l.mu.Unlock()
	by.unseen = map[key]struct{}{}
	if by.keys == 0 {
		return
	}
	for k, f := range l.files {
		if slices.ContainsFunc(f.holders, func(h holding) bool { return h.by == by }) {
			by.unseen[k] = struct{}{}
		}
	}
}

// endSync ends a full report.
func (l *ledger) endSync(by *holder) {
	l.mu.Lock()
	unseen := by.unseen
	by.unseen = nil
	l.mu.Unlock()
	for k := range unseen {
		l.hold(by, k, 0, false, nil)
	}
}

// forget removes all that a worker holds.
func (l *ledger) forget(by *holder) {
	l.beginSync(by)
	l.endSync(by)
}

// stale lists what a worker holds that is not of the snapshot.
func (l *ledger) stale(by *holder) []key {
	l.mu.Lock()
	defer l.mu.Unlock()
	var keys []key
	for k, f := range l.files {
		if !f.current && slices.ContainsFunc(f.holders, func(h holding) bool { return h.by == by }) {
			keys = append(keys, k)
		}
	}
	return keys
}

// held counts the bytes of a range that one worker has, or that any has if by is nil.
func (l *ledger) held(by *holder, k key, off, n int64) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.files[k]
	if f == nil {
		return 0
	}
	if by == nil {
		return l.union(f, off, n)
	}
	for _, h := range f.holders {
		if h.by == by {
			return l.present(h.blocks, f.size, off, n)
		}
	}
	return 0
}

// cachedBytes is the sum over the snapshot, each byte once.
func (l *ledger) cachedBytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cached
}

// cachedAt is what one worker holds of the snapshot.
func (l *ledger) cachedAt(by *holder) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return by.cached
}
