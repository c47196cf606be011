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
	// Since orders members by when they joined, in any unit; those that were
	// there from the start have 0. It does not change who owns what.
	Since int64
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
	if n = min(n, len(members)); n <= 0 {
		return nil
	}
	best := make([]scored, 0, n+1) // the first n so far, the best first
	for _, m := range members {
		if m.Weight <= 0 {
			continue
		}
		s := score(key, stripe, m)
		at := len(best)
		for at > 0 && compare(s, best[at-1]) < 0 {
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

// Former are members that owned a stripe before younger ones joined and that do
// not own it now, the last owner first; at most the given number. What a
// newcomer owns is still with them.
//
// A member was among the n owners at the time it joined if fewer than n of those
// that are ranked above it were there by then.
func Former(key string, stripe int64, members []Member, n, most int) []Member {
	first := slices.IndexFunc(members, func(m Member) bool { return m.Since != members[0].Since })
	if first < 0 || n <= 0 || most <= 0 {
		return nil // nobody ever joined
	}
	ranked := make([]scored, 0, len(members))
	for _, m := range members {
		if m.Weight > 0 {
			ranked = append(ranked, score(key, stripe, m))
		}
	}
	slices.SortFunc(ranked, compare)
	var out []Member
	for i := n; i < len(ranked) && len(out) < most; i++ {
		before := 0
		for _, above := range ranked[:i] {
			if above.Since <= ranked[i].Since {
				before++
			}
		}
		if before < n {
			out = append(out, ranked[i].Member)
		}
	}
	return out
}

type scored struct {
	Member
	score float64
}

func score(key string, stripe int64, m Member) scored {
	return scored{m, -float64(m.Weight) / math.Log(uniform(key, stripe, m.Name))}
}

// compare puts the better one first.
func compare(a, b scored) int {
	if c := cmp.Compare(b.score, a.score); c != 0 {
		return c
	}
	return cmp.Compare(a.Name, b.Name)
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
