package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// Runtime is a runtime of any kind.
type Runtime struct {
	client.Object
	Type contract.RuntimeType
}

// New makes an empty runtime of a type.
func New(t contract.RuntimeType) client.Object {
	if t == contract.RuntimeAlluxio {
		return &datav1alpha1.AlluxioRuntime{}
	}
	return &datav1alpha1.CacheRuntime{}
}

// RuntimeTypes are those that are served.
var RuntimeTypes = []contract.RuntimeType{contract.RuntimeCache, contract.RuntimeAlluxio}

// Installed tells whether the API server knows the kind of an object. What it
// does not know cannot be watched, and keeps no other kind from being served.
func Installed(mgr ctrl.Manager, obj client.Object) (bool, error) {
	gvk, err := mgr.GetClient().GroupVersionKindFor(obj)
	if err != nil {
		return false, fmt.Errorf("look for kind of %T: %w", obj, err)
	}
	_, err = mgr.GetRESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		mgr.GetLogger().Info("kind is not installed: apply the chart's CRDs and restart the manager to have it served", "kind", gvk.Kind)
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for kind %s: %w", gvk.Kind, err)
	}
	return true, nil
}

// Unserved is the kind of a Dataset's runtime that is taken and not served, or "".
func Unserved(ctx context.Context, c client.Reader, key types.NamespacedName) (string, error) {
	for kind, obj := range map[string]client.Object{"JuiceFSRuntime": &datav1alpha1.JuiceFSRuntime{}, "ThinRuntime": &datav1alpha1.ThinRuntime{}} {
		err := c.Get(ctx, key, obj)
		switch {
		case err == nil:
			return kind, nil
		case !apierrors.IsNotFound(err) && !meta.IsNoMatchError(err):
			return "", fmt.Errorf("read %s %s: %w", kind, key, err)
		}
	}
	return "", nil
}

// RuntimesOf are the runtimes that have a Dataset's name, the oldest first: it
// is the one that the Dataset binds to.
func RuntimesOf(ctx context.Context, c client.Reader, key types.NamespacedName) ([]Runtime, error) {
	var found []Runtime
	for _, t := range RuntimeTypes {
		obj := New(t)
		err := c.Get(ctx, key, obj)
		if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
			continue // a kind that is not installed has no objects
		}
		if err != nil {
			return nil, fmt.Errorf("read %s runtime %s: %w", t, key, err)
		}
		found = append(found, Runtime{Object: obj, Type: t})
	}
	slices.SortStableFunc(found, func(a, b Runtime) int {
		return a.GetCreationTimestamp().Compare(b.GetCreationTimestamp().Time)
	})
	return found, nil
}

// PodIndex indexes pods by the Datasets or claims of their namespace that they use.
const PodIndex = "millrace.usedVolumes"

// UsedVolumes are the claims that a pod mounts and the Datasets that it reads
// through a sidecar. A pod that has ended uses nothing.
func UsedVolumes(obj client.Object) []string {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	var used []string
	for _, v := range pod.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			used = append(used, v.PersistentVolumeClaim.ClaimName)
		}
	}
	if list := pod.Annotations[contract.AnnotationDatasetsInUse]; list != "" {
		for name := range strings.SplitSeq(list, ",") {
			used = append(used, strings.TrimSpace(name))
		}
	}
	return sortedSet(used)
}

// Users are the names of the pods that use a Dataset's volume, sorted; its own
// cache's pods are none.
func Users(ctx context.Context, c client.Reader, key types.NamespacedName) ([]string, error) {
	pods := &corev1.PodList{}
	if err := c.List(ctx, pods, client.InNamespace(key.Namespace), client.MatchingFields{PodIndex: key.Name}); err != nil {
		return nil, fmt.Errorf("list pods that use %s: %w", key, err)
	}
	var names []string
	for i := range pods.Items {
		if pod := &pods.Items[i]; pod.Labels[contract.LabelCacheRuntime] != key.Name {
			names = append(names, pod.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// NamePods is a list of pods for a sentence: all of a few, the first of many.
func NamePods(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// RequestsOfPod are the Datasets and runtimes that a pod matters to: those it
// uses and the one whose cache it is.
func RequestsOfPod(_ context.Context, obj client.Object) []reconcile.Request {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil
	}
	names := []string{pod.Labels[contract.LabelCacheRuntime]}
	for _, v := range pod.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			names = append(names, v.PersistentVolumeClaim.ClaimName)
		}
	}
	if list := pod.Annotations[contract.AnnotationDatasetsInUse]; list != "" {
		names = append(names, strings.Split(list, ",")...)
	}
	var out []reconcile.Request
	for _, name := range sortedSet(names) {
		if name = strings.TrimSpace(name); name != "" {
			out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: pod.Namespace, Name: name}})
		}
	}
	return out
}

// RequestOfName is the Dataset or runtime of the same name.
func RequestOfName(_ context.Context, obj client.Object) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: client.ObjectKeyFromObject(obj)}}
}

// ClaimIndex indexes Datasets by the claims of their pvc:// mounts.
const ClaimIndex = "millrace.sourceClaims"

// SourceClaims are the claims of a Dataset's pvc:// mounts.
func SourceClaims(obj client.Object) []string {
	ds, ok := obj.(*datav1alpha1.Dataset)
	if !ok {
		return nil
	}
	sources := SourcesOf(ds)
	return sources.Claims
}

// RequestsOfClaim are the Datasets that read a claim, and the one whose volume
// it would be.
func RequestsOfClaim(c client.Reader) func(context.Context, client.Object) []reconcile.Request {
	return func(ctx context.Context, obj client.Object) []reconcile.Request {
		out := RequestOfName(ctx, obj)
		list := &datav1alpha1.DatasetList{}
		if err := c.List(ctx, list, client.InNamespace(obj.GetNamespace()), client.MatchingFields{ClaimIndex: obj.GetName()}); err != nil {
			return out
		}
		for i := range list.Items {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
		return out
	}
}

// AddIndexes registers the indexes that the controllers read by.
func AddIndexes(ctx context.Context, indexer client.FieldIndexer) error {
	if err := indexer.IndexField(ctx, &corev1.Pod{}, PodIndex, UsedVolumes); err != nil {
		return fmt.Errorf("index pods: %w", err)
	}
	if err := indexer.IndexField(ctx, &datav1alpha1.Dataset{}, ClaimIndex, SourceClaims); err != nil {
		return fmt.Errorf("index datasets: %w", err)
	}
	if err := indexer.IndexField(ctx, &datav1alpha1.Dataset{}, ReferenceIndex, ReferredTo); err != nil {
		return fmt.Errorf("index datasets: %w", err)
	}
	return nil
}
