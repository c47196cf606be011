package podinject

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// maxPreferred bounds the preferences that are written into a pod.
const maxPreferred = 20

// preferBytes tells schedulers that do not read LocalitySlices which nodes hold
// the pod's bytes: the weight is the percentage that a node holds.
func preferBytes(pod *corev1.Pod, facts Facts) {
	if pod.Spec.NodeName != "" {
		return
	}
	held, total := map[string]int64{}, int64(0)
	for _, name := range claimsOf(pod) {
		most := int64(0)
		for _, slice := range facts.Claims[name].Slices {
			most = max(most, slice.TotalBytes)
			for _, n := range slice.Nodes {
				held[n.NodeName] += n.CachedBytes
			}
		}
		total += most
	}
	if total == 0 {
		return
	}
	nodes := slices.SortedFunc(maps.Keys(held), func(a, b string) int {
		return cmp.Or(cmp.Compare(held[b], held[a]), cmp.Compare(a, b))
	})
	for _, node := range nodes[:min(len(nodes), maxPreferred)] {
		weight := int32(min(100, float64(held[node])/float64(total)*100))
		if weight < 1 {
			continue
		}
		term := corev1.PreferredSchedulingTerm{Weight: weight, Preference: corev1.NodeSelectorTerm{
			MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
		}}
		affinity := nodeAffinity(pod)
		if !slices.ContainsFunc(affinity.PreferredDuringSchedulingIgnoredDuringExecution, func(have corev1.PreferredSchedulingTerm) bool {
			return equality.Semantic.DeepEqual(have.Preference, term.Preference)
		}) {
			affinity.PreferredDuringSchedulingIgnoredDuringExecution = append(affinity.PreferredDuringSchedulingIgnoredDuringExecution, term)
		}
	}
}
