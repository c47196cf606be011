package fuse

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
)

// nodes knows which version of which entry each node id of the kernel stands for.
//
// One node id is one version of one entry, so the kernel's page cache, the
// backing file and the open handles of a node never mix versions. The id is the
// inode number as long as the kernel has seen one version; a newer version gets
// an id of its own, and handles of the old one go on with the old. The kernel
// learns of the new id by a LOOKUP, which it makes by itself when an OPEN or
// GETATTR of the old id is answered with ESTALE.
//
// A restarted server knows nothing of this and takes each id for an inode
// number; ids that were not are answered with ESTALE and looked up again. The
// generation, derived from the version, guards the ids across restarts: the
// kernel drops an inode whose generation has changed.
type nodes struct {
	places bool
	mu     sync.Mutex
	// known has the ids that the kernel remembers, the root excepted.
	known map[uint64]known
	// alias has the inode numbers of ids that are not inode numbers themselves;
	// current has, for the same inodes, the id of the newest version.
	alias, current map[uint64]uint64
}

type known struct {
	version uint64
	lookups uint64 // how often the kernel was told; it forgets by the same count
	// place is where the kernel found it, if that is to be remembered.
	place place
}

// place is an entry of a directory.
type place struct {
	parent uint64 // inode
	name   string
}

// newNodes makes the table; with places it remembers the place of each file.
func newNodes(places bool) *nodes {
	return &nodes{places: places, known: map[uint64]known{}, alias: map[uint64]uint64{}, current: map[uint64]uint64{}}
}

// enter counts one more mention of n to the kernel and returns its id.
func (t *nodes) enter(n Node) (id, version uint64) {
	version = versionOf(n)
	if n.Ino == RootIno {
		return RootIno, version
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	id = t.renewLocked(n.Ino, version)
	k := t.known[id]
	k.version, k.lookups = version, k.lookups+1
	if t.places && n.Mode&modeType != modeDir {
		k.place = place{n.Parent, n.Name}
	}
	t.known[id] = k
	return id, version
}

// renewLocked is the id of this version of an inode, the newest from now on.
func (t *nodes) renewLocked(ino, version uint64) uint64 {
	id := t.currentLocked(ino)
	k, ok := t.known[id]
	if !ok || k.version == version {
		return id
	}
	id = aliasOf(ino, version)
	for t.taken(id, ino) {
		id++
	}
	t.alias[id], t.current[ino] = ino, id
	return id
}

// taken tells whether id stands for something other than ino; hashes may meet.
func (t *nodes) taken(id, ino uint64) bool {
	if id <= RootIno || id == ^uint64(0) {
		return true
	}
	owner, ok := t.alias[id]
	if ok {
		return owner != ino
	}
	_, ok = t.known[id]
	return ok
}

// find tells what the kernel knows the newest version of an inode by, if it
// does, whether that is a directory, and its place if that is remembered.
func (t *nodes) find(ino uint64) (id uint64, ok, dir bool, at place) {
	if ino == RootIno {
		return RootIno, true, true, place{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	id = t.currentLocked(ino)
	k, ok := t.known[id]
	return id, ok, k.version == versionOf(Node{Mode: modeDir}), k.place
}

// all has every inode that the kernel knows something of.
func (t *nodes) all() []uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	inos := make([]uint64, 1, 1+len(t.known))
	inos[0] = RootIno
	for id := range t.known {
		if _, former := t.alias[id]; !former {
			inos = append(inos, id)
		}
	}
	for _, ino := range t.alias {
		inos = append(inos, ino)
	}
	return inos
}

func (t *nodes) currentLocked(ino uint64) uint64 {
	if id, ok := t.current[ino]; ok {
		return id
	}
	return ino
}

// ino is the inode behind an id.
func (t *nodes) ino(id uint64) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ino, ok := t.alias[id]; ok {
		return ino
	}
	return id
}

// isDir tells whether this server gave out the id for a directory.
func (t *nodes) isDir(id uint64) bool {
	version, ok := t.version(id)
	return id == RootIno || ok && version == modeDir
}

// version is what an id stands for; false if a former server gave it out.
func (t *nodes) version(id uint64) (uint64, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.known[id]
	return k.version, ok
}

// speaksOf tells whether id stands for this version of the inode n.Ino. An id
// that a former server gave out speaks of whatever is there now.
func (t *nodes) speaksOf(id, ino, version uint64) bool {
	if id == RootIno {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.known[id]
	if !ok {
		return t.currentLocked(ino) == id
	}
	return k.version == version
}

// forget takes back mentions of an id.
func (t *nodes) forget(id, lookups uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.known[id]
	if !ok {
		return
	}
	if k.lookups > lookups {
		k.lookups -= lookups
		t.known[id] = k
		return
	}
	delete(t.known, id)
	ino, ok := t.alias[id]
	if ok {
		delete(t.alias, id)
	} else {
		ino = id
	}
	if t.current[ino] == id {
		delete(t.current, ino)
	}
}

// versionOf is a number for the version of an entry. Directories have one for
// ever: their listings are invalidated. A link's target is in the page cache.
func versionOf(n Node) uint64 {
	switch {
	case n.Mode&modeType == modeLink:
		return versionHash(n.Link)
	case n.Mode&modeType != modeFile:
		return uint64(n.Mode & modeType)
	case n.Version != "":
		return versionHash(n.Version)
	default:
		var b [16]byte
		binary.LittleEndian.PutUint64(b[:], uint64(n.Size))
		binary.LittleEndian.PutUint64(b[8:], uint64(n.ModTime.UnixNano()))
		return xxhash.Sum64(b[:])
	}
}

func versionHash(version string) uint64 { return xxhash.Sum64String(version) }

// generationOf is positive and fits the kernel's int.
func generationOf(version uint64) uint64 { return version>>33 | 1 }

func aliasOf(ino, version uint64) uint64 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], ino)
	binary.LittleEndian.PutUint64(b[8:], version)
	return xxhash.Sum64(b[:])
}

// How long the kernel may answer by itself. Entries and attributes change only
// with an invalidation; what is not there may come to be at any time.
const (
	entryTimeout    = time.Hour
	attrTimeout     = time.Hour
	negativeTimeout = time.Second
)
