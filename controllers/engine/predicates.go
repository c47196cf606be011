package engine

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/millrace/millrace/apis/contract"
)

// PodMatters lets through the changes of pods that a reconcile can see: of
// those that belong to a cache or use a volume, when they come, go, get a node
// or an address, start, end, become ready or, of a cache's, get into trouble.
func PodMatters() predicate.Predicate {
	concerns := func(obj client.Object) bool {
		pod, ok := obj.(*corev1.Pod)
		return ok && (pod.Labels[contract.LabelCacheRuntime] != "" || pod.Annotations[contract.AnnotationDatasetsInUse] != "" ||
			slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.PersistentVolumeClaim != nil }))
	}
	return predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool { return concerns(e.Object) },
		DeleteFunc: func(e event.DeleteEvent) bool { return concerns(e.Object) },
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, ok1 := e.ObjectOld.(*corev1.Pod)
			after, ok2 := e.ObjectNew.(*corev1.Pod)
			return ok1 && ok2 && concerns(after) && facts(before) != facts(after)
		},
	}
}

type podFacts struct {
	node, address string
	phase         corev1.PodPhase
	ready         bool
	deleting      bool
	trouble       string
}

func facts(pod *corev1.Pod) podFacts {
	f := podFacts{node: pod.Spec.NodeName, address: pod.Status.PodIP, phase: pod.Status.Phase, deleting: !pod.DeletionTimestamp.IsZero()}
	if pod.Labels[contract.LabelCacheRuntime] != "" {
		f.trouble = podTrouble(pod)
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			f.ready = c.Status == corev1.ConditionTrue
		}
	}
	return f
}
