// Package ring places stripes on workers by weighted rendezvous hashing: every
// process that knows the same members finds the same owners, and a member that
// comes or goes moves only its own share.
package ring

import (
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
//
// Which member owns what is a promise between processes of different releases.
func Owners(key string, stripe int64, members []Member, n int) []Member {
	type scored struct {
		Member
		score float64
	}
	better := func(a, b scored) bool {
		return a.score > b.score || a.score == b.score && a.Name < b.Name
	}
	if n = min(n, len(members)); n <= 0 {
		return nil
	}
	best := make([]scored, 0, n+1) // the first n so far, the best first
	for _, m := range members {
		if m.Weight <= 0 {
			continue
		}
		s := scored{m, -float64(m.Weight) / math.Log(uniform(key, stripe, m.Name))}
		at := len(best)
		for at > 0 && better(s, best[at-1]) {
			at--
		}
		if at < n {
			best = slices.Insert(best, at, s)
			best = best[:min(n, len(best))]
		}
	}
	out := make([]Member, len(best))
	for i, s := range best {
		out[i] = s.Member
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
