package reader

import (
	"container/list"
	"maps"
	"math/bits"
	"sync"

	"github.com/millrace/millrace/runtime/namespace"
)

const (
	// indexBytes is what an entry takes in the index by inode number, on average.
	indexBytes = 32
	// A directory that nobody lists is fetched whole when so many of its names
	// were asked for one by one, if it has no more than entriesPerMiss entries
	// for each: a million entries are not fetched for the sake of a few.
	minMisses, entriesPerMiss = 4, 256
	// maxCounted is how many directories have their misses counted.
	maxCounted = 1024
)

// dirs keeps directories as copies of their pages, within a budget: the one used
// least goes. A copy that may be out of date is kept, too: of the next answer of
// the master only the pages are needed that are not in it.
type dirs struct {
	budget int64

	mu      sync.Mutex
	used    int64                    // bytes, about
	byIno   map[uint64]*list.Element // of *held, by the directory's inode
	recent  *list.List               // the last used in front
	index   map[uint64]spot          // by the inode of an entry; only of copies that are good
	sheets  []sheetOf                // by number
	free    []uint32                 // numbers of sheets that are gone
	flights map[uint64]*flight       // by the directory's inode
	misses  map[uint64]int           // lookups that had to be asked, by directory
}

// held is a directory that is kept.
type held struct {
	*namespace.Copy
	bytes   int64
	numbers map[*namespace.Sheet]uint32
	stale   bool
}

// spot is an entry: the number of its sheet, and its place in it.
type spot struct{ sheet, at uint32 }

// sheetOf is a sheet that is in use.
type sheetOf struct {
	*namespace.Sheet
	dir *held
}

// flight is a question for a directory that is on its way.
type flight struct {
	users   int
	spoiled bool // something has changed since it was asked
}

func newDirs(budget int64) *dirs {
	return &dirs{
		budget: budget, byIno: map[uint64]*list.Element{}, recent: list.New(), index: map[uint64]spot{},
		flights: map[uint64]*flight{}, misses: map[uint64]int{},
	}
}

// get is a directory that is up to date.
func (d *dirs) get(ino uint64) (*namespace.Copy, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.useLocked(ino)
	if h == nil || h.stale {
		return nil, false
	}
	return h.Copy, true
}

// former is what there is of a directory, up to date or not; nil if nothing.
func (d *dirs) former(ino uint64) *namespace.Copy {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h := d.useLocked(ino); h != nil {
		return h.Copy
	}
	return nil
}

func (d *dirs) useLocked(ino uint64) *held {
	el := d.byIno[ino]
	if el == nil {
		return nil
	}
	d.recent.MoveToFront(el)
	return el.Value.(*held)
}

// find finds an entry by its directory and name.
func (d *dirs) find(dir uint64, name string) (namespace.Entry, bool) {
	c, ok := d.get(dir)
	if !ok {
		return namespace.Entry{}, false
	}
	return c.Find(name)
}

// entry finds an entry by its inode number.
func (d *dirs) entry(ino uint64) (namespace.Entry, bool) {
	d.mu.Lock()
	at, ok := d.index[ino]
	if !ok {
		d.mu.Unlock()
		return namespace.Entry{}, false
	}
	s := d.sheets[at.sheet]
	d.recent.MoveToFront(d.byIno[s.dir.Ino()])
	dir, stale := s.dir.Copy, s.dir.stale // another copy may take its place
	d.mu.Unlock()
	if stale {
		return namespace.Entry{}, false
	}
	return dir.At(s.Sheet, int(at.at))
}

// missed counts a name of a directory that had to be asked for. limit is how
// large the directory may be to be fetched whole now; 0: not now.
func (d *dirs) missed(dir uint64) (limit int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.misses) >= maxCounted && d.misses[dir] == 0 {
		clear(d.misses)
	}
	d.misses[dir]++
	n := d.misses[dir]
	if n < minMisses || bits.OnesCount(uint(n)) != 1 || d.flights[dir] != nil {
		return 0
	}
	return n * entriesPerMiss
}

// takeOff is to be called before the master is asked for a directory, and land
// after: what it said before an invalidation came is out of date.
func (d *dirs) takeOff(dir uint64) *flight {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.flights[dir]
	if f == nil || f.spoiled {
		f = &flight{}
		d.flights[dir] = f
	}
	f.users++
	return f
}

