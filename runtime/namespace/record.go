package namespace

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/millrace/millrace/runtime/source"
)

// Record names one state of a directory and of everything below it: a hash of
// its pages and of the records of its directories, as a tree of git does. Two
// directories with one Record are equal. The zero Record is of nothing.
type Record [16]byte

// IsZero tells whether r names nothing.
func (r Record) IsZero() bool { return r == Record{} }

func (r Record) String() string { return hex.EncodeToString(r[:]) }

// RecordOf reads the bytes of a Record; anything else gives the zero Record.
func RecordOf(b []byte) (r Record) {
	if len(b) == len(r) {
		copy(r[:], b)
	}
	return r
}

// recordOf is the name of bytes: the first half of their SHA-256.
func recordOf(b []byte) (r Record) {
	sum := sha256.Sum256(b)
	copy(r[:], sum[:])
	return r
}

// A page is a run of the entries of one directory, sorted by name, encoded one
// after the other. It never changes. Where a page ends depends on the names in
// it alone, so that a change of one entry changes one page, and equal
// directories have equal pages however they came about.
type page struct {
	dir  *dir
	data string
	// starts are the offsets of every startEvery'th entry but the first.
	starts []uint32
	id     Record // of data
	number uint32 // in Tree.pages
	count  uint32
}

const (
	pageEntries    = 256  // per page, on average
	maxPageEntries = 4096 // a page ends here whatever its names
	startEvery     = 8
)

// endsPage tells whether a page ends with this name.
func endsPage(name string) bool { return xxhash.Sum64String(name)%pageEntries == 0 }

// Kinds of entries, in the lowest bits of the first byte of an encoded one. The
// other bits say what follows.
const (
	kindFile = iota
	kindDir
	kindLink
	kindMask = 3

	hasMode  = 1 << 2 // permission bits that are not the default
	hasTime  = 1 << 3
	hasNanos = 1 << 4 // of the time
	// shortTag: the entity tag is kept as the 16 bytes which its 32 hex digits
	// in quotes stand for, as nearly all tags of object stores are.
	shortTag = 1 << 5
	hasExtra = 1 << 6 // an entity tag of another form, or the target of a link
)

// item is an encoded entry, taken apart.
type item struct {
	flags byte
	name  string
	mode  uint32 // as in stat(2)
	size  int64
	mtime int64 // nanoseconds since 1970; 0: none
	extra string
	rest  string // what is encoded behind the name
}

func (i item) kind() byte   { return i.flags & kindMask }
func (i item) isFile() bool { return i.kind() == kindFile }
func (i item) isDir() bool  { return i.kind() == kindDir }

// same tells whether two items of one name are of the same state.
func (i item) same(o item) bool { return i.flags == o.flags && i.rest == o.rest }

// tag is the entity tag as it came from the source.
func (i item) tag() string {
	switch {
	case !i.isFile():
		return ""
	case i.flags&shortTag != 0:
		return longTag(i.extra)
	default:
		return strings.Clone(i.extra)
	}
}

// Permission bits of entries whose source has none.
const (
	defaultFileMode = 0o644
	defaultDirMode  = 0o755
	linkMode        = 0o777
)

