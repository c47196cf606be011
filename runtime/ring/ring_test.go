package ring_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/millrace/millrace/runtime/ring"
)

func members(weights ...int64) []ring.Member {
	out := make([]ring.Member, len(weights))
	for i, w := range weights {
		out[i] = ring.Member{Name: fmt.Sprintf("worker-%d", i), Weight: w}
	}
	return out
}

const stripes = 20000

func first(m []ring.Member, i int) string {
	return ring.Owners(fmt.Sprintf("key-%d", i%1000), int64(i/1000), m, 1)[0].Name
}

func TestSharesFollowWeights(t *testing.T) {
	got := map[string]int{}
	for i := range stripes {
		got[first(members(1<<30, 2<<30, 5<<30), i)]++
	}
	for name, share := range map[string]float64{"worker-0": 1.0 / 8, "worker-1": 2.0 / 8, "worker-2": 5.0 / 8} {
		if have := float64(got[name]) / stripes; have < share*0.95 || have > share*1.05 {
			t.Errorf("%s owns %.3f of the stripes, want %.3f", name, have, share)
		}
	}
}

func TestAMemberThatJoinsMovesOnlyItsShare(t *testing.T) {
	before, after, moved := members(1, 1, 1, 1), members(1, 1, 1, 1, 1), 0
	for i := range stripes {
		a, b := first(before, i), first(after, i)
		if a != b {
			moved++
			if b != "worker-4" {
				t.Fatalf("a stripe moved from %s to %s, not to the new member", a, b)
			}
		}
	}
	if share := float64(moved) / stripes; share > 0.22 {
		t.Errorf("%.3f of the stripes moved, want about 1/5", share)
	}
}

func TestTheOrderOfMembersDoesNotMatter(t *testing.T) {
	m := members(3, 1, 4, 1, 5, 9, 2, 6)
	for i := range 200 {
		want := fmt.Sprint(ring.Owners("k", int64(i), m, 3))
		shuffled := append([]ring.Member(nil), m...)
		rand.Shuffle(len(shuffled), func(a, b int) { shuffled[a], shuffled[b] = shuffled[b], shuffled[a] })
		if got := fmt.Sprint(ring.Owners("k", int64(i), shuffled, 3)); got != want {
			t.Fatalf("owners %s and %s for two orders of the same members", want, got)
		}
	}
}

func TestOwnersAreDistinctAndAtMostTheMembersWithWeight(t *testing.T) {
	got := ring.Owners("k", 0, members(1, 0, 1), 5)
	if len(got) != 2 || got[0].Name == got[1].Name {
		t.Errorf("owners %v", got)
	}
}
