package peers_test

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/runtime/peers"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOwnersAreOfTheStripeAndOfThoseWithRoom(t *testing.T) {
	var v peers.View
	if v.Owners("k", 0) != nil || v.Count() != 0 || len(v.Addresses()) != 0 {
		t.Error("an empty view knows owners")
	}
	v.Set(&wirepb.Members{Replicas: 2, StripeBytes: 100, Workers: []*wirepb.Member{
		{Name: "a", Address: "1:1", CapacityBytes: 1}, {Name: "b", Address: "2:1", CapacityBytes: 1},
		{Name: "c", Address: "3:1", CapacityBytes: 1}, {Name: "without room", Address: "4:1"},
	}})
	if v.Count() != 4 || !v.Addresses()["4:1"] {
		t.Errorf("%d members at %v", v.Count(), v.Addresses())
	}
	first := map[string]int{}
	for stripe := range int64(200) {
		owners := v.Owners("k", stripe*100)
		again := v.Owners("k", stripe*100+99)
		if len(owners) != 2 || fmt.Sprint(owners) != fmt.Sprint(again) || peers.Index(owners, "without room") >= 0 {
			t.Fatalf("stripe %d: %v and %v", stripe, owners, again)
		}
		if peers.Index(owners, owners[1].GetName()) != 1 {
			t.Error("the second owner is not the second")
		}
		first[owners[0].GetName()]++
	}
	for name, n := range first {
		if n < 30 || n > 110 {
			t.Errorf("%s is the first owner of %d of 200 stripes", name, n)
		}
	}
	v.Set(&wirepb.Members{Workers: []*wirepb.Member{{Name: "a", CapacityBytes: 1}}})
	if owners := v.Owners("k", 0); len(owners) != 1 {
		t.Errorf("replicas are one if nothing is said, not %d", len(owners))
	}
}

// Whoever will own a stripe when the dead have left is asked already.
func TestThoseThatAreGoneAreReplacedByTheNextInRank(t *testing.T) {
	members := func(n int) *wirepb.Members {
		m := &wirepb.Members{Replicas: 2, StripeBytes: 100}
		for i := range n {
			m.Workers = append(m.Workers, &wirepb.Member{Name: fmt.Sprint("w", i), Address: fmt.Sprint(i), CapacityBytes: int64(i + 1)})
		}
		return m
	}
	var all, left peers.View
	all.Set(members(5))
	left.Set(members(4))
	nobody := func(string) bool { return false }
	for off := int64(0); off < 20_000; off += 100 {
		if got, want := fmt.Sprint(all.Present("k", off, nobody)), fmt.Sprint(all.Owners("k", off)); got != want {
			t.Fatalf("at %d with all: %s, want %s", off, got, want)
		}
		got := fmt.Sprint(all.Present("k", off, func(a string) bool { return a == "4" }))
		if want := fmt.Sprint(left.Owners("k", off)); got != want {
			t.Fatalf("at %d without one: %s, want %s", off, got, want)
		}
		if got := all.Present("k", off, func(string) bool { return true }); len(got) != 0 {
			t.Fatalf("at %d without all: %v", off, got)
		}
	}
}
