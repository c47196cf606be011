package locality

import (
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	cachev1alpha1 "github.com/millrace/millrace/apis/cache/v1alpha1"
	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// maxNodes of one slice, as in EndpointSlices: a change then rewrites little.
const maxNodes = 500

// A change of a node's bytes matters when it is more than one part in twenty of
// what was written, or more than a GiB.
const (
	meaningfulShare = 20
	meaningfulBytes = 1 << 30
)

// desiredSlices spreads the nodes that have workers over slices, in the order
// of their names.
func desiredSlices(ds *datav1alpha1.Dataset, summary contract.Summary, zoneOf map[string]string) []*cachev1alpha1.LocalitySlice {
	nodes := map[string]cachev1alpha1.NodeBytes{}
	for _, w := range summary.Workers {
		if w.Node == "" {
			continue
		}
		n := nodes[w.Node]
		n.NodeName, n.Zone = w.Node, zoneOf[w.Node]
		n.CachedBytes += w.CachedBytes
		n.Complete = n.Complete || w.Complete
		nodes[w.Node] = n
	}
	sorted := make([]cachev1alpha1.NodeBytes, 0, len(nodes))
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		sorted = append(sorted, nodes[name])
	}
	var out []*cachev1alpha1.LocalitySlice
	for chunk := range slices.Chunk(sorted, maxNodes) {
		out = append(out, &cachev1alpha1.LocalitySlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: ds.Namespace, Name: fmt.Sprintf("%s-%d", ds.Name, len(out)),
				Labels: map[string]string{cachev1alpha1.LabelDataset: ds.Name},
				OwnerReferences: []metav1.OwnerReference{
					*metav1.NewControllerRef(ds, datav1alpha1.GroupVersion.WithKind("Dataset")),
				},
			},
			Dataset:    cachev1alpha1.DatasetReference{Name: ds.Name, UID: string(ds.UID)},
			Snapshot:   summary.Snapshot,
			TotalBytes: summary.UFSTotalBytes,
			Nodes:      chunk,
		})
	}
	return out
}

// change is how much two states of a Dataset's slices differ.
type change int

const (
	same change = iota
	small
	meaningful
)

// compare tells how much the news differ from what is written.
func compare(written []cachev1alpha1.LocalitySlice, news []*cachev1alpha1.LocalitySlice) change {
	if len(written) != len(news) {
		return meaningful
	}
	byName := map[string]*cachev1alpha1.LocalitySlice{}
	for i := range written {
		byName[written[i].Name] = &written[i]
	}
	out := same
	for _, now := range news {
		was := byName[now.Name]
		if was == nil || was.Dataset != now.Dataset || len(was.Nodes) != len(now.Nodes) {
			return meaningful
		}
		out = max(out, compareBytes(was.TotalBytes, now.TotalBytes))
		if was.Snapshot != now.Snapshot {
			out = max(out, small)
		}
		// Nodes is sorted by the writer, and the API server keeps the order.
		for i, n := range now.Nodes {
			w := was.Nodes[i]
			if w.NodeName != n.NodeName || w.Zone != n.Zone || w.Complete != n.Complete {
				return meaningful
			}
			out = max(out, compareBytes(w.CachedBytes, n.CachedBytes))
		}
	}
	return out
}

func compareBytes(was, now int64) change {
	moved := max(was-now, now-was)
	switch {
	case moved == 0:
		return same
	case moved > meaningfulBytes || moved > was/meaningfulShare:
		return meaningful
	default:
		return small
	}
}
