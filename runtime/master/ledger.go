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

// file is one version of a file; there may be millions, and most are whole at
// one worker.
type file struct {
	size int64
	// first holds all of the file, if anyone does; the others are in more.
	first   *holder
	more    *[]holding
	current bool // it belongs to the snapshot
}

// holders goes over all that hold anything of f.
func (f *file) holders(yield func(holding) bool) {
	if f.first != nil && !yield(holding{by: f.first}) || f.more == nil {
		return
	}
	for _, h := range *f.more {
		if !yield(h) {
			return
		}
	}
}

// of gives what one worker has of f.
func (f *file) of(by *holder) (h holding, ok bool) {
	for h := range f.holders {
		if h.by == by {
			return h, true
		}
	}
	return holding{}, false
}

// set replaces what one worker has of f; not ok takes it away.
func (f *file) set(h holding, ok bool) {
	if f.first == h.by {
		f.first = nil
	}
	if f.more != nil {
		*f.more = slices.DeleteFunc(*f.more, func(other holding) bool { return other.by == h.by })
	}
	switch {
	case !ok:
	case h.blocks == nil && f.first == nil:
		f.first = h.by
	case f.more == nil:
		f.more = &[]holding{h}
	default:
		*f.more = append(*f.more, h)
	}
	if f.more != nil && len(*f.more) == 0 {
		f.more = nil
	}
}

func (f *file) unheld() bool { return f.first == nil && f.more == nil }

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
	var all []byte
	for h := range f.holders {
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
	if all == nil {
		return 0
	}
	return l.present(all, f.size, off, n)
}

// count adds f to the sums, or takes it away, if it belongs to the snapshot.
func (l *ledger) count(f *file, sign int64) {
	if !f.current {
		return
	}
	l.cached += sign * l.union(f, 0, f.size)
	for h := range f.holders {
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
	if f.unheld() {
		delete(l.files, k)
	}
	var by []*holder
	for h := range f.holders {
		by = append(by, h.by)
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
		if !f.current && f.unheld() {
			delete(l.files, k)
		}
	}()
	_, had := f.of(by)
	h := holding{by: by}
	if !complete {
		h.blocks = slices.Clone(blocks)
	}
	has := complete || !empty(blocks)
	f.set(h, has)
	switch {
	case has && !had:
		by.keys++
	case had && !has:
		by.keys--
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
		if _, ok := f.of(by); ok {
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
		if _, ok := f.of(by); ok && !f.current {
			keys = append(keys, k)
		}
	}
	return keys
}

// blocks is a bitmap of what those workers that pick names have of k together,
// the lowest bit first; nil when they have nothing.
func (l *ledger) blocks(k key, pick func(*holder) bool) (all []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.files[k]
	if f == nil {
		return nil
	}
	for h := range f.holders {
		if !pick(h.by) {
			continue
		}
		if all == nil {
			all = make([]byte, (f.size+8*l.blockBytes-1)/(8*l.blockBytes))
		}
		if h.blocks == nil {
			for i := range all {
				all[i] = 0xff
			}
			return all
		}
		unite(all, h.blocks)
	}
	return all
}

// keysOf is how many versions one worker has something of.
func (l *ledger) keysOf(by *holder) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return by.keys
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
	if h, ok := f.of(by); ok {
		return l.present(h.blocks, f.size, off, n)
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