// appendItem encodes an object under a name: a byte of flags, the length of the
// name and the name, then what the flags say: permission bits (2 bytes), size
// (files), seconds, nanoseconds, tag or target. It also serves as the format on
// disk and on the wire.
func appendItem(b []byte, name string, o source.Object) []byte {
	flags, perm, extra := byte(kindFile), o.Mode&0o777, o.ETag
	switch {
	case o.Dir:
		flags, extra = kindDir, ""
		if perm == defaultDirMode {
			perm = 0
		}
	case o.Link != "":
		flags, perm, extra = kindLink, 0, o.Link
	case perm == defaultFileMode:
		perm = 0
	}
	if perm != 0 {
		flags |= hasMode
	}
	var seconds, nanos int64
	if !o.ModTime.IsZero() {
		seconds, nanos = o.ModTime.Unix(), int64(o.ModTime.Nanosecond())
		if seconds != 0 || nanos != 0 {
			flags |= hasTime
		}
		if nanos != 0 {
			flags |= hasNanos
		}
	}
	short, isShort := "", false
	if flags&kindMask == kindFile {
		short, isShort = shorten(extra)
	}
	switch {
	case isShort:
		flags |= shortTag
	case extra != "":
		flags |= hasExtra
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, uint64(len(name)))
	b = append(b, name...)
	if flags&hasMode != 0 {
		b = binary.LittleEndian.AppendUint16(b, uint16(perm))
	}
	if flags&kindMask == kindFile {
		b = binary.AppendUvarint(b, uint64(max(0, o.Size)))
	}
	if flags&hasTime != 0 {
		b = binary.AppendVarint(b, seconds)
	}
	if flags&hasNanos != 0 {
		b = binary.AppendUvarint(b, uint64(nanos))
	}
	switch {
	case isShort:
		b = append(b, short...)
	case extra != "":
		b = binary.AppendUvarint(b, uint64(len(extra)))
		b = append(b, extra...)
	}
	return b
}

// ErrCorrupt: bytes that are to be a page or a saved tree are not.
var ErrCorrupt = errors.New("corrupt metadata")

// maxExtra bounds a tag or a target, in bytes.
const maxExtra = 64 << 10

// parseItem takes the first entry of data apart and tells how long it is. The
// item's strings are parts of data. Whether the name is one is not looked at.
func parseItem(data string) (i item, n int, err error) {
	if len(data) < 2 {
		return i, 0, ErrCorrupt
	}
	flags := data[0]
	i.flags = flags
	at := 1
	if i.name, at = take(data, at, maxName); at < 0 || i.kind() > kindLink || flags&0x80 != 0 {
		return i, 0, ErrCorrupt
	}
	nameEnd := at
	switch i.kind() {
	case kindFile:
		i.mode = syscall.S_IFREG | defaultFileMode
	case kindDir:
		i.mode = syscall.S_IFDIR | defaultDirMode
	case kindLink:
		i.mode = syscall.S_IFLNK | linkMode
	}
	if flags&hasMode != 0 {
		if len(data) < at+2 {
			return i, 0, ErrCorrupt
		}
		i.mode = i.mode&syscall.S_IFMT | uint32(data[at]) | uint32(data[at+1])<<8
		at += 2
		if i.mode&^(syscall.S_IFMT|0o777) != 0 {
			return i, 0, ErrCorrupt
		}
	}
	if i.isFile() {
		var size uint64
		if size, at = uvarint(data, at); at < 0 || size > 1<<62 {
			return i, 0, ErrCorrupt
		}
		i.size = int64(size)
	}
	if flags&hasTime != 0 {
		var u, nanos uint64
		if u, at = uvarint(data, at); at < 0 {
			return i, 0, ErrCorrupt
		}
		if flags&hasNanos != 0 {
			if nanos, at = uvarint(data, at); at < 0 || nanos >= uint64(time.Second) {
				return i, 0, ErrCorrupt
			}
		}
		i.mtime = time.Unix(int64(u>>1)^-int64(u&1), int64(nanos)).UnixNano()
	}
	switch {
	case flags&shortTag != 0:
		if !i.isFile() || flags&hasExtra != 0 || len(data) < at+16 {
			return i, 0, ErrCorrupt
		}
		i.extra = data[at : at+16]
		at += 16
	case flags&hasExtra != 0:
		if i.extra, at = take(data, at, maxExtra); at < 0 || i.isDir() {
			return i, 0, ErrCorrupt
		}
	}
	if i.kind() == kindLink {
		i.size = int64(len(i.extra))
	}
	i.rest = data[nameEnd:at]
	return i, at, nil
}

