package namespace

import (
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/runtime/source"
)

// What is in this file runs with Tree.mu held for writing.

// maxChange is how many files are told of at once.
const maxChange = 4096

// changes gathers what is done to the tree, to tell it while the tree is still
// locked, so that changes are told in their order.
type changes struct {
	tree *Tree
	Change
	told bool
}

func (t *Tree) changes() *changes { return &changes{tree: t} }

func (c *changes) invalid(ino uint64, name string) {
	c.Invalid = append(c.Invalid, Invalidation{ino, strings.Clone(name)})
	c.full()
}

// files adds a file to the sums, or takes it away.
func (c *changes) file(d *dir, at place, it item, sign int64) {
	if !it.isFile() {
		return
	}
	if at.mount != nil {
		at.mount.files += sign
		at.mount.bytes += sign * it.size
	}
	if c.tree.opts.OnChange == nil {
		return
	}
	if sign > 0 {
		c.Added = append(c.Added, c.tree.entry(d, at, it))
	} else {
		c.Removed = append(c.Removed, c.tree.entry(d, at, it))
	}
}

// full tells of what has been gathered when it is much. It is called only where
// a file is not between its old and its new version.
func (c *changes) full() {
	if len(c.Added)+len(c.Removed)+len(c.Invalid) >= maxChange {
		c.tell()
	}
}

func (c *changes) tell() {
	if len(c.Added) == 0 && len(c.Removed) == 0 && len(c.Invalid) == 0 {
		return
	}
	c.told = true
	if c.tree.opts.OnChange != nil {
		c.tree.opts.OnChange(c.Change)
	}
	c.Change = Change{}
}

// publish ends a change.
func (c *changes) publish() {
	c.tell()
	if c.told {
		c.tree.dirty = true
	}
	c.tree.stirLocked()
}

// replace takes in a whole listing of d. Of entries that were looked at one by
// one after the listing had begun, since its moment in Tree.clock, the tree
// knows better.
func (t *Tree) replace(d *dir, g *gather, since uint64, c *changes) {
	at := d.place()
	b := &binder{dir: d, old: d.pages}
	old, want := cursorOf(d.pages), t.corrected(d, g.cursor(), since)
	subs := make([]*dir, 0, len(d.subs))
	old.step()
	want.step()
	same := true
	for old.ok || want.ok {
		switch {
		case !want.ok || old.ok && old.name < want.name:
			same = false
			t.left(d, at, old.item, c)
			old.step()
			continue
		case !old.ok || want.name < old.name:
			same = false
			t.came(d, at, want.item, c)
		default:
			if !old.same(want.item) {
				same = false
				t.became(d, at, old.item, want.item, c)
			}
			old.step()
		}
		if want.isDir() {
			s := d.sub(want.name)
			if s == nil {
				s = t.newDir(d, want.name, c)
			}
			subs = append(subs, s)
		}
		b.add(want.item)
		want.step()
	}
	b.end()
	former := d.subs
	d.subs = slices.Clip(subs)
	for _, s := range former {
		if d.sub(s.name) != s {
			t.drop(s, at, c)
			same = false
		}
	}
	if !same || len(former) != len(subs) {
		t.bind(d, b.pages, c)
		t.dirty = true
	}
}

// corrected is a listing with what the tree knows better: directories that are
// mounts or lead to one, and entries that were looked at meanwhile.
func (t *Tree) corrected(d *dir, g *cursor, since uint64) *cursor {
	var known []string
	for _, s := range d.subs {
		if s.pinned {
			known = append(known, s.name)
		}
	}
	for s, touched := range t.recent {
		if s.dir == d && touched > since {
			known = append(known, s.name)
		}
	}
	if len(known) == 0 {
		return g
	}
	slices.Sort(known)
	known = slices.Compact(known)
	g.step()
	return &cursor{next: func() (item, bool) {
		for g.ok || len(known) > 0 {
			if len(known) == 0 || g.ok && g.name < known[0] {
				it := g.item
				g.step()
				return it, true
			}
			name := known[0]
			known = known[1:]
			if g.ok && g.name == name {
				g.step()
			}
			if it, _, _, ok := d.find(name); ok {
				return it, true
			}
			if d.sub(name) != nil {
				return dirItem(name), true
			}
		}
		return item{}, false
	}}
}

func itemOf(name string, o source.Object) item {
	it, _, _ := parseItem(string(appendItem(nil, name, o)))
	return it
}

func dirItem(name string) item { return itemOf(name, source.Object{Dir: true}) }

