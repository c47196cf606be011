package namespace

import (
	"fmt"
	"iter"
	"slices"
	"sort"
)

// Copy is a directory at one moment as a client has it, made of the pages that a
// master has sent. It does not change.
type Copy struct {
	of     Listing // without pages
	sheets []*Sheet
	starts []int // how many entries come before each sheet
	count  int
	bytes  int
}

// Sheet is a page of a Copy. Copies of one directory share those that are equal.
type Sheet struct{ page page }

// NewSheet takes in the bytes of a page. Bytes that are none, or whose name is
// not the one that is given, are an error.
func NewSheet(id Record, data string) (*Sheet, error) {
	p, _, err := parsePage(nil, data, "")
	if err != nil {
		return nil, fmt.Errorf("read the page %s: %w", id, err)
	}
	if p.id != id {
		return nil, fmt.Errorf("read the page %s: %w: its bytes are those of %s", id, ErrCorrupt, p.id)
	}
	return &Sheet{*p}, nil
}

// ID names the bytes of the sheet.
func (s *Sheet) ID() Record { return s.page.id }

// Len is the number of entries.
func (s *Sheet) Len() int { return int(s.page.count) }

// Bytes is about how much memory a sheet takes.
func (s *Sheet) Bytes() int { return len(s.page.data) + 4*cap(s.page.starts) + sheetBytes }

// sheetBytes is a sheet without its entries, and the references to it.
const sheetBytes = 160

// NewCopy makes the copy of a directory. of has its record, inode number, mount
// and path; hash, salts and mounts are those of the master's Listing.
func NewCopy(of Listing, hash uint64, salts map[string]uint64, mounts map[string]string, sheets []*Sheet) (*Copy, error) {
	c := &Copy{of: of, sheets: sheets, starts: make([]int, len(sheets))}
	c.of.hash, c.of.hashed, c.of.salts, c.of.mounts = hash, hashName, salts, mounts
	last := ""
	for i, s := range sheets {
		c.starts[i] = c.count
		c.count += s.Len()
		c.bytes += s.Bytes()
		if first := s.page.first(); i > 0 && first <= last {
			return nil, fmt.Errorf("read the pages of %s: %w: %q after %q", of.Path, ErrCorrupt, first, last)
		}
		last = s.page.last()
	}
	return c, nil
}

// last is the last name of a page.
func (p *page) last() (name string) {
	for _, it := range p.items(max(int(p.count)-1, 0)) {
		name = it.name
	}
	return name
}

// Ino is the inode number of the directory.
func (c *Copy) Ino() uint64 { return c.of.Ino }

// Record names the state of the directory and of all below it.
func (c *Copy) Record() Record { return c.of.Record }

// Len is the number of entries.
func (c *Copy) Len() int { return c.count }

// Bytes is about how much memory the copy takes.
func (c *Copy) Bytes() int { return c.bytes }

// Sheets are the pages in order; they are not to be changed.
func (c *Copy) Sheets() []*Sheet { return c.sheets }

// Salts are the inode numbers that do not follow from the names.
func (c *Copy) Salts() map[string]uint64 { return c.of.salts }

// From gives the entries from number i on.
func (c *Copy) From(i int) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		if i >= c.count {
			return
		}
		s := max(0, sort.SearchInts(c.starts, i+1)-1)
		for ; s < len(c.sheets); s++ {
			for _, it := range c.sheets[s].page.items(max(0, i-c.starts[s])) {
				if !yield(c.of.entry(it)) {
					return
				}
			}
		}
	}
}

// Index is the place of a name among the entries.
func (c *Copy) Index(name string) (at int, ok bool) {
	s, ok := slices.BinarySearchFunc(c.sheets, name, func(s *Sheet, name string) int {
		if first := s.page.first(); first <= name {
			if first == name {
				return 0
			}
			return -1
		}
		return 1
	})
	if ok {
		return c.starts[s], true
	}
	if s == 0 {
		return 0, false
	}
	_, at, ok = c.sheets[s-1].page.find(name)
	return c.starts[s-1] + at, ok
}

// Find finds an entry by its name.
func (c *Copy) Find(name string) (e Entry, ok bool) {
	at, ok := c.Index(name)
	if !ok {
		return e, false
	}
	for e := range c.From(at) {
		return e, true
	}
	return e, false
}

// At is an entry of one of the sheets.
func (c *Copy) At(s *Sheet, i int) (e Entry, ok bool) {
	it, ok := s.page.nth(i)
	if !ok {
		return e, false
	}
	return c.of.entry(it), true
}

// Inos gives the inode numbers of a sheet in the order of its entries.
func (c *Copy) Inos(s *Sheet) iter.Seq2[int, uint64] {
	return func(yield func(int, uint64) bool) {
		for i, it := range s.page.items(0) {
			ino, ok := uint64(0), false
			if len(c.of.salts) > 0 {
				ino, ok = c.of.salts[it.name]
			}
			if !ok {
				ino = hashName(c.of.hash, it.name)
			}
			if !yield(i, ino) {
				return
			}
		}
	}
}
