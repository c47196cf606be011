package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// ReferenceOf is what a Dataset refers to: its only mount is another Dataset.
// Such a one has no cache of its own.
func ReferenceOf(ds *datav1alpha1.Dataset) (to contract.Reference, is bool) {
	if len(ds.Spec.Mounts) != 1 {
		return contract.Reference{}, false
	}
	return contract.ParseReference(ds.Spec.Mounts[0].MountPoint)
}

// ReferenceIndex indexes Datasets, whatever their namespace, by the one that
// they refer to, as namespace/name.
const ReferenceIndex = "millrace.refersTo"

// ReferredTo is the Dataset that a Dataset refers to, for the index.
func ReferredTo(obj client.Object) []string {
	ds, ok := obj.(*datav1alpha1.Dataset)
	if !ok {
		return nil
	}
	to, is := ReferenceOf(ds)
	if !is {
		return nil
	}
	return []string{to.Namespace + "/" + to.Name}
}

// Referrers are the Datasets that refer to one, sorted by namespace and name.
func Referrers(ctx context.Context, c client.Reader, to types.NamespacedName) ([]types.NamespacedName, error) {
	list := &datav1alpha1.DatasetList{}
	if err := c.List(ctx, list, client.MatchingFields{ReferenceIndex: to.String()}); err != nil {
		return nil, fmt.Errorf("list datasets that refer to %s: %w", to, err)
	}
	var out []types.NamespacedName
	for i := range list.Items {
		out = append(out, client.ObjectKeyFromObject(&list.Items[i]))
	}
	slices.SortFunc(out, func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	return out, nil
}

// MayRefer tells whether a Dataset lets those of a namespace refer to it. Without
// the annotation all may, as in Fluid; those of its own namespace always may.
func MayRefer(to *datav1alpha1.Dataset, namespace string) bool {
	list, said := to.Annotations[contract.AnnotationSharedWith]
	if !said || namespace == to.Namespace {
		return true
	}
	for one := range strings.SplitSeq(list, ",") {
		if one = strings.TrimSpace(one); one == namespace || one == "*" {
			return true
		}
	}
	return false
}

// Readers are the pods that read through the cache of a Dataset: those that use
// its volume, and those that use the volume of a Dataset that refers to it, which
// are named with their namespace where that is another.
func Readers(ctx context.Context, c client.Reader, key types.NamespacedName) ([]string, error) {
	names, err := Users(ctx, c, key)
	if err != nil {
		return nil, err
	}
	referrers, err := Referrers(ctx, c, key)
	if err != nil {
		return nil, err
	}
	for _, referrer := range referrers {
		users, err := Users(ctx, c, referrer)
		if err != nil {
			return nil, err
		}
		for _, user := range users {
			if referrer.Namespace != key.Namespace {
				user = referrer.Namespace + "/" + user
			}
			names = append(names, user)
		}
	}
	return sortedSet(names), nil
}

// requestsOfReader are the Datasets that a pod matters to, and those that these
// refer to.
func requestsOfReader(c client.Reader) handler.MapFunc {
	return func(ctx context.Context, obj client.Object) []reconcile.Request {
		out := RequestsOfPod(ctx, obj)
		for _, used := range out {
			ds := &datav1alpha1.Dataset{}
			if err := c.Get(ctx, used.NamespacedName, ds); err != nil {
				continue // no Dataset of that name
			}
			if to, is := ReferenceOf(ds); is {
				out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: to.Namespace, Name: to.Name}})
			}
		}
		return out
	}
}
