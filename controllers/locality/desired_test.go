package locality

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	cachev1alpha1 "github.com/millrace/millrace/apis/cache/v1alpha1"
	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

var training = &datav1alpha1.Dataset{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "training", UID: "1234"}}

func TestSlicesSayWhatEachNodeHolds(t *testing.T) {
	got := desiredSlices(training, contract.Summary{
		Snapshot: "s1", UFSTotalBytes: 100,
		Workers: []contract.WorkerSummary{
			{Name: "w1", Node: "b", CachedBytes: 100, Complete: true},
			{Name: "w0", Node: "a", CachedBytes: 10},
			{Name: "w2", Node: "a", CachedBytes: 5},
			{Name: "w3", Node: ""},
		},
	}, map[string]string{"a": "z1"})
	want := []cachev1alpha1.NodeBytes{{NodeName: "a", Zone: "z1", CachedBytes: 15}, {NodeName: "b", CachedBytes: 100, Complete: true}}
	if len(got) != 1 {
		t.Fatalf("%d slices", len(got))
	}
	if diff := cmp.Diff(want, got[0].Nodes); diff != "" {
		t.Errorf("nodes: (-want +got)\n%s", diff)
	}
	s := got[0]
	if s.Name != "training-0" || s.Namespace != "ns" || s.Labels[cachev1alpha1.LabelDataset] != "training" || s.TotalBytes != 100 ||
		s.Snapshot != "s1" || s.Dataset.UID != "1234" || !metav1.IsControlledBy(s, training) {
		t.Errorf("slice %+v", s)
	}
}

func TestManyNodesAreSpreadOverSlices(t *testing.T) {
	summary := contract.Summary{}
	for i := range maxNodes*2 + 1 {
		summary.Workers = append(summary.Workers, contract.WorkerSummary{Node: fmt.Sprintf("n%05d", i), CachedBytes: 1})
	}
	got := desiredSlices(training, summary, nil)
	if len(got) != 3 || len(got[0].Nodes) != maxNodes || len(got[2].Nodes) != 1 || got[2].Name != "training-2" {
		t.Errorf("%d slices", len(got))
	}
	if got := desiredSlices(training, contract.Summary{}, nil); len(got) != 0 {
		t.Errorf("%d slices of no workers", len(got))
	}
}

func TestChangesAreWeighed(t *testing.T) {
	state := func(total int64, nodes ...cachev1alpha1.NodeBytes) []*cachev1alpha1.LocalitySlice {
		return []*cachev1alpha1.LocalitySlice{{ObjectMeta: metav1.ObjectMeta{Name: "d-0"}, TotalBytes: total, Nodes: nodes}}
	}
	a := func(size int64) cachev1alpha1.NodeBytes {
		return cachev1alpha1.NodeBytes{NodeName: "a", CachedBytes: size}
	}
	const tib = 1 << 40
	for name, tc := range map[string]struct {
		was, now []*cachev1alpha1.LocalitySlice
		want     change
	}{
		"the same":                          {state(10, a(5)), state(10, a(5)), same},
		"nothing and nothing":               {nil, nil, same},
		"the first slice":                   {nil, state(10, a(0)), meaningful},
		"the first byte":                    {state(10, a(0)), state(10, a(1)), meaningful},
		"a twentieth":                       {state(1000, a(1000)), state(1000, a(1050)), small},
		"more than a twentieth":             {state(1000, a(1000)), state(1000, a(1051)), meaningful},
		"bytes that went":                   {state(1000, a(1000)), state(1000, a(900)), meaningful},
		"a GiB of a TiB":                    {state(tib, a(tib/2)), state(tib, a(tib/2+1<<30)), small},
		"more than a GiB of a TiB":          {state(tib, a(tib/2)), state(tib, a(tib/2+1<<30+1)), meaningful},
		"a Dataset that grew a little":      {state(1000, a(1)), state(1001, a(1)), small},
		"another node":                      {state(10, a(5)), state(10, cachev1alpha1.NodeBytes{NodeName: "b", CachedBytes: 5}), meaningful},
		"a node more":                       {state(10, a(5)), state(10, a(5), cachev1alpha1.NodeBytes{NodeName: "b"}), meaningful},
		"the last byte":                     {state(1000, a(999)), state(1000, cachev1alpha1.NodeBytes{NodeName: "a", CachedBytes: 1000, Complete: true}), meaningful},
		"a node that moved to another zone": {state(10, a(5)), state(10, cachev1alpha1.NodeBytes{NodeName: "a", Zone: "z", CachedBytes: 5}), meaningful},
	} {
		t.Run(name, func(t *testing.T) {
			var written []cachev1alpha1.LocalitySlice
			for _, s := range tc.was {
				written = append(written, *s)
			}
			if got := compare(written, tc.now); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}
