package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/internal/apply"
	"github.com/millrace/millrace/controllers/internal/flow"
	"github.com/millrace/millrace/controllers/internal/status"
)

// Kind is what one kind of runtime adds to the Reconciler that all share.
type Kind interface {
	Type() contract.RuntimeType
	// Describe turns a runtime into the engine's words. A *Problem as error is
	// told in a condition and not retried; the rest of the Description, which
	// comes from the Dataset, is filled in by the caller.
	Describe(ctx context.Context, runtime client.Object) (*Description, error)
	// NotServed names the fields of the runtime that have no meaning here.
	NotServed(runtime client.Object) []string
	// Report fills the status of the runtime, but for its conditions.
	Report(runtime client.Object, seen *Seen)
}

// Options of the Reconciler.
type Options struct {
	MountRoot string
	// Egress is what the administrator allows sources to connect to beyond what
	// everybody may; contract.ParseEgress reads it.
	Egress []string
	// UnusedTime is how old a FUSE pod must be before it is found unused, as the
	// pod that it was made for may not have been heard of yet; a minute if 0.
	UnusedTime time.Duration
	// MasterAddress is where the HTTP interface of a master's pod is; tests
	// put their own here.
	MasterAddress func(pod *corev1.Pod) string
}

// MasterAddress is where the HTTP interface of a master's pod is.
func MasterAddress(pod *corev1.Pod) string {
	return "http://" + net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(contract.MasterHTTPPort))
}

// Reconciler makes the pods of a runtime of one kind and tells of them.
type Reconciler struct {
	client.Client
	// live reads Secrets, one by one and never through a cache.
	live     client.Reader
	kind     Kind
	observer *Observer
	applier  *apply.Applier
	events   record.EventRecorder
	metrics  *Metrics
	options  Options
	// fieldOwner is who we are in the managed fields of what we made.
	fieldOwner string
}

// NewReconciler makes the Reconciler of a kind.
func NewReconciler(mgr ctrl.Manager, kind Kind, observer *Observer, metrics *Metrics, options Options) *Reconciler {
	name := string(kind.Type()) + "runtime-controller"
	owner := "millrace-" + name
	return &Reconciler{
		Client: mgr.GetClient(), live: mgr.GetAPIReader(), kind: kind, observer: observer, metrics: metrics, options: options,
		applier: apply.New(mgr.GetClient(), owner).LookingPast(mgr.GetAPIReader()), fieldOwner: owner, events: mgr.GetEventRecorderFor(name),
	}
}

// Concurrency is how many Datasets, and how many runtimes of a kind, are worked
// on at once: one that waits for a silent master holds no other one up.
const Concurrency = 8

// Builder is a controller of the kind with every watch that the Reconciler lives on.
func (r *Reconciler) Builder(mgr ctrl.Manager) *builder.Builder {
	byName := handler.EnqueueRequestsFromMapFunc(RequestOfName)
	return ctrl.NewControllerManagedBy(mgr).
		WithOptions(controller.Options{MaxConcurrentReconciles: Concurrency}).
		For(New(r.kind.Type()), builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}))).
		Owns(&appsv1.StatefulSet{}).
		Owns(&appsv1.DaemonSet{}).
		Owns(&corev1.ConfigMap{}).
		Owns(&corev1.Service{}).
		Watches(&datav1alpha1.Dataset{}, byName, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(requestsOfReader(mgr.GetClient())), builder.WithPredicates(PodMatters())).
		Watches(&corev1.PersistentVolumeClaim{}, handler.EnqueueRequestsFromMapFunc(RequestsOfClaim(mgr.GetClient()))).
		WatchesRawSource(r.observer.Source(nil))
}

// round is what is known in one round of a reconcile.
type round struct {
	key     types.NamespacedName
	runtime client.Object
	dataset *datav1alpha1.Dataset
	desc    *Description
	// problem keeps the pods from being made or changed.
	problem *Problem
	// trouble is what the first pod that cannot run says.
	trouble string
	seen    Seen
}

func (s *round) conditions() *[]metav1.Condition { return ConditionsOf(s.runtime) }

// Reconcile is the table of contents.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (_ ctrl.Result, err error) {
	runtime := New(r.kind.Type())
	if err := r.Get(ctx, req.NamespacedName, runtime); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	s := &round{key: req.NamespacedName, runtime: runtime}
	before := runtime.DeepCopyObject().(client.Object)
	defer func() {
		if err != nil {
			r.metrics.setupFailed(r.kind.Type(), s.key)
		}
		err = errors.Join(err, status.Patch(ctx, r.Client, before, runtime))
	}()
	if !runtime.GetDeletionTimestamp().IsZero() {
		return flow.Run(ctx, s, r.refuseWhileInUse, r.retireCache, r.deleteObjects, r.clearFuseLabels, r.dropFinalizer)
	}
	return flow.Run(ctx, s, r.ensureFinalizer, r.describe, r.checkSources, r.scaleIn, r.applyObjects, r.tellPods, r.labelWorkers, r.replaceLostMaster, r.tendFuse, r.observe, r.report)
}

func (r *Reconciler) ensureFinalizer(ctx context.Context, s *round) (flow.Outcome, error) {
	return flow.Continue(), status.AddFinalizer(ctx, r.Client, s.runtime, contract.RuntimeFinalizer(r.kind.Type()))
}

func (r *Reconciler) dropFinalizer(ctx context.Context, s *round) (flow.Outcome, error) {
	r.observer.Forget(s.key)
	r.metrics.forget(r.kind.Type(), s.key)
	return flow.Continue(), status.RemoveFinalizer(ctx, r.Client, s.runtime, contract.RuntimeFinalizer(r.kind.Type()))
}

func masterPodKey(key types.NamespacedName) types.NamespacedName {
	return types.NamespacedName{Namespace: key.Namespace, Name: contract.MasterName(key.Name) + "-0"}
}

// masterPod is the pod of the master, or nil while none can be talked to.
func (r *Reconciler) masterPod(ctx context.Context, key types.NamespacedName) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	if err := r.Get(ctx, masterPodKey(key), pod); client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("read master pod of %s: %w", key, err)
	}
	// A pod that is not there has no address either, and one of another engine
	// would not understand.
	if pod.Labels[contract.LabelCacheRuntime] != key.Name || pod.Status.PodIP == "" || pod.Status.Phase != corev1.PodRunning || !pod.DeletionTimestamp.IsZero() {
		return nil, nil
	}
	return pod, nil
}

// retireTime is how long a deleted runtime's workers may take to drop their files.
const retireTime = 30 * time.Second
