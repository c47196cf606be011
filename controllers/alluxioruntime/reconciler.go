// Package alluxioruntime serves AlluxioRuntimes by the native engine: a thin
// adapter onto engine.Description. What has no meaning here is named in a
// condition.
package alluxioruntime

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

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
	r := engine.NewReconciler(mgr, &kind{options: options}, observer, metrics, options.Options)
	if err := r.Builder(mgr).Named("alluxioruntime").Complete(r); err != nil {
		return fmt.Errorf("set up alluxioruntime controller: %w", err)
	}
	return nil
}

var _ engine.Kind = (*kind)(nil)

type kind struct{ options Options }

func (k *kind) Type() contract.RuntimeType { return contract.RuntimeAlluxio }

// Describe turns the runtime into the engine's words.
func (k *kind) Describe(_ context.Context, runtime client.Object) (*engine.Description, error) {
	return describe(runtime.(*datav1alpha1.AlluxioRuntime), k.options)
}

// NotServed names the fields that the native engine has no use for.
func (k *kind) NotServed(runtime client.Object) []string {
	return notServed(&runtime.(*datav1alpha1.AlluxioRuntime).Spec)
}

// Report fills the status.
func (k *kind) Report(runtime client.Object, seen *engine.Seen) {
	report(runtime.(*datav1alpha1.AlluxioRuntime), seen)
}