// take reads a length and so many bytes; the place behind them is negative if
// there are not so many.
func take(data string, at, limit int) (string, int) {
	n, at := uvarint(data, at)
	if at < 0 || n > uint64(limit) || uint64(len(data)-at) < n {
		return "", -1
	}
	return data[at : at+int(n)], at + int(n)
}

func uvarint(data string, at int) (uint64, int) {
	var v uint64
	for shift := 0; at < len(data) && shift < 64; shift += 7 {
		b := data[at]
		at++
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			if shift == 63 && b > 1 {
				return 0, -1
			}
			return v, at
		}
	}
	return 0, -1
}

// newPage makes a page of encoded entries that are known to be well formed, and
// tells where each startEvery'th begins.
func newPage(d *dir, data []byte, starts []uint32, count int) *page {
	return &page{dir: d, data: string(data), starts: slices.Clone(starts), id: recordOf(data), count: uint32(count)}
}

// parsePage makes a page of bytes from outside. Its names are in order, without
// repetition, and come after the name that is given.
func parsePage(d *dir, data string, after string) (*page, string, error) {
	p := &page{dir: d, data: data, id: recordOf([]byte(data))}
	for at := 0; at < len(data); {
		i, n, err := parseItem(data[at:])
		if err != nil {
			return nil, "", err
		}
		if i.name <= after || !validName(i.name) {
			return nil, "", fmt.Errorf("%w: %q after %q", ErrCorrupt, i.name, after)
		}
		if p.count > 0 && p.count%startEvery == 0 {
			p.starts = append(p.starts, uint32(at))
		}
		after = i.name
		p.count++
		at += n
	}
	if p.count == 0 || p.count > maxPageEntries {
		return nil, "", fmt.Errorf("%w: a page of %d entries", ErrCorrupt, p.count)
	}
	p.starts = slices.Clip(p.starts)
	return p, after, nil
}

// items goes over the entries of a page from number i on.
func (p *page) items(i int) func(yield func(int, item) bool) {
	return func(yield func(int, item) bool) {
		at, n := 0, i/startEvery
		if n > 0 {
			at = int(p.starts[n-1])
		}
		for n *= startEvery; at < len(p.data); n++ {
			it, size := p.item(at)
			at += size
			if n >= i && !yield(n, it) {
				return
			}
		}
	}
}

// item takes apart the entry at an offset of a page, which was checked when the
// page was made.
func (p *page) item(at int) (item, int) {
	i, n, err := parseItem(p.data[at:])
	if err != nil {
		panic(fmt.Sprintf("entry at %d of a page of %d bytes: %v", at, len(p.data), err))
	}
	return i, n
}

// nth is one entry.
func (p *page) nth(i int) (it item, ok bool) {
	for _, it := range p.items(i) {
		return it, true
	}
	return it, false
}

// first is the first name of a page.
func (p *page) first() string {
	name, _ := take(p.data, 1, maxName)
	return name
}

// find looks for a name.
func (p *page) find(name string) (it item, at int, ok bool) {
	// The last start whose name is not behind it.
	group, found := slices.BinarySearchFunc(p.starts, name, func(at uint32, name string) int {
		here, _ := take(p.data, int(at)+1, maxName)
		return strings.Compare(here, name)
	})
	if found {
		group++
	}
	for n, it := range p.items(group * startEvery) {
		if it.name >= name {
			return it, n, it.name == name
		}
	}
	return it, 0, false
}

func shorten(tag string) (raw string, ok bool) {
	if len(tag) != 34 || tag[0] != '"' || tag[33] != '"' {
		return tag, false
	}
	var b [16]byte
	for i := 1; i < 33; i++ {
		c := tag[i]
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		default:
			return tag, false
		}
		b[(i-1)/2] = b[(i-1)/2]<<4 | c
	}
	return string(b[:]), true
}

