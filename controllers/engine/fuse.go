package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/internal/conditions"
	"github.com/millrace/millrace/controllers/internal/flow"
)

// unusedTime is Options.UnusedTime when none is given.
const unusedTime = time.Minute

// tendFuse tells which FUSE pods are older than their template, for none is
// replaced under a reader; and takes those away that nobody reads through, as far
// as the runtime's clean policy says so.
func (r *Reconciler) tendFuse(ctx context.Context, s *round) (flow.Outcome, error) {
	set := &appsv1.DaemonSet{}
	name := s.desc.objectName(contract.ComponentClient)
	if err := r.Get(ctx, types.NamespacedName{Namespace: s.key.Namespace, Name: name}, set); err != nil {
		return flow.Continue(), client.IgnoreNotFound(err)
	}
	pods := &corev1.PodList{}
	if err := r.List(ctx, pods, client.InNamespace(s.key.Namespace), client.MatchingLabels(s.desc.selector(contract.ComponentClient))); err != nil {
		return flow.Wait(), fmt.Errorf("list FUSE pods of runtime %s: %w", s.key, err)
	}
	read, err := r.readNodes(ctx, s.key)
	if err != nil {
		return flow.Wait(), err
	}
	var old []string
	next := time.Duration(0)
	for i := range pods.Items {
		pod := &pods.Items[i]
		if !metav1.IsControlledBy(pod, set) || !pod.DeletionTimestamp.IsZero() {
			continue
		}
		stale := isStale(pod, set)
		// Pods of other namespaces may read through it by a Dataset that refers to
		// this one.
		unused := pod.Spec.NodeName != "" && !read[pod.Spec.NodeName] && len(s.dataset.Status.DatasetRef) == 0
		young := cmp.Or(r.options.UnusedTime, unusedTime) - time.Since(pod.CreationTimestamp.Time)
		goes := unused && (s.desc.CleanPolicy == datav1alpha1.OnDemandCleanPolicy || stale && s.desc.CleanPolicy == datav1alpha1.OnFuseChangedCleanPolicy)
		switch {
		case goes && young > 0:
			next = max(young, next)
		case goes && s.desc.CleanPolicy == datav1alpha1.OnDemandCleanPolicy:
			err = r.unwantFuse(ctx, s, pod.Spec.NodeName)
		case goes:
			uid := pod.UID
			err = client.IgnoreNotFound(r.Delete(ctx, pod, client.Preconditions{UID: &uid}))
		}
		if err != nil {
			return flow.Wait(), fmt.Errorf("take FUSE pod %s away, which nobody reads through: %w", pod.Name, err)
		}
		if stale {
			old = append(old, pod.Name)
		}
	}
	s.sayFuse(old)
	if next > 0 {
		return flow.CheckBack(next), nil
	}
	return flow.Continue(), nil
}

// isStale tells whether a FUSE pod was made from a former template.
func isStale(pod *corev1.Pod, set *appsv1.DaemonSet) bool {
	of, now := pod.Labels["pod-template-generation"], set.Annotations[appsv1.DeprecatedTemplateGeneration]
	return of != "" && now != "" && of != now
}

// readNodes are the nodes where pods use the volume of a Dataset.
func (r *Reconciler) readNodes(ctx context.Context, key types.NamespacedName) (map[string]bool, error) {
	pods := &corev1.PodList{}
	if err := r.List(ctx, pods, client.InNamespace(key.Namespace), client.MatchingFields{PodIndex: key.Name}); err != nil {
		return nil, fmt.Errorf("list pods that use %s: %w", key, err)
	}
	nodes := map[string]bool{}
	for i := range pods.Items {
		if pod := &pods.Items[i]; pod.Labels[contract.LabelCacheRuntime] != key.Name {
			nodes[pod.Spec.NodeName] = true
		}
	}
	return nodes, nil
}

// unwantFuse takes the label off a node that asks for a FUSE pod there.
func (r *Reconciler) unwantFuse(ctx context.Context, s *round, name string) error {
	node := &metav1.PartialObjectMetadata{}
	node.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Node"))
	if err := r.Get(ctx, types.NamespacedName{Name: name}, node); err != nil {
		return client.IgnoreNotFound(err)
	}
	label := contract.FuseNodeLabel(s.desc.Namespace, s.desc.Name, string(s.desc.DatasetUID))
	if _, wanted := node.Labels[label]; !wanted {
		return nil
	}
	before := node.DeepCopy()
	delete(node.Labels, label)
	return client.IgnoreNotFound(r.Patch(ctx, node, client.MergeFrom(before)))
}

// sayFuse tells of old FUSE pods while there are any.
func (s *round) sayFuse(old []string) {
	list, generation := s.conditions(), s.runtime.GetGeneration()
	if len(old) == 0 {
		if meta.FindStatusCondition(*list, datav1alpha1.RuntimeFuseUpToDate) != nil {
			conditions.True(list, generation, datav1alpha1.RuntimeFuseUpToDate, ReasonReady, "every FUSE pod is as the runtime says")
		}
		return
	}
	slices.Sort(old)
	conditions.False(list, generation, datav1alpha1.RuntimeFuseUpToDate, ReasonOldPods, fmt.Sprintf(
		"%d FUSE pods are older than the last change and go on as they are, for none is replaced under a reader: %s; delete one when nobody reads on its node, or set cleanPolicy to OnFuseChanged to have that done",
		len(old), NamePods(old)))
}
