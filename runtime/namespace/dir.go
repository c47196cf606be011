package namespace

import (
	"encoding/binary"
	"slices"
	"strings"
	"syscall"

	"crypto/sha256"

	"github.com/millrace/millrace/runtime/source"
)

// dir is one directory. All fields are guarded by Tree.mu; pages are replaced,
// never changed, so whoever has seen them may read on without the lock.
type dir struct {
	parent *dir // nil for the root and for what left the tree
	name   string
	hash   uint64 // of the path
	ino    uint64 // the hash, unless another path has that
	pages  []*page
	subs   []*dir // sorted by name
	record Record // zero when it is to be made anew
	// listed is when the whole listing was last seen, in Unix nanoseconds; 0: never.
	listed int64
	// mount is set on the directory where a mount appears.
	mount *mount
	// call is the listing in flight.
	call *call
	scan uint32 // that has seen it whole
	// pinned directories are mounts or lead to one; no listing removes them.
	pinned bool
	// restored: it is as a former process has left it.
	restored bool
}

// call is one listing that several may wait for.
type call struct {
	done chan struct{}
	err  error
}

// find looks for a name among the entries.
func (d *dir) find(name string) (it item, p *page, at int, ok bool) {
	p = d.pageOf(name)
	if p == nil {
		return it, nil, 0, false
	}
	it, at, ok = p.find(name)
	return it, p, at, ok
}

// pageOf is the page that has the name, if any has.
func (d *dir) pageOf(name string) *page {
	i := d.pageAt(name)
	if i >= len(d.pages) {
		return nil
	}
	return d.pages[i]
}

func (d *dir) pageAt(name string) int {
	i, ok := slices.BinarySearchFunc(d.pages, name, func(p *page, name string) int { return strings.Compare(p.first(), name) })
	if !ok && i > 0 {
		i--
	}
	return i
}

// items goes over all entries.
func (d *dir) items(yield func(item) bool) { eachItem(d.pages, yield) }

func eachItem(pages []*page, yield func(item) bool) {
	for _, p := range pages {
		for _, it := range p.items(0) {
			if !yield(it) {
				return
			}
		}
	}
}

// sub finds a directory, which may be one that no listing has named yet.
func (d *dir) sub(name string) *dir {
	if i, ok := d.subAt(name); ok {
		return d.subs[i]
	}
	return nil
}

func (d *dir) subAt(name string) (int, bool) {
	if n := len(d.subs); n > 0 && d.subs[n-1].name < name { // sorted sources append
		return n, false
	}
	return slices.BinarySearchFunc(d.subs, name, func(s *dir, name string) int { return strings.Compare(s.name, name) })
}

// place is where a directory lies: its path, and the mount it belongs to.
type place struct {
	mount *mount // nil for a directory that only leads to mounts
	rel   string // path relative to the mount
}

func (p place) join(name string) string { return join(p.rel, name) }

func (d *dir) place() place {
	var parts []string
	for ; d != nil; d = d.parent {
		if d.mount != nil {
			slices.Reverse(parts)
			return place{d.mount, strings.Join(parts, "/")}
		}
		parts = append(parts, d.name)
	}
	return place{}
}

// path is the absolute path within the dataset.
func (d *dir) path() string {
	var parts []string
	for ; d.parent != nil; d = d.parent {
		parts = append(parts, d.name)
	}
	slices.Reverse(parts)
	return "/" + strings.Join(parts, "/")
}

// gone tells whether d has left the tree.
func (t *Tree) gone(d *dir) bool { return d != t.root && d.parent == nil }

// defaultDir is what is known of a directory that no listing has named.
var defaultDir = func() item {
	i, _, _ := parseItem(string(appendItem(nil, "x", source.Object{Dir: true})))
	return i
}()

// dirEntry is what others see of a directory.
func (t *Tree) dirEntry(d *dir) Entry {
	at := d.place()
	e := Entry{Ino: d.ino, Parent: RootIno, Name: d.name, Mode: syscall.S_IFDIR | defaultDirMode, Path: at.rel}
	if at.mount != nil {
		e.Mount, e.Source = at.mount.Path, at.mount.id()
	}
	it := t.rootItem
	if d.parent != nil {
		e.Parent = d.parent.ino
		var ok bool
		if it, _, _, ok = d.parent.find(d.name); !ok || !it.isDir() {
			return e
		}
	}
	e.Mode, e.MTime = it.mode, it.mtime
	return e
}

// entry is what others see of an entry of d, which is not a directory.
func (t *Tree) entry(d *dir, at place, it item) Entry {
	e := Entry{
		Ino: t.inoOf(d, it.name), Parent: d.ino, Name: strings.Clone(it.name), Mode: it.mode, Size: it.size, MTime: it.mtime, Path: at.join(it.name),
	}
	if at.mount != nil {
		e.Mount, e.Source = at.mount.Path, at.mount.id()
	}
	if it.kind() == kindLink {
		e.Link = strings.Clone(it.extra)
	}
	e.ETag = it.tag()
	return e
}

// recordOf gives the record of d, made anew as far as something changed; the
// tree is locked for writing.
func (t *Tree) recordOf(d *dir) Record {
	if !d.record.IsZero() {
		return d.record
	}
	h := sha256.New()
	head := []byte("directory of Millrace 1:")
	if d.listed != 0 {
		head = append(head, "listed"...)
	}
	head = binary.LittleEndian.AppendUint32(head, uint32(len(d.pages)))
	h.Write(head)
	if d == t.root {
		h.Write(t.rootItem.encode(nil))
	}
	h.Write([]byte(sourceOf(d)))
	for _, p := range d.pages {
		h.Write(p.id[:])
	}
	for _, s := range d.subs {
		r := t.recordOf(s)
		h.Write([]byte(s.name))
		h.Write([]byte{0})
		h.Write(r[:])
	}
	for _, name := range t.salted(d) {
		h.Write(binary.LittleEndian.AppendUint64([]byte(name), t.inoOf(d, name)))
	}
	var sum [sha256.Size]byte
	copy(d.record[:], h.Sum(sum[:0]))
	return d.record
}

// stir says that the record of d, and so those above it, is another one now.
func (d *dir) stir() {
	for ; d != nil && !d.record.IsZero(); d = d.parent {
		d.record = Record{}
	}
}

// maxName is the longest name that Linux shows, in bytes.
const maxName = 255

// validName tells whether a name can appear in a directory.
func validName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= maxName && !strings.ContainsAny(name, "/\x00")
}