func longTag(raw string) string {
	b := make([]byte, 0, 34)
	b = append(b, '"')
	b = hex.AppendEncode(b, []byte(raw))
	return string(append(b, '"'))
}

// gather takes in the entries of one directory as a source lists them, in any
// order, in little memory.
type gather struct {
	buf      []byte
	at       []int
	last     string
	unsorted bool
}

func (g *gather) add(name string, o source.Object) {
	if !validName(name) || len(o.ETag) > maxExtra || len(o.Link) > maxExtra {
		return
	}
	if len(g.at) > 0 && name <= g.last {
		g.unsorted = true
	}
	g.at = append(g.at, len(g.buf))
	g.buf = appendItem(g.buf, name, o)
	g.last = name
}

// cursor goes over what was gathered, sorted by name, each name once. Of a file
// and a directory of one name, which object stores may have, the directory is
// the one that is shown; of two directories the one of which more is known.
func (g *gather) cursor() *cursor {
	data, at := string(g.buf), g.at
	g.buf, g.at = nil, nil
	name := func(i int) string {
		s, _ := take(data, at[i]+1, maxName)
		return s
	}
	if g.unsorted {
		slices.SortStableFunc(at, func(a, b int) int {
			x, _ := take(data, a+1, maxName)
			y, _ := take(data, b+1, maxName)
			return strings.Compare(x, y)
		})
	}
	n := 0
	return &cursor{next: func() (best item, ok bool) {
		if n >= len(at) {
			return best, false
		}
		best, _, _ = parseItem(data[at[n]:])
		for n++; n < len(at) && name(n) == best.name; n++ {
			other, _, _ := parseItem(data[at[n]:])
			if other.isDir() && (!best.isDir() || best.mtime == 0) {
				best = other
			}
		}
		return best, true
	}}
}

// cursor goes over items in the order of their names.
type cursor struct {
	next func() (item, bool)
	item
	ok bool // item is one; the end has not been reached
}

func (c *cursor) step() { c.item, c.ok = c.next() }

// cursorOf goes over the entries of pages.
func cursorOf(pages []*page) *cursor {
	i, at := 0, 0
	return &cursor{next: func() (it item, ok bool) {
		for ; i < len(pages); i, at = i+1, 0 {
			if at < len(pages[i].data) {
				it, n := pages[i].item(at)
				at += n
				return it, true
			}
		}
		return it, false
	}}
}

// binder makes the pages of a directory from its entries in order.
type binder struct {
	dir    *dir
	old    []*page // to be used again where nothing has changed
	pages  []*page
	buf    []byte
	starts []uint32
	count  int
}

func (b *binder) add(i item) {
	if b.count > 0 && b.count%startEvery == 0 {
		b.starts = append(b.starts, uint32(len(b.buf)))
	}
	b.buf = i.encode(b.buf)
	b.count++
	if b.count >= maxPageEntries || endsPage(i.name) {
		b.end()
	}
}

// encode appends the entry as it was before it was taken apart.
func (i item) encode(buf []byte) []byte {
	buf = append(buf, i.flags)
	buf = binary.AppendUvarint(buf, uint64(len(i.name)))
	buf = append(buf, i.name...)
	return append(buf, i.rest...)
}

// end ends the page that is being made.
func (b *binder) end() {
	if b.count == 0 {
		return
	}
	p := b.same()
	if p == nil {
		p = newPage(b.dir, b.buf, b.starts, b.count)
	}
	b.pages = append(b.pages, p)
	b.buf, b.starts, b.count = b.buf[:0], b.starts[:0], 0
}

// same is the page that there was of the same entries.
func (b *binder) same() *page {
	name, _ := take(string(b.buf[:min(len(b.buf), maxName+4)]), 1, maxName)
	i, ok := slices.BinarySearchFunc(b.old, name, func(p *page, name string) int { return strings.Compare(p.first(), name) })
	if ok && b.old[i].data == string(b.buf) {
		return b.old[i]
	}
	return nil
}
