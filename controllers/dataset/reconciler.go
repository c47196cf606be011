// Package dataset binds Datasets to their runtimes: it makes the volume once
// the cache serves, tells people what is cached, and lets a Dataset go only when
// nobody reads through it.
package dataset

import (
	"context"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
	"github.com/millrace/millrace/controllers/internal/apply"
	"github.com/millrace/millrace/controllers/internal/flow"
	"github.com/millrace/millrace/controllers/internal/status"
	"github.com/millrace/millrace/controllers/operation"
)

const controllerName = "dataset-controller"

// Reconciler of Datasets.
type Reconciler struct {
	client.Client
	observer  *engine.Observer
	applier   *apply.Applier
	events    record.EventRecorder
	metrics   *metrics
	mountRoot string
	// operations are the kinds of data operations that are installed.
	operations []client.Object
}

// SetupWithManager adds the controller of Datasets.
func SetupWithManager(mgr ctrl.Manager, observer *engine.Observer, mountRoot string) error {
	m, err := newMetrics(ctrlmetrics.Registry)
	if err != nil {
		return err
	}
	r := &Reconciler{
		Client: mgr.GetClient(), observer: observer, metrics: m, mountRoot: mountRoot,
		applier: apply.New(mgr.GetClient(), "millrace-"+controllerName).LookingPast(mgr.GetAPIReader()), events: mgr.GetEventRecorderFor(controllerName),
	}
	byName := handler.EnqueueRequestsFromMapFunc(engine.RequestOfName)
	b := ctrl.NewControllerManagedBy(mgr).
		Named("dataset").
		WithOptions(controller.Options{MaxConcurrentReconciles: engine.Concurrency}).
		For(&datav1alpha1.Dataset{}, builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}))).
		Watches(&datav1alpha1.Dataset{}, handler.EnqueueRequestsFromMapFunc(requestsOfTarget), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&datav1alpha1.Dataset{}, handler.EnqueueRequestsFromMapFunc(requestsOfReferrers(mgr.GetClient()))).
		Watches(&appsv1.StatefulSet{}, handler.EnqueueRequestsFromMapFunc(requestsOfMaster)).
		Watches(&corev1.ConfigMap{}, handler.EnqueueRequestsFromMapFunc(requestsOfMute)).
		Watches(&corev1.PersistentVolumeClaim{}, byName).
		Watches(&corev1.PersistentVolume{}, handler.EnqueueRequestsFromMapFunc(requestsOfVolume)).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(engine.RequestsOfPod), builder.WithPredicates(engine.PodMatters())).
		WatchesRawSource(observer.Source(nil))
	for _, runtime := range []client.Object{
		&datav1alpha1.CacheRuntime{}, &datav1alpha1.AlluxioRuntime{}, &datav1alpha1.JuiceFSRuntime{}, &datav1alpha1.ThinRuntime{},
	} {
		// A kind that is not installed has no objects to wait for.
		if installed, err := engine.Installed(mgr, runtime); err != nil {
			return err
		} else if installed {
			b = b.Watches(runtime, byName)
		}
	}
	for _, kind := range operation.Kinds() {
		if installed, err := engine.Installed(mgr, kind); err != nil {
			return err
		} else if installed {
			r.operations = append(r.operations, kind)
			b = b.Watches(kind, handler.EnqueueRequestsFromMapFunc(requestsOfOperation))
		}
	}
	if err := b.Complete(r); err != nil {
		return fmt.Errorf("set up dataset controller: %w", err)
	}
	return nil
}

// round is what is known in one round of a reconcile.
type round struct {
	key     types.NamespacedName
	ds      *datav1alpha1.Dataset
	runtime *engine.Runtime
	// unserved is the kind of a runtime that nothing here serves; "" if there is none.
	unserved string
	// made is what the runtime's objects were made for.
	made  engine.Made
	state engine.State
	// migrating tells that an operation has the Dataset for itself.
	migrating bool
	// reference is what the Dataset refers to, target that Dataset if it may, and
	// origin its volume; only of a Dataset that refers to another.
	reference contract.Reference
	target    *datav1alpha1.Dataset
	origin    *corev1.PersistentVolume
	// problem is why the Dataset is not ready; nil when it is.
	problem *engine.Problem
	// bound tells that the volume exists, is ours and is bound to its claim.
	bound bool
}

// Reconcile is the table of contents.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (_ ctrl.Result, err error) {
	ds := &datav1alpha1.Dataset{}
	if err := r.Get(ctx, req.NamespacedName, ds); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	s := &round{key: req.NamespacedName, ds: ds}
	before := ds.DeepCopy()
	defer func() {
		s.stampLook(before)
		err = errors.Join(err, status.Patch(ctx, r.Client, before, ds))
	}()

	if !ds.DeletionTimestamp.IsZero() {
		return flow.Run(ctx, s, r.findReferrers, r.refuseWhileInUse, r.deleteRuntime, r.releaseVolume, r.dropFinalizer)
	}
	if s.refers() {
		return flow.Run(ctx, s, r.ensureFinalizer, r.findReferrers, r.findOperations, r.resolveReference, r.ensureVolume, r.followTarget, r.report)
	}
	return flow.Run(ctx, s, r.ensureFinalizer, r.findReferrers, r.findOperations, r.resolveRuntime, r.assess, r.ensureVolume, r.report, r.refresh)
}

func requestsOfMaster(_ context.Context, obj client.Object) []reconcile.Request {
	runtime := obj.GetLabels()[contract.LabelCacheRuntime]
	if runtime == "" || obj.GetName() != contract.MasterName(runtime) {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: obj.GetNamespace(), Name: runtime}}}
}

// requestsOfMute is the Dataset of an engine that nobody speaks for: what it was
// made for is only in its configuration.
func requestsOfMute(_ context.Context, obj client.Object) []reconcile.Request {
	if obj.GetAnnotations()[engine.AnnotationMute] == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetLabels()[contract.LabelCacheRuntime]}}}
}

// requestsOfVolume is the Dataset whose claim a volume of ours is for.
func requestsOfVolume(_ context.Context, obj client.Object) []reconcile.Request {
	pv, ok := obj.(*corev1.PersistentVolume)
	if !ok || pv.Spec.CSI == nil || pv.Spec.CSI.Driver != contract.CSIDriver || pv.Spec.ClaimRef == nil {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: pv.Spec.ClaimRef.Namespace, Name: pv.Spec.ClaimRef.Name}}}
}

// requestsOfTarget is the Dataset that a Dataset refers to. One that it referred
// to before it was changed is told by the update's old object.
func requestsOfTarget(_ context.Context, obj client.Object) []reconcile.Request {
	ds, ok := obj.(*datav1alpha1.Dataset)
	if !ok {
		return nil
	}
	to, is := engine.ReferenceOf(ds)
	if !is {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: to.Namespace, Name: to.Name}}}
}

func requestsOfOperation(_ context.Context, obj client.Object) []reconcile.Request {
	f, ok := operation.FactsOf(obj)
	if !ok || f.Target.Name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: f.Target}}
}

// ours tells whether a PV or PVC was made by us.
func ours(live client.Object) bool {
	return live.GetAnnotations()[contract.AnnotationCreatedBy] == contract.AnnotationCreatedByValue
}