// put takes in what one entry of d is now; without an object, that it is gone.
func (t *Tree) put(d *dir, name string, o *source.Object, c *changes) {
	at := d.place()
	old, _, _, had := d.find(name)
	sub := d.sub(name)
	if t.flights > 0 {
		t.clock++
		t.recent[spot{d, name}] = t.clock
	}
	if o == nil {
		if had {
			t.left(d, at, old, c)
			t.bind(d, splice(d, name, nil), c)
		}
		if sub != nil {
			t.unlink(sub)
			t.drop(sub, at, c)
		}
		if had || sub != nil {
			d.stir()
			t.dirty = true
		}
		return
	}
	it := itemOf(name, *o)
	switch {
	case had && old.same(it):
		return
	case had:
		t.became(d, at, old, it, c)
	default:
		t.came(d, at, it, c)
	}
	if sub != nil && !it.isDir() {
		t.unlink(sub)
		t.drop(sub, at, c)
	}
	if sub == nil && it.isDir() {
		t.link(t.newDir(d, name, c))
	}
	t.bind(d, splice(d, name, &it), c)
	t.dirty = true
}

// splice gives the pages of d with one entry put in, or taken out.
func splice(d *dir, name string, it *item) []*page {
	first := d.pageAt(name)
	b := &binder{dir: d, old: d.pages}
	b.pages = slices.Clone(d.pages[:min(first, len(d.pages))])
	pending := true
	for i := first; i < len(d.pages); i++ {
		for _, e := range d.pages[i].items(0) {
			if pending && e.name >= name {
				pending = false
				if it != nil {
					b.add(*it)
				}
				if e.name == name {
					continue
				}
			}
			b.add(e)
		}
		if !pending && b.count == 0 { // from here on the pages end where they ended
			b.pages = append(b.pages, d.pages[i+1:]...)
			return b.pages
		}
	}
	if pending && it != nil {
		b.add(*it)
	}
	b.end()
	return b.pages
}

// came takes in that d has an entry that it had not.
func (t *Tree) came(d *dir, at place, it item, c *changes) {
	c.file(d, at, it, +1)
	if d.listed != 0 || t.missing.forget(d.ino, it.name) {
		c.invalid(d.ino, it.name)
	}
	c.full()
}

// left takes in that d has an entry no more.
func (t *Tree) left(d *dir, at place, it item, c *changes) {
	c.file(d, at, it, -1)
	t.forgetSalt(d, it.name)
	c.invalid(d.ino, it.name)
}

// became takes in that an entry is another one.
func (t *Tree) became(d *dir, at place, old, it item, c *changes) {
	c.file(d, at, old, -1)
	c.file(d, at, it, +1)
	c.invalid(d.ino, it.name)
	c.invalid(t.inoOf(d, it.name), "")
}

// newDir makes a directory below d; the caller puts it among d's.
func (t *Tree) newDir(d *dir, name string, c *changes) *dir {
	s := &dir{parent: d, name: strings.Clone(name)}
	s.hash = t.hash(d.hash, name)
	t.claim(d, name, func(ino uint64) { s.ino = ino; t.dirs[ino] = s }, c)
	return s
}

func (t *Tree) link(s *dir) {
	d := s.parent
	i, _ := d.subAt(s.name)
	d.subs = slices.Insert(d.subs, i, s)
	d.stir()
	t.dirty = true
}

func (t *Tree) unlink(s *dir) {
	d := s.parent
	if i, ok := d.subAt(s.name); ok && d.subs[i] == s {
		d.subs = slices.Delete(d.subs, i, i+1)
	}
	d.stir()
}

// drop takes a directory, and all below it, out of the tree; the caller has
// taken it from its parent's. above is the place of the parent.
func (t *Tree) drop(s *dir, above place, c *changes) {
	at := place{above.mount, above.join(s.name)}
	if s.mount != nil {
		at = place{s.mount, ""}
	}
	for _, below := range s.subs {
		t.drop(below, at, c)
	}
	for it := range s.items {
		c.file(s, at, it, -1)
		t.forgetSalt(s, it.name)
		c.full()
	}
	for _, p := range s.pages {
		t.unbind(p)
	}
	if t.dirs[s.ino] == s {
		delete(t.dirs, s.ino)
	}
	s.parent, s.pages, s.subs = nil, nil, nil
}

// missing remembers for a while which names their source did not have.
type missing struct {
	until map[Invalidation]time.Time
}

// maxMissing bounds the names; the oldest of them go when there are more.
const maxMissing = 1 << 16

func (m *missing) add(ino uint64, name string, until time.Time) {
	if len(m.until) >= maxMissing {
		now := time.Now()
		for k, t := range m.until {
			if now.After(t) || len(m.until) > maxMissing*3/4 {
				delete(m.until, k)
			}
		}
	}
	m.until[Invalidation{ino, strings.Clone(name)}] = until
}

func (m *missing) has(ino uint64, name string) bool {
	until, ok := m.until[Invalidation{ino, name}]
	return ok && time.Now().Before(until)
}

func (m *missing) forget(ino uint64, name string) (had bool) {
	if len(m.until) == 0 {
		return false
	}
	_, had = m.until[Invalidation{ino, name}]
	delete(m.until, Invalidation{ino, name})
	return had
}
