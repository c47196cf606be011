package index

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/millrace/millrace/apis/contract"
)

// DatasetsOf names the Datasets whose bytes a pod reads, each once: those behind
// its claims, and those that its sidecars serve. A claim that cannot be found is
// no Dataset's as far as scheduling is concerned; the volume plugins will say
// what is wrong with it.
func DatasetsOf(pod *corev1.Pod, claim ClaimLister) []types.NamespacedName {
	var out []types.NamespacedName
	seen := map[types.NamespacedName]bool{}
	add := func(dataset types.NamespacedName) {
		if dataset.Name != "" && !seen[dataset] {
			seen[dataset] = true
			out = append(out, dataset)
		}
	}
	for _, volume := range pod.Spec.Volumes {
		if volume.PersistentVolumeClaim == nil {
			continue
		}
		pvc, err := claim(pod.Namespace, volume.PersistentVolumeClaim.ClaimName)
		if err == nil && pvc.Labels[contract.LabelDatasetID] != "" {
			add(behind(pod.Namespace, pvc.Name, claim))
		}
	}
	for name := range strings.SplitSeq(pod.Annotations[contract.AnnotationDatasetsInUse], ",") {
		add(behind(pod.Namespace, strings.TrimSpace(name), claim))
	}
	return out
}

// behind is the Dataset whose cache holds the bytes of one: itself, or the one
// that it refers to. Its claim, which has its name, tells.
func behind(namespace, name string, claim ClaimLister) types.NamespacedName {
	pvc, err := claim(namespace, name)
	if err == nil && pvc.Labels[contract.LabelDatasetID] != "" && pvc.Labels[contract.LabelReferringName] != "" {
		return types.NamespacedName{Namespace: pvc.Labels[contract.LabelReferringNamespace], Name: pvc.Labels[contract.LabelReferringName]}
	}
	return types.NamespacedName{Namespace: namespace, Name: name}
}

// RequiredBy names the Datasets that a pod wants to be held by its node.
func RequiredBy(pod *corev1.Pod, claim ClaimLister) []types.NamespacedName {
	var out []types.NamespacedName
	for key, value := range pod.Labels {
		if value != contract.SchedRequired {
			continue
		}
		if name, ok := contract.SchedLabelDataset(key); ok {
			out = append(out, behind(pod.Namespace, name, claim))
		}
	}
	return out
}
