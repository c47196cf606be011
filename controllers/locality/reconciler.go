// Package locality writes LocalitySlices: how many bytes of each Dataset lie on
// which nodes, as the engine's master says, for schedulers and the webhook.
package locality

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	cachev1alpha1 "github.com/millrace/millrace/apis/cache/v1alpha1"
	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/internal/apply"
	"github.com/millrace/millrace/controllers/internal/flow"
)

const (
	// minPause lies between two writes of one Dataset's slices.
	minPause = 2 * time.Second
	// smallPause is how long a change that does not matter much may wait.
	smallPause = 30 * time.Second
)

// Observer tells what a master says of itself.
type Observer interface {
	Latest(key types.NamespacedName) (contract.Summary, time.Time, bool)
	Source(requests func(types.NamespacedName) []reconcile.Request) source.Source
}

// Reconciler writes the slices of a Dataset.
type Reconciler struct {
	client.Client
	observer Observer
	applier  *apply.Applier

	mu      sync.Mutex
	written map[types.NamespacedName]time.Time
}

// scope is what one round has read.
type scope struct {
	dataset *datav1alpha1.Dataset
	slices  []cachev1alpha1.LocalitySlice
	desired []*cachev1alpha1.LocalitySlice
}

// SetupWithManager registers the controller.
func SetupWithManager(mgr ctrl.Manager, observer Observer) error {
	r := &Reconciler{
		Client: mgr.GetClient(), observer: observer,
		applier: apply.New(mgr.GetClient(), "locality-controller").LookingPast(mgr.GetAPIReader()),
		written: map[types.NamespacedName]time.Time{},
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("locality").
		For(&datav1alpha1.Dataset{}).
		Owns(&cachev1alpha1.LocalitySlice{}).
		WatchesRawSource(observer.Source(nil)).
		WithOptions(controller.Options{MaxConcurrentReconciles: 2}).
		Complete(r)
}

// Reconcile brings the slices of one Dataset up to date.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	ds := &datav1alpha1.Dataset{}
	if err := r.Get(ctx, req.NamespacedName, ds); err != nil {
		// The slices are owned: they go with the Dataset.
		r.forget(req.NamespacedName)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	return flow.Run(ctx, &scope{dataset: ds}, r.readSlices, r.observe, r.pace, r.writeSlices, r.removeSurplus)
}

func (r *Reconciler) readSlices(ctx context.Context, s *scope) (flow.Outcome, error) {
	list := &cachev1alpha1.LocalitySliceList{}
	if err := r.List(ctx, list, client.InNamespace(s.dataset.Namespace), client.MatchingLabels{cachev1alpha1.LabelDataset: s.dataset.Name}); err != nil {
		return flow.Outcome{}, fmt.Errorf("list locality slices of dataset %s: %w", s.dataset.Name, err)
	}
	s.slices = list.Items
	return flow.Continue(), nil
}

// observe works out what the slices should say. While a bound Dataset's master
// cannot be heard they stay: its workers still hold what they held.
func (r *Reconciler) observe(ctx context.Context, s *scope) (flow.Outcome, error) {
	summary, _, heard := r.observer.Latest(client.ObjectKeyFromObject(s.dataset))
	bound := slices.Contains([]datav1alpha1.DatasetPhase{datav1alpha1.BoundDatasetPhase, datav1alpha1.UpdatingDatasetPhase, datav1alpha1.DataMigratingDatasetPhase}, s.dataset.Status.Phase)
	switch {
	case heard && summary.Retired, !heard && !bound:
		return flow.Continue(), nil
	case !heard:
		return flow.Wait(), nil
	}
	zones, err := r.zones(ctx, summary)
	if err != nil {
		return flow.Outcome{}, err
	}
	s.desired = desiredSlices(s.dataset, summary, zones)
	return flow.Continue(), nil
}

// zones maps the nodes of a Summary's workers to their zones.
func (r *Reconciler) zones(ctx context.Context, summary contract.Summary) (map[string]string, error) {
	zones := map[string]string{}
	for _, w := range summary.Workers {
		node := &metav1.PartialObjectMetadata{}
		node.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Node"))
		err := r.Get(ctx, types.NamespacedName{Name: w.Node}, node)
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("read node %s: %w", w.Node, err)
		}
		zones[w.Node] = node.Labels[corev1.LabelTopologyZone]
	}
	return zones, nil
}

// pace lets news pass at once, but not too often, and small ones seldom.
func (r *Reconciler) pace(_ context.Context, s *scope) (flow.Outcome, error) {
	pause := minPause
	switch compare(s.slices, s.desired) {
	case same:
		return flow.Wait(), nil
	case small:
		pause = smallPause
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key := client.ObjectKeyFromObject(s.dataset)
	if left := time.Until(r.written[key].Add(pause)); left > 0 {
		return flow.WaitFor(left), nil
	}
	r.written[key] = time.Now()
	return flow.Continue(), nil
}

func (r *Reconciler) writeSlices(ctx context.Context, s *scope) (flow.Outcome, error) {
	mine := func(live client.Object) bool {
		slice, ok := live.(*cachev1alpha1.LocalitySlice)
		return ok && slice.Dataset.Name == s.dataset.Name
	}
	for _, slice := range s.desired {
		if err := r.applier.Apply(ctx, slice, mine); err != nil {
			return flow.Outcome{}, err
		}
	}
	return flow.Continue(), nil
}

func (r *Reconciler) removeSurplus(ctx context.Context, s *scope) (flow.Outcome, error) {
	for i := range s.slices {
		slice := &s.slices[i]
		if slices.ContainsFunc(s.desired, func(d *cachev1alpha1.LocalitySlice) bool { return d.Name == slice.Name }) {
			continue
		}
		if err := r.Delete(ctx, slice); client.IgnoreNotFound(err) != nil {
			return flow.Outcome{}, fmt.Errorf("delete locality slice %s: %w", slice.Name, err)
		}
	}
	return flow.Continue(), nil
}

func (r *Reconciler) forget(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.written, key)
}