// land ends a flight, and keeps what it has brought, if anything.
func (d *dirs) land(dir uint64, f *flight, c *namespace.Copy) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f.users--; f.users == 0 && d.flights[dir] == f {
		delete(d.flights, dir)
	}
	if c == nil {
		return
	}
	delete(d.misses, dir)
	if el := d.byIno[dir]; el != nil {
		h := el.Value.(*held)
		if h.Copy == c { // nothing has changed
			h.stale = f.spoiled
			d.recent.MoveToFront(el)
			return
		}
		d.replaceLocked(h, c, f.spoiled)
	} else {
		h := &held{Copy: c, numbers: map[*namespace.Sheet]uint32{}, stale: f.spoiled}
		d.byIno[dir] = d.recent.PushFront(h)
		d.bindLocked(h, c)
	}
	for d.used > d.budget && d.recent.Len() > 0 {
		d.dropLocked(d.recent.Back())
	}
}

// replaceLocked puts another copy of a directory in the place of h. Sheets that
// stay keep their numbers and what the index has of them.
func (d *dirs) replaceLocked(h *held, c *namespace.Copy, stale bool) {
	d.recent.MoveToFront(d.byIno[c.Ino()])
	stays := map[*namespace.Sheet]bool{}
	if maps.Equal(h.Salts(), c.Salts()) {
		for _, s := range c.Sheets() {
			stays[s] = true
		}
	}
	d.unbindLocked(h, stays)
	h.Copy, h.stale = c, stale
	d.bindLocked(h, c)
}

// bindLocked takes in the sheets of c that have no number yet.
func (d *dirs) bindLocked(h *held, c *namespace.Copy) {
	for _, s := range c.Sheets() {
		if _, ok := h.numbers[s]; ok {
			continue
		}
		number := uint32(len(d.sheets))
		if n := len(d.free); n > 0 {
			number, d.free = d.free[n-1], d.free[:n-1]
		} else {
			d.sheets = append(d.sheets, sheetOf{})
		}
		d.sheets[number], h.numbers[s] = sheetOf{s, h}, number
		for at, ino := range c.Inos(s) {
			d.index[ino] = spot{number, uint32(at)}
		}
		d.chargeLocked(h, s, +1)
	}
}

// unbindLocked gives up the sheets of h that do not stay.
func (d *dirs) unbindLocked(h *held, stays map[*namespace.Sheet]bool) {
	for s, number := range h.numbers {
		if stays[s] {
			continue
		}
		for _, ino := range h.Inos(s) {
			if d.index[ino].sheet == number {
				delete(d.index, ino)
			}
		}
		d.sheets[number] = sheetOf{}
		d.free = append(d.free, number)
		delete(h.numbers, s)
		d.chargeLocked(h, s, -1)
	}
}

func (d *dirs) chargeLocked(h *held, s *namespace.Sheet, sign int64) {
	n := sign * int64(s.Bytes()+indexBytes*s.Len())
	h.bytes += n
	d.used += n
}

func (d *dirs) dropLocked(el *list.Element) {
	h := d.recent.Remove(el).(*held)
	d.unbindLocked(h, nil)
	delete(d.byIno, h.Ino())
}

// forget takes in an invalidation: of a name in a directory, or of an inode.
func (d *dirs) forget(ino uint64, name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if name == "" {
		if at, ok := d.index[ino]; ok { // its attributes are in the directory that has it
			d.spoilLocked(d.sheets[at.sheet].dir.Ino())
		}
	}
	d.spoilLocked(ino)
}

func (d *dirs) spoilLocked(dir uint64) {
	if el := d.byIno[dir]; el != nil {
		el.Value.(*held).stale = true
	}
	if f := d.flights[dir]; f != nil {
		f.spoiled = true
	}
}

// doubt has every directory compared with the master's before it is used again.
func (d *dirs) doubt() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for el := d.recent.Front(); el != nil; el = el.Next() {
		el.Value.(*held).stale = true
	}
	for _, f := range d.flights {
		f.spoiled = true
	}
	clear(d.misses)
}

// bytes is about what is held.
func (d *dirs) bytes() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.used
}

// clear forgets everything.
func (d *dirs) clear() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.recent.Len() > 0 {
		d.dropLocked(d.recent.Back())
	}
	clear(d.misses)
}
