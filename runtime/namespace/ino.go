package namespace

import (
	"encoding/binary"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// An inode number is the hash of a path, so it survives every restart and needs
// no memory. Of two paths with one hash the lesser keeps it, and the other one
// is numbered by the hash of its path and a counter, so that the outcome does
// not depend on which was seen first.

// rootHash is the hash of the root's path.
const rootHash = 0

// hashName is the hash of the path of an entry from that of its directory.
func hashName(dir uint64, name string) uint64 {
	var b [8 + maxName + 8]byte
	binary.LittleEndian.PutUint64(b[:], dir)
	return xxhash.Sum64(append(b[:8], name...))
}

// location is where an entry that is no directory is to be found: the number of
// its page in the upper half, its place in the page in the lower.
type location uint64

func (t *Tree) at(l location) (*page, int) { return t.pages[l>>32], int(uint32(l)) }

// spot names an entry of a directory.
type spot struct {
	dir  *dir
	name string
}

// inoOf is the number of an entry of d.
func (t *Tree) inoOf(d *dir, name string) uint64 {
	if len(t.salts) > 0 {
		if ino, ok := t.salts[spot{d, name}]; ok {
			return ino
		}
	}
	return t.hash(d.hash, name)
}

// salted lists the entries of d that have not the number of their path.
func (t *Tree) salted(d *dir) (names []string) {
	if len(t.salts) == 0 {
		return nil
	}
	for s := range t.salts {
		if s.dir == d {
			names = append(names, s.name)
		}
	}
	slices.Sort(names)
	return names
}

// claim gives an entry its number. set makes it findable by the number.
func (t *Tree) claim(d *dir, name string, set func(ino uint64), c *changes) {
	if ino, ok := t.salts[spot{d, name}]; ok {
		if _, _, used := t.holder(ino); !used {
			set(ino)
			return
		}
	}
	path := ""
	for try := 0; ; try++ {
		ino := t.hash(d.hash, salt(name, try))
		if ino <= RootIno { // 0 is no inode
			continue
		}
		other, sub, used := t.holder(ino)
		if used && other == (spot{d, name}) {
			used = false
		}
		if used {
			if path == "" {
				path = joinAbs(d.path(), name)
			}
			if joinAbs(other.dir.path(), other.name) < path {
				continue
			}
			if sub != nil {
				delete(t.dirs, ino)
			} else {
				delete(t.files, ino)
			}
		}
		if try > 0 {
			t.salts[spot{d, name}] = ino
		} else {
			delete(t.salts, spot{d, name})
		}
		set(ino)
		if used {
			c.invalid(other.dir.ino, other.name)
			c.invalid(ino, "")
			other.dir.stir()
			t.renumber(other, sub, c)
		}
		return
	}
}

// renumber finds another number for an entry that had to give its own away; sub
// is the directory if it is one.
func (t *Tree) renumber(s spot, sub *dir, c *changes) {
	if sub != nil {
		t.claim(s.dir, s.name, func(ino uint64) { sub.ino = ino; t.dirs[ino] = sub }, c)
		return
	}
	if _, p, at, ok := s.dir.find(s.name); ok {
		t.claim(s.dir, s.name, func(ino uint64) { t.files[ino] = locate(p, at) }, c)
	}
}

func locate(p *page, at int) location { return location(p.number)<<32 | location(at) }

// holder is the entry that has a number, and the directory if it is one.
func (t *Tree) holder(ino uint64) (s spot, sub *dir, ok bool) {
	if d := t.dirs[ino]; d != nil {
		return spot{d.parent, d.name}, d, d.parent != nil
	}
	if l, ok := t.files[ino]; ok {
		p, at := t.at(l)
		it, _ := p.nth(at)
		return spot{p.dir, it.name}, nil, true
	}
	return s, nil, false
}

// forgetSalt forgets the number of an entry that leaves d.
func (t *Tree) forgetSalt(d *dir, name string) {
	if len(t.salts) == 0 {
		return
	}
	if ino, ok := t.salts[spot{d, name}]; ok {
		delete(t.files, ino)
		delete(t.salts, spot{d, name})
	}
}

// bind replaces the pages of d. Pages that stay keep their numbers.
func (t *Tree) bind(d *dir, pages []*page, c *changes) {
	stays := make(map[*page]bool, len(d.pages))
	for _, p := range pages {
		if p.number != 0 {
			stays[p] = true
		}
	}
	for _, p := range d.pages {
		if !stays[p] {
			t.unbind(p)
		}
	}
	d.pages = slices.Clip(pages)
	d.stir()
	for _, p := range pages {
		if stays[p] {
			continue
		}
		p.number = t.pageNumber(p)
		for at, it := range p.items(0) {
			if it.isDir() {
				continue
			}
			if ino := t.hash(d.hash, it.name); len(t.salts) == 0 && ino > RootIno && t.dirs[ino] == nil {
				if _, used := t.files[ino]; !used { // nearly always
					t.files[ino] = locate(p, at)
					continue
				}
			}
			t.claim(d, it.name, func(ino uint64) { t.files[ino] = locate(p, at) }, c)
		}
	}
}

// unbind takes a page out of the tree. Its entries keep their salts: they may
// be of another page now.
func (t *Tree) unbind(p *page) {
	for _, it := range p.items(0) {
		if it.isDir() {
			continue
		}
		ino := t.inoOf(p.dir, it.name)
		if l, ok := t.files[ino]; ok && uint32(l>>32) == p.number {
			delete(t.files, ino)
		}
	}
	t.pages[p.number] = nil
	t.free = append(t.free, p.number)
}

// pageNumber finds a number for a page; 0 is none.
func (t *Tree) pageNumber(p *page) uint32 {
	if n := len(t.free); n > 0 {
		number := t.free[n-1]
		t.free = t.free[:n-1]
		t.pages[number] = p
		return number
	}
	if len(t.pages) == 0 {
		t.pages = append(t.pages, nil)
	}
	t.pages = append(t.pages, p)
	return uint32(len(t.pages) - 1)
}

func salt(name string, try int) string {
	if try == 0 {
		return name
	}
	return name + "\x00" + strconv.Itoa(try)
}
