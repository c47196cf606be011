// Package cacheruntime serves CacheRuntimes, of the native class and of those of
// other engines. What a CacheRuntime and its class say is turned into an
// engine.Description; the shared engine.Reconciler does the rest.
package cacheruntime

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
)

// Options of the controller.
type Options struct {
	engine.Options
	// NativeImage and PullPolicy are used where neither the class nor the
	// runtime of the native engine names an image, and for the helpers in the
	// pods of other engines.
	NativeImage string
	PullPolicy  corev1.PullPolicy
}

// SetupWithManager adds the controller of CacheRuntimes.
func SetupWithManager(mgr ctrl.Manager, observer *engine.Observer, metrics *engine.Metrics, options Options) error {
	k := &kind{classes: mgr.GetClient(), options: options}
	r := engine.NewReconciler(mgr, k, observer, metrics, options.Options)
	err := r.Builder(mgr).
		Named("cacheruntime").
		Watches(&datav1alpha1.CacheRuntimeClass{}, handler.EnqueueRequestsFromMapFunc(k.runtimesOfClass)).
		Complete(r)
	if err != nil {
		return fmt.Errorf("set up cacheruntime controller: %w", err)
	}
	return nil
}

var _ engine.Kind = (*kind)(nil)

type kind struct {
	classes client.Reader
	options Options
}

func (k *kind) Type() contract.RuntimeType { return contract.RuntimeCache }

// Describe reads the class and turns the runtime into the engine's words.
func (k *kind) Describe(ctx context.Context, runtime client.Object) (*engine.Description, error) {
	rt := runtime.(*datav1alpha1.CacheRuntime)
	class := &datav1alpha1.CacheRuntimeClass{}
	err := k.classes.Get(ctx, types.NamespacedName{Name: rt.Spec.RuntimeClassName}, class)
	if apierrors.IsNotFound(err) {
		return nil, &engine.Problem{Reason: engine.ReasonClassNotFound, Message: fmt.Sprintf(
			"CacheRuntimeClass %s does not exist: create it, or name another one in spec.runtimeClassName, such as %s", rt.Spec.RuntimeClassName, contract.NativeClass)}
	} else if err != nil {
		return nil, fmt.Errorf("read class %s: %w", rt.Spec.RuntimeClassName, err)
	}
	return Describe(rt, class, k.options), nil
}

func (k *kind) runtimesOfClass(ctx context.Context, class client.Object) []reconcile.Request {
	list := &datav1alpha1.CacheRuntimeList{}
	if err := k.classes.List(ctx, list); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list runtimes of class", "class", class.GetName())
		return nil
	}
	var out []reconcile.Request
	for i := range list.Items {
		if list.Items[i].Spec.RuntimeClassName == class.GetName() {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return out
}
