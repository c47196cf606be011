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

// tellAgain is after how long the kubelets are told once more of a configuration
// that the engine has not taken in yet: one may have looked before it had the
// ConfigMap.
const tellAgain = 10 * time.Second

// tellPods has the kubelets bring a changed runtime.json into the pods now. By
// themselves they look at the ConfigMaps of a pod once in 60 to 90 s, and else when
// the pod changes: so an annotation of it does.
func (r *Reconciler) tellPods(ctx context.Context, s *round) (flow.Outcome, error) {
	summary, _, heard := r.observer.Latest(s.key)
	news := s.desc.news(&summary)
	if s.problem != nil || !heard || len(news) == 0 {
		return flow.Continue(), nil
	}
	pods := &corev1.PodList{}
	if err := r.List(ctx, pods, client.InNamespace(s.key.Namespace), client.MatchingLabels{contract.LabelCacheRuntime: s.key.Name}); err != nil {
		return flow.Wait(), fmt.Errorf("list pods of runtime %s: %w", s.key, err)
	}
	now := time.Now()
	for i := range pods.Items {
		pod := &pods.Items[i]
		what := news.of(pod)
		if what == "" || !pod.DeletionTimestamp.IsZero() || wasTold(pod, what, now) {
			continue
		}
		before := pod.DeepCopy()
		pod.Annotations = merged(pod.Annotations, map[string]string{AnnotationTold: what + "@" + now.UTC().Format(time.RFC3339)})
		if err := r.Patch(ctx, pod, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
			return flow.Wait(), fmt.Errorf("tell pod %s of a changed configuration: %w", pod.Name, err)
		}
	}
	return flow.CheckBack(tellAgain), nil
}

// labelWorkers writes on every worker's pod which labels its node is to carry,
// where that is not what it was made with.
func (r *Reconciler) labelWorkers(ctx context.Context, s *round) (flow.Outcome, error) {
	pods := &corev1.PodList{}
	if err := r.List(ctx, pods, client.InNamespace(s.key.Namespace), client.MatchingLabels(s.desc.selector(contract.ComponentWorker))); err != nil {
		return flow.Wait(), fmt.Errorf("list workers of runtime %s: %w", s.key, err)
	}
	labels := s.desc.nodeLabels()
	for i := range pods.Items {
		pod := &pods.Items[i]
		if s.problem != nil || pod.Annotations[AnnotationNodeLabels] == labels || !pod.DeletionTimestamp.IsZero() {
			continue
		}
		before := pod.DeepCopy()
		pod.Annotations = merged(pod.Annotations, map[string]string{AnnotationNodeLabels: labels})
		if err := r.Patch(ctx, pod, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
			return flow.Wait(), fmt.Errorf("write the labels of its node on worker %s: %w", pod.Name, err)
		}
	}
	return flow.Continue(), nil
}

// news names the configuration that pods are to be told of, by the names of the
// pods; everyPod is all that are not named.
type news map[string]string

const everyPod = ""

func (n news) of(pod *corev1.Pod) string {
	if what, ok := n[pod.Name]; ok {
		return what
	}
	return n[everyPod]
}

// news compares what the engine has taken in with what it is to take in: the
// mounts concern every pod, the rest those that it is said for.
func (d *Description) news(summary *contract.Summary) news {
	config := d.RuntimeConfig()
	out := news{}
	if table := config.MountTable(); summary.MountTable != "" && summary.MountTable != table {
		out[everyPod] = table
	}
	if live := config.LiveTable(contract.ComponentMaster); summary.Live != "" && summary.Live != live {
		out[contract.MasterName(d.Name)+"-0"] = out[everyPod] + live
	}
	for _, w := range summary.Workers {
		if live := config.LiveTable(contract.ComponentWorker); w.Live != "" && w.Live != live {
			out[w.Name] = out[everyPod] + live
		}
	}
	return out
}

// wasTold tells whether a pod's kubelet was told of a configuration a moment ago.
func wasTold(pod *corev1.Pod, what string, now time.Time) bool {
	told, when, _ := strings.Cut(pod.Annotations[AnnotationTold], "@")
	at, err := time.Parse(time.RFC3339, when)
	return err == nil && told == what && now.Sub(at) < tellAgain-time.Second
}
