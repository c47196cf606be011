// Package dataload runs DataLoads: each becomes a Job whose pod asks the
// engine's master to bring paths into the cache. The Job's end is the
// operation's end; how far it is comes from the master's Summary.
package dataload

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/internal/flow"
)

// datasetIndex indexes DataLoads by the name of their Dataset.
const datasetIndex = "millrace.dataload.dataset"

// Observer tells what a master says of itself.
type Observer interface {
	Latest(key types.NamespacedName) (contract.Summary, time.Time, bool)
	Source(requests func(types.NamespacedName) []reconcile.Request) source.Source
}

// Options of the controller.
type Options struct {
	// NativeImage runs `cache load` where the master's image is not known.
	NativeImage string
	PullPolicy  corev1.PullPolicy
}

// Reconciler runs DataLoads.
type Reconciler struct {
	client.Client
	observer Observer
	options  Options
	events   record.EventRecorder
}

// scope is what one round has read and found out.
type scope struct {
	load    *datav1alpha1.DataLoad
	before  *datav1alpha1.DataLoad // as it was read
	dataset *datav1alpha1.Dataset
	job     *batchv1.Job
	events  []event
}

// event is one that is sent once the status is written.
type event struct{ kind, reason, message string }

// SetupWithManager registers the controller.
func SetupWithManager(mgr ctrl.Manager, observer Observer, options Options) error {
	r := &Reconciler{Client: mgr.GetClient(), observer: observer, options: options, events: mgr.GetEventRecorderFor("dataload-controller")}
	if err := mgr.GetFieldIndexer().IndexField(context.Background(), &datav1alpha1.DataLoad{}, datasetIndex, func(obj client.Object) []string {
		return []string{obj.(*datav1alpha1.DataLoad).Spec.Dataset.Name}
	}); err != nil {
		return fmt.Errorf("index dataloads: %w", err)
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("dataload").
		For(&datav1alpha1.DataLoad{}).
		Owns(&batchv1.Job{}).
		Watches(&datav1alpha1.Dataset{}, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, obj client.Object) []reconcile.Request {
			return r.unfinished(ctx, client.ObjectKeyFromObject(obj))
		})).
		WatchesRawSource(observer.Source(func(key types.NamespacedName) []reconcile.Request {
			return r.unfinished(context.Background(), key)
		})).
		WithOptions(controller.Options{MaxConcurrentReconciles: 4}).
		Complete(r)
}

// unfinished are the requests of the DataLoads of a Dataset that have not ended.
func (r *Reconciler) unfinished(ctx context.Context, dataset types.NamespacedName) []reconcile.Request {
	list := &datav1alpha1.DataLoadList{}
	if err := r.List(ctx, list, client.InNamespace(dataset.Namespace), client.MatchingFields{datasetIndex: dataset.Name}); err != nil {
		logr.FromContextOrDiscard(ctx).Error(err, "list dataloads", "dataset", dataset)
		return nil
	}
	var out []reconcile.Request
	for i := range list.Items {
		if !finished(&list.Items[i]) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return out
}

// Reconcile brings one DataLoad a step further.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (_ ctrl.Result, err error) {
	dl := &datav1alpha1.DataLoad{}
	if err := r.Get(ctx, req.NamespacedName, dl); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	s := &scope{load: dl, before: dl.DeepCopy()}
	if !dl.DeletionTimestamp.IsZero() {
		return flow.Run(ctx, s, r.removeJob, r.dropFinalizer)
	}
	defer func() { err = errors.Join(err, r.writeStatus(ctx, s)) }()
	return flow.Run(ctx, s, r.expire, r.refuse, r.resolveDataset, r.adopt, r.startJob, r.observeJob)
}
