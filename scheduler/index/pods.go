package index

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/millrace/millrace/apis/contract"
)

// DatasetsOf names the Datasets that a pod reads, each once: those behind its
// claims, and those that its sidecars serve. A claim that cannot be found is
// no Dataset's as far as scheduling is concerned; the volume plugins will say
// what is wrong with it.
func DatasetsOf(pod *corev1.Pod, claim ClaimLister) []types.NamespacedName {
	var out []types.NamespacedName
	seen := map[string]bool{}
	add := func(name string) {
		if name != "" && !seen[name] {
			seen[name] = true
			out = append(out, types.NamespacedName{Namespace: pod.Namespace, Name: name})
		}
	}
	for _, volume := range pod.Spec.Volumes {
		if volume.PersistentVolumeClaim == nil {
			continue
		}
		pvc, err := claim(pod.Namespace, volume.PersistentVolumeClaim.ClaimName)
		if err == nil && pvc.Labels[contract.LabelDatasetID] != "" {
			add(pvc.Name)
		}
	}
	for name := range strings.SplitSeq(pod.Annotations[contract.AnnotationDatasetsInUse], ",") {
		add(strings.TrimSpace(name))
	}
	return out
}

// RequiredBy names the Datasets that a pod wants to be held by its node.
func RequiredBy(pod *corev1.Pod) []types.NamespacedName {
	var out []types.NamespacedName
	for key, value := range pod.Labels {
		if value != contract.SchedRequired {
			continue
		}
		if name, ok := contract.SchedLabelDataset(key); ok {
			out = append(out, types.NamespacedName{Namespace: pod.Namespace, Name: name})
		}
	}
	return out
}
