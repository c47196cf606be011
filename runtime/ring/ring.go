// Package ring places stripes on workers by weighted rendezvous hashing: every
// process that knows the same members finds the same owners, and a member that
// comes or goes moves only its own share.
package ring

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// Member is one worker. Weight is in any unit, the same for all; a member
// without weight owns nothing.
type Member struct {
	Name   string
	Weight int64
}

// Owners are the n members that own a stripe of the file with this key, the
// first owner first; fewer if there are fewer with weight. The order of members
// does not matter.
//
// The score is -weight/ln(h) with h uniform in (0,1): the logarithmic method of
// Schindelhauer and Schomaker, which makes shares proportional to weights.
func Owners(key string, stripe int64, members []Member, n int) []Member {
	type scored struct {
		Member
		score float64
	}
	all := make([]scored, 0, len(members))
	for _, m := range members {
		if m.Weight > 0 {
			all = append(all, scored{m, -float64(m.Weight) / math.Log(uniform(key, stripe, m.Name))})
		}
	}
	slices.SortFunc(all, func(a, b scored) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.Name, b.Name))
	})
	out := make([]Member, 0, min(n, len(all)))
	for _, s := range all[:min(n, len(all))] {
		out = append(out, s.Member)
	}
	return out
}

// uniform hashes into the open interval (0,1).
func uniform(key string, stripe int64, member string) float64 {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.WriteString(key)
	var number [8]byte
	binary.LittleEndian.PutUint64(number[:], uint64(stripe))
	_, _ = d.Write(number[:])
	_, _ = d.WriteString(member)
	return (float64(d.Sum64()>>11) + 0.5) / (1 << 53)
}
