package engine

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/controllers/internal/flow"
)

// tellAgain is after how long the kubelets are told once more of mounts that the
// engine does not serve yet: one may have looked before it had the ConfigMap.
const tellAgain = 10 * time.Second

// tellPods has the kubelets bring changed mounts into the pods now. By themselves
// they look at the ConfigMaps of a pod once in 60 to 90 s, and else when the pod
// changes: so an annotation of it does.
func (r *Reconciler) tellPods(ctx context.Context, s *round) (flow.Outcome, error) {
	table := s.desc.RuntimeConfig().MountTable()
	summary, _, heard := r.observer.Latest(s.key)
	if s.problem != nil || !heard || summary.MountTable == "" || summary.MountTable == table {
		return flow.Continue(), nil
	}
	pods := &corev1.PodList{}
	if err := r.List(ctx, pods, client.InNamespace(s.key.Namespace), client.MatchingLabels{contract.LabelCacheRuntime: s.key.Name}); err != nil {
		return flow.Wait(), fmt.Errorf("list pods of runtime %s: %w", s.key, err)
	}
	now := time.Now()
	for i := range pods.Items {
		pod := &pods.Items[i]
		if !pod.DeletionTimestamp.IsZero() || wasTold(pod, table, now) {
			continue
		}
		before := pod.DeepCopy()
		pod.Annotations = merged(pod.Annotations, map[string]string{AnnotationTold: table + "@" + now.UTC().Format(time.RFC3339)})
		if err := r.Patch(ctx, pod, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
			return flow.Wait(), fmt.Errorf("tell pod %s of changed mounts: %w", pod.Name, err)
		}
	}
	return flow.CheckBack(tellAgain), nil
}

// wasTold tells whether a pod's kubelet was told of the mounts a moment ago.
func wasTold(pod *corev1.Pod, table string, now time.Time) bool {
	what, when, _ := strings.Cut(pod.Annotations[AnnotationTold], "@")
	at, err := time.Parse(time.RFC3339, when)
	return err == nil && what == table && now.Sub(at) < tellAgain-time.Second
}
