package master

import (
	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/ring"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// placement finds the owners of stripes in one membership.
type placement []ring.Member

func newPlacement(members *wirepb.Members) placement {
	p := make(placement, 0, len(members.GetWorkers()))
	for _, w := range members.GetWorkers() {
		p = append(p, ring.Member{Name: w.GetName(), Weight: w.GetCapacityBytes()})
	}
	return p
}

// owners are the workers that own a stripe, the first one first.
func (p placement) owners(k key, stripe int64, n int) []ring.Member {
	return ring.Owners(keyText(k), stripe, p, n)
}

// objectKey is the key of a file's bytes.
func objectKey(e namespace.Entry) key { return wire.SumObject(objectOf(e)) }
