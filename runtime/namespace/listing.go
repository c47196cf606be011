package namespace

import (
	"iter"
	"strings"
)

// Listing is a directory at one moment: it does not change with the tree.
type Listing struct {
	// Record names the state of the directory and of all below it.
	Record Record
	Ino    uint64
	// Mount, Source and Path are those of the directory; see Entry.
	Mount, Source, Path string

	hash   uint64
	hashed func(dir uint64, name string) uint64
	pages  []*page
	salts  map[string]uint64 // numbers that are not the hash of the path
	// Mounts that appear in it, and their sources, by name.
	mounts, sources map[string]string
}

// Page is a run of the entries of a directory. Its ID names its bytes, so one
// that is known needs not be fetched.
type Page struct {
	ID      Record
	Data    string
	Entries int
}

// listing captures d; the tree is locked for writing.
func (t *Tree) listing(d *dir) *Listing {
	at := d.place()
	l := &Listing{Record: t.recordOf(d), Ino: d.ino, Path: at.rel, hash: d.hash, hashed: t.hash, pages: d.pages}
	if at.mount != nil {
		l.Mount, l.Source = at.mount.Path, at.mount.id()
	}
	for _, name := range t.salted(d) {
		if l.salts == nil {
			l.salts = map[string]uint64{}
		}
		l.salts[name] = t.inoOf(d, name)
	}
	for _, s := range d.subs {
		if s.mount != nil {
			if l.mounts == nil {
				l.mounts, l.sources = map[string]string{}, map[string]string{}
			}
			l.mounts[s.name] = s.mount.Path
			l.sources[s.name] = s.mount.id()
		}
	}
	return l
}

// Len is the number of entries.
func (l *Listing) Len() (n int) {
	for _, p := range l.pages {
		n += int(p.count)
	}
	return n
}

// Pages gives the pages in order, and the inode numbers that NewCopy cannot
// make from the names. Both are not to be changed.
func (l *Listing) Pages() (pages iter.Seq[Page], salts map[string]uint64) {
	return func(yield func(Page) bool) {
		for _, p := range l.pages {
			if !yield(Page{p.id, p.data, int(p.count)}) {
				return
			}
		}
	}, l.salts
}

// Mounts gives the mounts that appear in the directory, by the names they have in it.
func (l *Listing) Mounts() map[string]string { return l.mounts }

// Hash is what NewCopy needs to make inode numbers.
func (l *Listing) Hash() uint64 { return l.hash }

// Entries gives the entries whose names come after a name.
func (l *Listing) Entries(after string) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		d := dir{pages: l.pages}
		for i := d.pageAt(after); i < len(l.pages); i++ {
			for _, it := range l.pages[i].items(0) {
				if after != "" && it.name <= after {
					continue
				}
				if !yield(l.entry(it)) {
					return
				}
			}
		}
	}
}

func (l *Listing) entry(it item) Entry {
	e := Entry{
		Ino: l.hashed(l.hash, it.name), Parent: l.Ino, Name: strings.Clone(it.name), Mode: it.mode, Size: it.size, MTime: it.mtime,
		Mount: l.Mount, Source: l.Source, Path: join(l.Path, it.name), ETag: it.tag(),
	}
	if ino, ok := l.salts[it.name]; ok {
		e.Ino = ino
	}
	if it.isDir() && l.mounts[it.name] != "" {
		e.Mount, e.Source, e.Path = l.mounts[it.name], l.sources[it.name], ""
	}
	if it.kind() == kindLink {
		e.Link = strings.Clone(it.extra)
	}
	return e
}
