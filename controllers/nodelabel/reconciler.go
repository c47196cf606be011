// Package nodelabel keeps the labels of nodes that say whose workers run there.
// They are computed from the worker pods each time and written by server-side
// apply as one field owner, so what no pod asks for any more goes by itself.
package nodelabel

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/controllers/engine"
)

const fieldOwner = "millrace-nodelabel-controller"

// podIndex indexes worker pods by their node.
const podIndex = "millrace.workerNode"

// Reconciler of nodes.
type Reconciler struct{ client.Client }

// SetupWithManager adds the controller of node labels.
func SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	if err := mgr.GetFieldIndexer().IndexField(ctx, &corev1.Pod{}, podIndex, workerNode); err != nil {
		return fmt.Errorf("index worker pods: %w", err)
	}
	node := &metav1.PartialObjectMetadata{}
	node.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Node"))
	err := ctrl.NewControllerManagedBy(mgr).
		Named("nodelabel").
		For(node, builder.OnlyMetadata, builder.WithPredicates(predicate.LabelChangedPredicate{})).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(requestsOfWorker), builder.WithPredicates(workersThatMoved())).
		Complete(&Reconciler{Client: mgr.GetClient()})
	if err != nil {
		return fmt.Errorf("set up nodelabel controller: %w", err)
	}
	return nil
}

// Reconcile writes the labels of one node.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	node := &metav1.PartialObjectMetadata{}
	node.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Node"))
	if err := r.Get(ctx, req.NamespacedName, node); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	pods := &corev1.PodList{}
	if err := r.List(ctx, pods, client.MatchingFields{podIndex: req.Name}); err != nil {
		return ctrl.Result{}, fmt.Errorf("list workers on node %s: %w", req.Name, err)
	}
	labels, err := desired(pods.Items)
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("labels of node %s: %w", req.Name, err)
	}
	if same(labels, owned(node), node.Labels) {
		return ctrl.Result{}, nil
	}
	intent := &unstructured.Unstructured{}
	intent.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Node"))
	intent.SetName(req.Name)
	intent.SetUID(node.UID) // a node that went meanwhile is not made anew
	intent.SetLabels(labels)
	if err := r.Apply(ctx, client.ApplyConfigurationFromUnstructured(intent), client.FieldOwner(fieldOwner), client.ForceOwnership); err != nil {
		return ctrl.Result{}, fmt.Errorf("label node %s: %w", req.Name, err)
	}
	return ctrl.Result{}, nil
}

// desired are the labels that the workers of a node ask for.
func desired(workers []corev1.Pod) (map[string]string, error) {
	labels, datasets := map[string]string{}, map[types.NamespacedName]bool{}
	for i := range workers {
		pod := &workers[i]
		var asked map[string]string
		if err := json.Unmarshal([]byte(pod.Annotations[engine.AnnotationNodeLabels]), &asked); err != nil {
			return nil, fmt.Errorf("annotation %s of pod %s/%s: %w", engine.AnnotationNodeLabels, pod.Namespace, pod.Name, err)
		}
		maps.Copy(labels, asked)
		datasets[types.NamespacedName{Namespace: pod.Namespace, Name: pod.Labels[contract.LabelCacheRuntime]}] = true
	}
	if len(datasets) > 0 {
		labels[contract.LabelDatasetNum] = strconv.Itoa(len(datasets))
	}
	return labels, nil
}

// same tells whether the node has the labels already, and no other one of ours.
func same(want map[string]string, ours map[string]bool, have map[string]string) bool {
	if len(want) != len(ours) {
		return false
	}
	for key, value := range want {
		if !ours[key] || have[key] != value {
			return false
		}
	}
	return true
}

// owned are the labels of a node that we wrote.
func owned(node client.Object) map[string]bool {
	out := map[string]bool{}
	for _, entry := range node.GetManagedFields() {
		if entry.Manager != fieldOwner || entry.FieldsV1 == nil {
			continue
		}
		var fields struct {
			Metadata struct {
				Labels map[string]any `json:"f:labels"`
			} `json:"f:metadata"`
		}
		if json.Unmarshal(entry.FieldsV1.Raw, &fields) != nil {
			continue
		}
		for key := range fields.Metadata.Labels {
			if len(key) > 2 && key[:2] == "f:" {
				out[key[2:]] = true
			}
		}
	}
	return out
}

// workerNode is the node that a worker pod was sent to, while it lives there.
func workerNode(obj client.Object) []string {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" || pod.Annotations[engine.AnnotationNodeLabels] == "" ||
		pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	return []string{pod.Spec.NodeName}
}

func requestsOfWorker(_ context.Context, obj client.Object) []reconcile.Request {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: pod.Spec.NodeName}}}
}

func workersThatMoved() predicate.Predicate {
	worker := func(obj client.Object) bool { return obj.GetAnnotations()[engine.AnnotationNodeLabels] != "" }
	return predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool { return worker(e.Object) },
		DeleteFunc: func(e event.DeleteEvent) bool { return worker(e.Object) },
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, ok1 := e.ObjectOld.(*corev1.Pod)
			after, ok2 := e.ObjectNew.(*corev1.Pod)
			return ok1 && ok2 && worker(after) && (before.Spec.NodeName != after.Spec.NodeName || before.Status.Phase != after.Status.Phase ||
				before.Annotations[engine.AnnotationNodeLabels] != after.Annotations[engine.AnnotationNodeLabels])
		},
	}
}
