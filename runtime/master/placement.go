package master

import (
	"fmt"

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

// shortCopies says how much of a load has fewer copies than it is to have, if
// any has. Each byte counts as cached once, however many hold it, so that the
// progress does not show it.
func (j *job) shortCopies() string {
	place := newPlacement(j.master.currentMembers())
	var short int64
	copies := 0
	for _, f := range j.files {
		if f.dropped || f.copies < 2 {
			continue
		}
		copies = max(copies, f.copies)
		for i := range j.parts(f.size) {
			p := j.partOf(f, i)
			owners := place.owners(f.key, p.off/j.master.opts.StripeBytes, f.copies)
			missing := f.copies - len(owners) // for want of workers
			for _, o := range owners {
				if j.master.heldBy(o.Name, f.key, p.off, p.n) < p.n {
					missing++
				}
			}
			if missing > 0 {
				short += p.n
			}
		}
	}
	switch {
	case short == 0:
		return ""
	case len(place) < copies:
		return fmt.Sprintf("all is cached, and %s has fewer than %d copies: there are %d workers", FormatBytes(short), copies, len(place))
	case j.firstError != nil:
		return fmt.Sprintf("all is cached, and %s has fewer than %d copies: %v", FormatBytes(short), copies, j.firstError)
	default:
		return fmt.Sprintf("all is cached, and %s has fewer than %d copies: the cache has no room for them; raise the quota", FormatBytes(short), copies)
	}
}
