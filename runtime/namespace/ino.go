package namespace

import (
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// number gives n, which is in the tree, its inode number: the hash of its path.
// Of two paths with one hash the lesser keeps it, and the other one is numbered
// by the hash of its path and a counter, so the outcome does not depend on which
// was seen first. A path that must give its number away is invalidated.
func (t *Tree) number(n *node, c *Change) {
	p := n.path()
	for try := 0; ; try++ {
		ino := t.hash(salted(p, try))
		if ino <= RootIno { // 0 is no inode
			continue
		}
		other := t.inos[ino]
		if other == nil {
			n.ino = ino
			t.inos[ino] = n
			return
		}
		if other.path() < p {
			continue
		}
		n.ino = ino
		t.inos[ino] = n
		c.Invalid = append(c.Invalid, Invalidation{other.parent.ino, other.name}, Invalidation{Ino: ino})
		t.snapshot -= other.sum()
		t.number(other, c)
		t.snapshot += other.sum()
		return
	}
}

func salted(path string, try int) string {
	if try == 0 {
		return path
	}
	return path + "\x00" + strconv.Itoa(try)
}

func hashPath(path string) uint64 { return xxhash.Sum64String(path) }
