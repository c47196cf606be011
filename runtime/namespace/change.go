package namespace

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/runtime/source"
)

// What is in this file runs with Tree.mu held for writing and gathers what it
// did in a Change.

// child is an object of a listing with the name that it has in its directory.
type child struct {
	name string
	obj  source.Object
}

// merge takes the objects of one directory into the tree. A whole listing also
// removes what it does not have. gen marks what was there.
func (t *Tree) merge(d *node, objs []child, whole bool, gen uint32, c *Change) {
	slices.SortFunc(objs, byNameDirFirst)
	old := d.dir.children
	if len(objs) > 0 && len(old) > 0 && old[len(old)-1].name < objs[0].name && !whole {
		for i, o := range objs { // sorted sources append
			if i == 0 || o.name != objs[i-1].name {
				t.append(d, o, gen, c)
			}
		}
		return
	}
	merged := make([]*node, 0, max(len(old), len(objs)))
	d.dir.children = nil
	i := 0
	keepOrDrop := func(n *node) {
		if whole && !n.pinned() {
			t.drop(n, c)
			c.Invalid = append(c.Invalid, Invalidation{d.ino, n.name})
			return
		}
		merged = append(merged, n)
	}
	for j, o := range objs {
		if j > 0 && o.name == objs[j-1].name {
			continue
		}
		for ; i < len(old) && old[i].name < o.name; i++ {
			keepOrDrop(old[i])
		}
		if i < len(old) && old[i].name == o.name {
			merged = append(merged, t.update(old[i], o.obj, gen, c))
			i++
			continue
		}
		merged = append(merged, t.create(d, o, gen, c))
	}
	for ; i < len(old); i++ {
		keepOrDrop(old[i])
	}
	d.dir.children = slices.Clip(merged)
}

func (t *Tree) append(d *node, o child, gen uint32, c *Change) {
	d.dir.children = append(d.dir.children, t.create(d, o, gen, c))
}

func (n *node) pinned() bool { return n.dir != nil && n.dir.pinned }

// byNameDirFirst orders a listing; of a file and a directory of one name, which
// object stores may have, the directory is the one that is shown.
func byNameDirFirst(a, b child) int {
	if c := cmp.Compare(a.name, b.name); c != 0 || a.obj.Dir == b.obj.Dir {
		return c
	}
	if a.obj.Dir {
		return -1
	}
	return 1
}

// create makes a node below d; the caller puts it among d's children.
func (t *Tree) create(d *node, o child, gen uint32, c *Change) *node {
	s := stateOf(o.obj)
	n := &node{name: strings.Clone(o.name), parent: d, mode: s.mode, size: s.size, mtime: s.mtime, extra: s.extra, gen: gen}
	if o.obj.Dir {
		n.dir = &dir{}
	}
	t.number(n, c)
	t.account(n, +1, c)
	if d.dir.listed != 0 {
		c.Invalid = append(c.Invalid, Invalidation{d.ino, n.name})
	}
	return n
}

// update brings a node to what its source says of it now. A node that became
// another kind of entry is replaced by a new one of the same inode.
func (t *Tree) update(n *node, o source.Object, gen uint32, c *Change) *node {
	if n.pinned() || n.dir != nil && !o.Dir && n.gen >= gen && gen > 0 {
		return n // a mount lies over it, or a directory of this name was seen in the same scan
	}
	n.gen = max(n.gen, gen)
	s := stateOf(o)
	if n.state() == s {
		return n
	}
	c.Invalid = append(c.Invalid, Invalidation{n.parent.ino, n.name}, Invalidation{Ino: n.ino})
	if (n.dir != nil) != o.Dir || n.isFile() != (stateIsFile(s)) {
		parent := n.parent
		t.drop(n, c)
		return t.create(parent, child{n.name, o}, gen, c)
	}
	t.account(n, -1, c)
	n.mode, n.size, n.mtime, n.extra = s.mode, s.size, s.mtime, s.extra
	t.account(n, +1, c)
	return n
}

func stateIsFile(s state) bool { n := node{mode: s.mode}; return n.isFile() }

// drop takes n and all below it out of the tree; the caller takes it from its
// parent's children.
func (t *Tree) drop(n *node, c *Change) {
	if n.dir != nil {
		for _, below := range n.dir.children {
			t.drop(below, c)
		}
		n.dir.children = nil
	}
	t.account(n, -1, c)
	if t.inos[n.ino] == n {
		delete(t.inos, n.ino)
	}
	n.parent = nil
}

// remove is drop for a node whose parent still lists it.
func (t *Tree) remove(n *node, c *Change) {
	d := n.parent
	if _, i := d.dir.find(n.name); i < len(d.dir.children) && d.dir.children[i] == n {
		d.dir.children = slices.Delete(d.dir.children, i, i+1)
	}
	c.Invalid = append(c.Invalid, Invalidation{d.ino, n.name})
	t.drop(n, c)
}

// insert is create for a node that its parent shall list.
func (t *Tree) insert(d *node, o child, gen uint32, c *Change) *node {
	n := t.create(d, o, gen, c)
	_, i := d.dir.find(o.name)
	d.dir.children = slices.Insert(d.dir.children, i, n)
	return n
}

// account adds n to the sums, or takes it from them.
func (t *Tree) account(n *node, sign int64, c *Change) {
	if sign > 0 {
		t.snapshot += n.sum()
	} else {
		t.snapshot -= n.sum()
	}
	if !n.isFile() {
		return
	}
	e := n.entry()
	if sign > 0 {
		c.Added = append(c.Added, e)
	} else {
		c.Removed = append(c.Removed, e)
	}
	if m := t.mounts[e.Mount]; m != nil {
		m.files += sign
		m.bytes += sign * n.size
	}
}

// sweep removes what a scan of the tree below d did not see, and says of every
// directory that it was listed whole.
func (t *Tree) sweep(d *node, gen uint32, now time.Time, c *Change) {
	d.dir.listed = now.UnixNano()
	kept := d.dir.children[:0]
	for _, n := range d.dir.children {
		switch {
		case n.dir != nil && n.dir.mount != nil:
		case n.gen < gen && !n.pinned():
			t.drop(n, c)
			c.Invalid = append(c.Invalid, Invalidation{d.ino, n.name})
			continue
		case n.dir != nil:
			t.sweep(n, gen, now, c)
		}
		kept = append(kept, n)
	}
	clear(d.dir.children[len(kept):])
	d.dir.children = kept
}

// publish tells of a change while the tree is still locked, so that changes
// are told in their order.
func (t *Tree) publish(c *Change) {
	if t.opts.OnChange != nil && (len(c.Added) > 0 || len(c.Removed) > 0 || len(c.Invalid) > 0) {
		t.opts.OnChange(*c)
	}
	t.stirLocked()
}
