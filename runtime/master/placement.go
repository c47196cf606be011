package master

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// placement finds the owners of stripes in one membership.
type placement struct{ members *wirepb.Members }

func newPlacement(members *wirepb.Members) placement { return placement{members} }

// owners names the workers that own a stripe, the first one first.
func (p placement) owners(k key, stripe int64, n int) []string {
	names := make([]string, 0, len(p.members.GetWorkers()))
	for _, w := range p.members.GetWorkers() {
		names = append(names, w.GetName())
	}
	score := func(name string) uint64 {
		return xxhash.Sum64(binary.LittleEndian.AppendUint64(append(k[:len(k):len(k)], name...), uint64(stripe)))
	}
	slices.SortFunc(names, func(a, b string) int {
		if x, y := score(a), score(b); x != y {
			if x > y {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	return names[:min(n, len(names))]
}

// objectKey is the key of a file's bytes.
func objectKey(e namespace.Entry) key { return wire.SumObject(objectOf(e)) }
