package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
)

// maxTrouble bounds what of a pod's own words goes into a condition.
const maxTrouble = 400

// podTrouble is what keeps a pod from running, in the words of the scheduler,
// the kubelet or the process itself; "" when it only needs time.
func podTrouble(pod *corev1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return shortened(c.Message)
		}
	}
	for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		w := c.State.Waiting
		if w == nil || w.Reason == "ContainerCreating" || w.Reason == "PodInitializing" {
			continue
		}
		if last := c.LastTerminationState.Terminated; last != nil && last.Message != "" {
			return shortened(fmt.Sprintf("%s: it ended with code %d: %s", w.Reason, last.ExitCode, last.Message))
		}
		return shortened(w.Reason + ": " + w.Message)
	}
	return ""
}

func shortened(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxTrouble {
		return strings.ToValidUTF8(text[:maxTrouble], "") + "…"
	}
	return text
}

// missing says of a set that has made none of its pods where to look: sets tell
// it in events only, such as of a quota or of what a namespace forbids.
func missing(set string, seen ComponentSeen) string {
	if seen.Desired == 0 || seen.Current > 0 {
		return ""
	}
	return fmt.Sprintf("no pod of StatefulSet %s was made yet; if that lasts, kubectl describe statefulset %s tells why, such as a quota", set, set)
}

// troubledPod names the first pod of a runtime's masters and workers that is in
// trouble, and why; "" when none is.
func troubledPod(ctx context.Context, c client.Reader, key types.NamespacedName) (string, error) {
	pods := &corev1.PodList{}
	if err := c.List(ctx, pods, client.InNamespace(key.Namespace), client.MatchingLabels{contract.LabelCacheRuntime: key.Name}); err != nil {
		return "", fmt.Errorf("list pods of %s: %w", key, err)
	}
	slices.SortFunc(pods.Items, func(a, b corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	for i := range pods.Items {
		pod := &pods.Items[i]
		if component := pod.Labels[contract.LabelComponent]; component != contract.MasterName(key.Name) && component != contract.WorkerName(key.Name) {
			continue
		}
		if trouble := podTrouble(pod); trouble != "" {
			return fmt.Sprintf("pod %s: %s", pod.Name, trouble), nil
		}
	}
	return "", nil
}
