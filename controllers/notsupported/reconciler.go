// Package notsupported answers the kinds of Fluid that nothing here serves: the
// object is taken, a condition NotSupported names the kind and what to do
// instead, and a finalizer of Fluid's never keeps it from going.
package notsupported

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/controllers/engine"
	"github.com/millrace/millrace/controllers/internal/flow"
	"github.com/millrace/millrace/controllers/internal/status"
)

// Reconciler of one kind.
type Reconciler struct {
	client.Client
	kind   kind
	events record.EventRecorder
}

// round is what is known in one round of a reconcile.
type round struct{ obj client.Object }

// SetupWithManager adds a controller for each kind. One whose definition is not
// installed is left out: the others work all the same.
func SetupWithManager(mgr ctrl.Manager) error {
	for _, k := range kinds {
		if installed, err := engine.Installed(mgr, k.object()); err != nil {
			return err
		} else if !installed {
			continue
		}
		name := strings.ToLower(k.name)
		r := &Reconciler{Client: mgr.GetClient(), kind: k, events: mgr.GetEventRecorderFor(name + "-controller")}
		if err := ctrl.NewControllerManagedBy(mgr).
			Named(name).
			For(k.object(), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
			Complete(r); err != nil {
			return fmt.Errorf("set up %s controller: %w", name, err)
		}
	}
	return nil
}

// Reconcile answers one object, or lets it go.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (_ ctrl.Result, err error) {
	obj := r.kind.object()
	if err := r.Get(ctx, req.NamespacedName, obj); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	s := &round{obj: obj}
	if !obj.GetDeletionTimestamp().IsZero() {
		return flow.Run(ctx, s, r.dropFinalizers)
	}
	before := obj.DeepCopyObject().(client.Object)
	defer func() { err = errors.Join(err, status.Patch(ctx, r.Client, before, obj)) }()
	return flow.Run(ctx, s, r.answer)
}

// dropFinalizers takes those off that only a controller of Fluid would have.
func (r *Reconciler) dropFinalizers(ctx context.Context, s *round) (flow.Outcome, error) {
	for _, finalizer := range s.obj.GetFinalizers() {
		if !contract.IsFluidFinalizer(finalizer) {
			continue
		}
		if err := status.RemoveFinalizer(ctx, r.Client, s.obj, finalizer); err != nil {
			return flow.Wait(), err
		}
	}
	return flow.Continue(), nil
}

// answer says in the object's status that nothing is done for it.
func (r *Reconciler) answer(_ context.Context, s *round) (flow.Outcome, error) {
	if message := r.kind.answer(s.obj); message != "" {
		r.events.Event(s.obj, corev1.EventTypeWarning, contract.EventDataOperationNotSupport, message)
	}
	return flow.Continue(), nil
}
