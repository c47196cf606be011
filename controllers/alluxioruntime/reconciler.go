// Package alluxioruntime serves AlluxioRuntimes: by the native engine, or by a
// real Alluxio where an annotation asks for it. It is a thin adapter onto
// engine.Description. What has no meaning is named in a condition.
package alluxioruntime

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
)

// Options of the controller.
type Options struct {
	engine.Options
	NativeImage string
	PullPolicy  corev1.PullPolicy
}

// SetupWithManager adds the controller of AlluxioRuntimes.
func SetupWithManager(mgr ctrl.Manager, observer *engine.Observer, metrics *engine.Metrics, options Options) error {
	if installed, err := engine.Installed(mgr, &datav1alpha1.AlluxioRuntime{}); err != nil || !installed {
		return err
	}
	k := &kind{classes: mgr.GetClient(), options: options}
	r := engine.NewReconciler(mgr, k, observer, metrics, options.Options)
	err := r.Builder(mgr).
		Named("alluxioruntime").
		Watches(&datav1alpha1.CacheRuntimeClass{}, handler.EnqueueRequestsFromMapFunc(k.runtimesOfClass)).
		Complete(r)
	if err != nil {
		return fmt.Errorf("set up alluxioruntime controller: %w", err)
	}
	return nil
}

var _ engine.Kind = (*kind)(nil)

type kind struct {
	classes client.Reader
	options Options
}

func (k *kind) Type() contract.RuntimeType { return contract.RuntimeAlluxio }

// Describe turns the runtime into the engine's words.
func (k *kind) Describe(ctx context.Context, runtime client.Object) (*engine.Description, error) {
	rt := runtime.(*datav1alpha1.AlluxioRuntime)
	if problem := notAnEngine(rt); problem != nil {
		return nil, problem
	}
	if wantsReal(rt) {
		return k.describeReal(ctx, rt)
	}
	return describe(rt, k.options)
}

// NotServed names the fields that the engine has no use for.
func (k *kind) NotServed(runtime client.Object) []string {
	if rt := runtime.(*datav1alpha1.AlluxioRuntime); wantsReal(rt) {
		return notServedByReal(&rt.Spec)
	}
	return notServed(&runtime.(*datav1alpha1.AlluxioRuntime).Spec)
}

// Report fills the status.
func (k *kind) Report(runtime client.Object, seen *engine.Seen) {
	report(runtime.(*datav1alpha1.AlluxioRuntime), seen)
}
