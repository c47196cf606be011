// Package status writes an object's status once a round, and finalizers.
package status

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
)

// Patch writes the status of obj if it differs from that of before. An object
// that is gone needs no status.
func Patch(ctx context.Context, c client.Client, before, obj client.Object) error {
	same, err := sameStatus(before, obj)
	if err != nil {
		return fmt.Errorf("compare status of %s: %w", client.ObjectKeyFromObject(obj), err)
	}
	if same {
		return nil
	}
	// What was done to metadata in this round is no part of the status.
	base := before.DeepCopyObject().(client.Object)
	base.SetFinalizers(obj.GetFinalizers())
	base.SetResourceVersion(obj.GetResourceVersion())
	if err := c.Status().Patch(ctx, obj, client.MergeFrom(base)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("write status of %s: %w", client.ObjectKeyFromObject(obj), err)
	}
	return nil
}

func sameStatus(a, b client.Object) (bool, error) {
	before, err := runtime.DefaultUnstructuredConverter.ToUnstructured(a)
	if err != nil {
		return false, err
	}
	after, err := runtime.DefaultUnstructuredConverter.ToUnstructured(b)
	if err != nil {
		return false, err
	}
	return equality.Semantic.DeepEqual(before["status"], after["status"]), nil
}

// AddFinalizer puts a finalizer on an object that has it not.
func AddFinalizer(ctx context.Context, c client.Client, obj client.Object, finalizer string) error {
	return patchFinalizer(ctx, c, obj, finalizer, controllerutil.AddFinalizer)
}

// RemoveFinalizer takes a finalizer off an object.
func RemoveFinalizer(ctx context.Context, c client.Client, obj client.Object, finalizer string) error {
	return client.IgnoreNotFound(patchFinalizer(ctx, c, obj, finalizer, controllerutil.RemoveFinalizer))
}

// patchFinalizer changes only metadata: the status in obj, which is written at
// the end of the round, is kept as it is.
func patchFinalizer(ctx context.Context, c client.Client, obj client.Object, finalizer string, change func(client.Object, string) bool) error {
	before := obj.DeepCopyObject().(client.Object)
	after := obj.DeepCopyObject().(client.Object)
	if !change(after, finalizer) {
		return nil
	}
	if err := c.Patch(ctx, after, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("change finalizer %s of %s: %w", finalizer, client.ObjectKeyFromObject(obj), err)
	}
	obj.SetFinalizers(after.GetFinalizers())
	obj.SetResourceVersion(after.GetResourceVersion())
	return nil
}
