package namespace

import (
	"encoding/binary"
	"encoding/hex"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/cespare/xxhash/v2"

	"github.com/millrace/millrace/runtime/source"
)

// node is one entry. There may be millions of them: each field counts.
// All fields are guarded by Tree.mu.
type node struct {
	name   string
	parent *node // nil for the root and for what left the tree
	dir    *dir  // directories only
	// extra is the entity tag of a file, the target of a link.
	extra string
	ino   uint64
	size  int64
	mtime int64
	mode  uint32 // as in stat(2), and shortTag
	// gen is the youngest scan that has seen the entry.
	gen uint32
}

// dir is what a directory has besides.
type dir struct {
	children []*node // sorted by name
	// mount is set on the directory where a mount appears.
	mount *mount
	// pinned directories are mounts or lead to one; no listing removes them.
	pinned bool
	// listed is when the whole listing was last seen, in Unix nanoseconds; 0: never.
	listed int64
	// call is the listing in flight.
	call *call
}

// call is one listing that several may wait for.
type call struct {
	done chan struct{}
	err  error
}

func (n *node) isFile() bool { return n.mode&syscall.S_IFMT == syscall.S_IFREG }

// find returns the child of a directory and its place, or the place where it belongs.
func (d *dir) find(name string) (*node, int) {
	i, ok := slices.BinarySearchFunc(d.children, name, func(n *node, name string) int { return strings.Compare(n.name, name) })
	if !ok {
		return nil, i
	}
	return d.children[i], i
}

// mountOf is the mount that n belongs to, nil if it only leads to mounts, and
// the path relative to it.
func (n *node) mountOf() (*mount, string) {
	var parts []string
	for ; n != nil; n = n.parent {
		if n.dir != nil && n.dir.mount != nil {
			slices.Reverse(parts)
			return n.dir.mount, strings.Join(parts, "/")
		}
		parts = append(parts, n.name)
	}
	return nil, ""
}

// path is the absolute path of n within the dataset.
func (n *node) path() string {
	var parts []string
	for ; n.parent != nil; n = n.parent {
		parts = append(parts, n.name)
	}
	slices.Reverse(parts)
	return "/" + strings.Join(parts, "/")
}

// entry is what others see of n.
func (n *node) entry() Entry {
	m, rel := n.mountOf()
	e := Entry{Ino: n.ino, Parent: RootIno, Name: n.name, Mode: n.mode &^ shortTag, Size: n.size, MTime: n.mtime, Path: rel}
	if n.parent != nil {
		e.Parent = n.parent.ino
	}
	if m != nil {
		e.Mount = m.Path
	}
	switch n.mode & syscall.S_IFMT {
	case syscall.S_IFLNK:
		e.Link = n.extra
	case syscall.S_IFREG:
		e.ETag = n.extra
		if n.mode&shortTag != 0 {
			e.ETag = longTag(n.extra)
		}
	}
	return e
}

// shortTag in a mode says that the entity tag is kept as the 16 bytes which its
// 32 hex digits in quotes stand for, as nearly all tags of object stores are.
const shortTag = 1 << 31

func shorten(tag string) (raw string, ok bool) {
	if len(tag) != 34 || tag[0] != '"' || tag[33] != '"' || tag != strings.ToLower(tag) {
		return tag, false
	}
	var b [16]byte
	if _, err := hex.Decode(b[:], []byte(tag[1:33])); err != nil {
		return tag, false
	}
	return string(b[:]), true
}

func longTag(raw string) string { return `"` + hex.EncodeToString([]byte(raw)) + `"` }

// sum is n's part in the snapshot: it tells apart any two states of the entry.
func (n *node) sum() uint64 {
	var fixed [32]byte
	binary.LittleEndian.PutUint64(fixed[0:], n.ino)
	if n.dir == nil {
		binary.LittleEndian.PutUint64(fixed[8:], uint64(n.size))
		binary.LittleEndian.PutUint64(fixed[16:], uint64(n.mtime))
	}
	binary.LittleEndian.PutUint32(fixed[24:], n.mode)
	var h xxhash.Digest
	h.Reset()
	_, _ = h.Write(fixed[:])
	_, _ = h.WriteString(n.extra)
	return h.Sum64()
}

// Permission bits of entries whose source has none.
const (
	defaultFileMode = 0o644
	defaultDirMode  = 0o755
)

// modeOf gives the mode as in stat(2) of what a source lists.
func modeOf(o source.Object) uint32 {
	perm := o.Mode & 0o777
	switch {
	case o.Dir:
		if perm == 0 {
			perm = defaultDirMode
		}
		return syscall.S_IFDIR | perm
	case o.Link != "":
		return syscall.S_IFLNK | 0o777
	default:
		if perm == 0 {
			perm = defaultFileMode
		}
		return syscall.S_IFREG | perm
	}
}

// state is the part of an Object that a node keeps.
type state struct {
	mode        uint32
	size, mtime int64
	extra       string
}

func stateOf(o source.Object) state {
	s := state{mode: modeOf(o)}
	if !o.ModTime.IsZero() {
		s.mtime = o.ModTime.UnixNano()
	}
	switch {
	case o.Dir:
	case o.Link != "":
		s.size, s.extra = int64(len(o.Link)), o.Link
	default:
		var short bool
		s.size = o.Size
		if s.extra, short = shorten(o.ETag); short {
			s.mode |= shortTag
		}
	}
	return s
}

func (n *node) state() state { return state{n.mode, n.size, n.mtime, n.extra} }

// maxName is the longest name that Linux shows, in bytes.
const maxName = 255

// validName tells whether a name can appear in a directory.
func validName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= maxName && !strings.ContainsAny(name, "/\x00")
}

// baseName is the last part of a path relative to a mount.
func baseName(rel string) string { return rel[strings.LastIndexByte(rel, '/')+1:] }

// splitPath gives the parts of an absolute path; none for the root.
func splitPath(p string) []string {
	p = strings.Trim(path.Clean("/"+p), "/")
	if p == "" {
		return nil
	}
	return strings.Split(p, "/")
}
