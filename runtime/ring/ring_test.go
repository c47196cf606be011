package ring_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
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

func TestAMemberThatLeavesMovesOnlyItsShare(t *testing.T) {
	before := members(1, 1, 1, 1, 1)
	after := before[:4]
	for i := range stripes {
		if a, b := first(before, i), first(after, i); a != b && a != "worker-4" {
			t.Fatalf("a stripe of %s moved to %s", a, b)
		}
	}
}

func TestTheSecondOwnerTakesOverWhenTheFirstLeaves(t *testing.T) {
	m := members(1, 2, 3, 4)
	for i := range int64(500) {
		owners := ring.Owners("k", i, m, 2)
		var rest []ring.Member
		for _, x := range m {
			if x != owners[0] {
				rest = append(rest, x)
			}
		}
		if next := ring.Owners("k", i, rest, 1)[0]; next != owners[1] {
			t.Fatalf("stripe %d goes to %s, the second owner was %s", i, next.Name, owners[1].Name)
		}
	}
}

// Workers and readers of two releases must agree during an upgrade.
func TestPlacementNeverChanges(t *testing.T) {
	var got []string
	for i := range int64(8) {
		for _, m := range ring.Owners("0123456789abcdef0123456789abcdef", i, members(1<<30, 1<<30, 2<<30), 2) {
			got = append(got, strings.TrimPrefix(m.Name, "worker-"))
		}
	}
	if want := "2121021010120221"; strings.Join(got, "") != want {
		t.Errorf("owners %s, want %s", strings.Join(got, ""), want)
	}
}

// Whoever owned a stripe at some time, as far as members are left that did, is
// an owner or a former owner of it.
func TestFormerOwnersAreThoseWhoOwnedItBeforeOthersJoined(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 1))
		all := make([]ring.Member, 1+random.IntN(9))
		for i := range all {
			all[i] = ring.Member{Name: fmt.Sprint("w", i), Weight: 1 + random.Int64N(5), Since: random.Int64N(4)}
		}
		n := 1 + random.IntN(3)
		key := fmt.Sprint("key", seed)
		have := map[string]bool{}
		for _, m := range ring.Owners(key, 3, all, n) {
			have[m.Name] = true
		}
		for _, m := range ring.Former(key, 3, all, n, len(all)) {
			if have[m.Name] {
				t.Fatalf("seed %d: %s is twice an owner", seed, m.Name)
			}
			have[m.Name] = true
		}
		ever := map[string]bool{}
		for since := range int64(4) {
			var then []ring.Member
			for _, m := range all {
				if m.Since <= since {
					then = append(then, m)
				}
			}
			for _, m := range ring.Owners(key, 3, then, n) {
				ever[m.Name] = true
			}
		}
		if fmt.Sprint(have) != fmt.Sprint(ever) {
			t.Fatalf("seed %d: %v, want %v of %v", seed, have, ever, all)
		}
	}
}

func TestThereAreNoFormerOwnersWhereNobodyJoined(t *testing.T) {
	if got := ring.Former("k", 0, members(1, 2, 3, 4), 1, 3); len(got) != 0 {
		t.Errorf("former owners %v", got)
	}
	if got := ring.Former("k", 0, nil, 1, 3); len(got) != 0 {
		t.Errorf("former owners %v of nobody", got)
	}
}

// Of K stripes a member that joins N others moves about K/(N+1), whatever the
// weights and the number of owners, and all of them to itself.
func TestAnyMemberThatJoinsMovesAtMostItsShare(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 2))
		all := make([]ring.Member, 2+random.IntN(8))
		var total int64
		for i := range all {
			all[i] = ring.Member{Name: fmt.Sprint("w", i), Weight: 1 + random.Int64N(4)}
			total += all[i].Weight
		}
		last := len(all) - 1
		n := 1 + random.IntN(2)
		const stripes = 4000
		moved := 0
		for i := range int64(stripes) {
			key := fmt.Sprint(seed, "-", i%500)
			before := map[string]bool{}
			for _, m := range ring.Owners(key, i/500, all[:last], n) {
				before[m.Name] = true
			}
			for _, m := range ring.Owners(key, i/500, all, n) {
				if !before[m.Name] {
					moved++
					if m.Name != all[last].Name {
						t.Fatalf("seed %d: a stripe moved to %s, who was there", seed, m.Name)
					}
				}
			}
		}
		share := float64(n) * float64(all[last].Weight) / float64(total)
		if limit := min(1, share*1.1+0.02) * stripes; float64(moved) > limit {
			t.Errorf("seed %d: %d of %d stripes moved, want at most %.0f", seed, moved, stripes, limit)
		}
	}
}

func TestNobodyOwnsAnythingWithoutMembers(t *testing.T) {
	for _, got := range [][]ring.Member{ring.Owners("k", 0, nil, 2), ring.Owners("k", 0, members(0, 0), 2), ring.Owners("k", 0, members(1), 0)} {
		if len(got) != 0 {
			t.Errorf("owners %v", got)
		}
	}
}

func BenchmarkFormer(b *testing.B) {
	m := members(make([]int64, 100)...)
	for i := range m {
		m[i].Weight, m[i].Since = int64(i+1), int64(i%7)
	}
	for b.Loop() {
		ring.Former("0123456789abcdef0123456789abcdef", 7, m, 1, 3)
	}
}

func BenchmarkOwners(b *testing.B) {
	m := members(make([]int64, 1000)...)
	for i := range m {
		m[i].Weight = int64(i + 1)
	}
	for b.Loop() {
		ring.Owners("0123456789abcdef0123456789abcdef", 7, m, 2)
	}
}
