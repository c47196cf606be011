// Package operation is what DataLoads, DataMigrates, DataBackups and
// DataProcesses have in common: when they run, after whom and beside whom, and
// what is said of it. Each run is a Job; a kind's own room tells what the Job
// does and what is known of it besides: see Work.
package operation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-logr/logr"
	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
	"github.com/millrace/millrace/controllers/internal/flow"
)

// Work is what one kind of operations does its own way.
type Work interface {
	// Object is an empty one of the kind.
	Object() client.Object
	// JobName is the Job of an operation that runs once, and the beginning of the
	// names of one that repeats.
	JobName(operation string) string
	// Finalizer is the one that Fluid's controller would have set.
	Finalizer() string
	// Reasons of the events of a run.
	Reasons() Reasons
	// Refuse says why the operation can never run; nil if it can.
	Refuse(s *Round) *Problem
	// Job is what a run does, without name, owner and place. An error that is a
	// Problem says what is in the way.
	Job(ctx context.Context, s *Round) (*batchv1.Job, error)
	// Observe takes in what is known of a run besides its Job.
	Observe(ctx context.Context, s *Round) (News, error)
	// Done says what a run that ended well has done.
	Done(s *Round, took time.Duration) string
}

// Leaver is Work that keeps something of an operation, to be let go with it.
type Leaver interface {
	Left(operation types.NamespacedName)
}

// Reasons of events.
type Reasons struct{ Started, Complete, Failed string }

// News of a run.
type News struct {
	// Failure is why it failed, in the engine's words; "" if it has none.
	Failure string
	// Behind tells that the last word is still to come.
	Behind bool
}

// Problem is what keeps an operation from running.
type Problem struct {
	Reason, Message string
	// Hopeless problems are solved by another spec, others by somebody or time.
	Hopeless bool
}

func (p *Problem) Error() string { return p.Message }

// Observer tells what a master says of itself.
type Observer interface {
	Latest(key types.NamespacedName) (contract.Summary, time.Time, bool)
	Source(requests func(types.NamespacedName) []reconcile.Request) source.Source
}

// Reconciler runs the operations of one kind.
type Reconciler struct {
	client.Client
	work      Work
	kind      string
	turns     *Turns
	observer  Observer
	clock     clock.PassiveClock
	events    record.EventRecorder
	installed map[string]bool
}

// Round is what one round has read and found out.
type Round struct {
	Facts
	Object  client.Object
	Dataset *datav1alpha1.Dataset
	Run     Run
	// Job of the run; nil until it is made.
	Job *batchv1.Job
	// Now is when the round began.
	Now time.Time

	before client.Object // as it was read
	was    *datav1alpha1.OperationStatus
	reason Reasons
	events []notice
}

// notice is an event that is sent once the status is written.
type notice struct{ kind, reason, message string }

// Indexes of the operations of every kind.
const (
	datasetIndex  = "millrace.operation.dataset"
	precedingRefs = "millrace.operation.preceding"
)

// Options of a controller.
type Options struct {
	// Turns are shared by the controllers of all kinds; nil has one of its own.
	Turns *Turns
	// Clock tells when a schedule is due; nil is the machine's.
	Clock clock.PassiveClock
}

// SetupWithManager adds the controller of a kind of operations. One whose
// definition is not installed is left out: the others work all the same.
func SetupWithManager(mgr ctrl.Manager, observer Observer, work Work, options Options) error {
	facts, _ := FactsOf(work.Object())
	name := strings.ToLower(facts.Kind)
	r := &Reconciler{
		Client: mgr.GetClient(), work: work, kind: facts.Kind, turns: options.Turns, observer: observer, clock: options.Clock,
		events: mgr.GetEventRecorderFor(name + "-controller"), installed: map[string]bool{},
	}
	if r.clock == nil {
		r.clock = clock.RealClock{}
	}
	if r.turns == nil {
		r.turns = NewTurns()
	}
	for _, k := range kinds {
		installed, err := engine.Installed(mgr, k.one())
		if err != nil {
			return err
		}
		r.installed[k.name] = installed
	}
	if !r.installed[r.kind] {
		return nil
	}
	if err := r.index(mgr.GetFieldIndexer()); err != nil {
		return err
	}
	b := ctrl.NewControllerManagedBy(mgr).
		Named(name).
		For(work.Object()).
		Owns(&batchv1.Job{}).
		Watches(&batchv1.Job{}, handler.EnqueueRequestsFromMapFunc(r.requestsOfJob), builder.WithPredicates(endsOfJobs())).
		Watches(&datav1alpha1.Dataset{}, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, obj client.Object) []reconcile.Request {
			return r.unfinished(ctx, client.ObjectKeyFromObject(obj))
		})).
		WatchesRawSource(observer.Source(func(key types.NamespacedName) []reconcile.Request {
			return r.unfinished(context.Background(), key)
		})).
		WithOptions(controller.Options{MaxConcurrentReconciles: 4})
	for _, k := range kinds {
		if r.installed[k.name] {
			b = b.Watches(k.one(), handler.EnqueueRequestsFromMapFunc(r.requestsOfOperation)).
				Watches(k.one(), handler.EnqueueRequestsFromMapFunc(r.requestsOfGone), builder.WithPredicates(onlyDeletions()))
		}
	}
	if err := b.Complete(r); err != nil {
		return fmt.Errorf("set up %s controller: %w", name, err)
	}
	return nil
}

func (r *Reconciler) index(indexer client.FieldIndexer) error {
	if err := indexer.IndexField(context.Background(), r.work.Object(), datasetIndex, func(obj client.Object) []string {
		f, _ := FactsOf(obj)
		return []string{f.Target.String(), f.Origin.String(), StreamOf(r.kind, client.ObjectKeyFromObject(obj)).String()}
	}); err != nil {
		return fmt.Errorf("index operations of kind %s by their Dataset: %w", r.kind, err)
	}
	if err := indexer.IndexField(context.Background(), r.work.Object(), precedingRefs, func(obj client.Object) []string {
		f, _ := FactsOf(obj)
		if f.RunAfter == nil {
			return nil
		}
		refs := []string{described(obj.GetNamespace(), f.RunAfter.ObjectRef)}
		if other := f.RunAfter.AffinityStrategy.DependOn; other != nil {
			refs = append(refs, described(obj.GetNamespace(), *other))
		}
		return refs
	}); err != nil {
		return fmt.Errorf("index operations of kind %s by what they run after: %w", r.kind, err)
	}
	return nil
}

// unfinished are the requests of the operations on a Dataset that have not ended.
func (r *Reconciler) unfinished(ctx context.Context, dataset types.NamespacedName) []reconcile.Request {
	return r.matching(ctx, client.MatchingFields{datasetIndex: dataset.String()})
}

func (r *Reconciler) matching(ctx context.Context, fields client.MatchingFields) []reconcile.Request {
	list := listOf(r.kind)
	if err := r.List(ctx, list, fields); err != nil {
		logr.FromContextOrDiscard(ctx).Error(err, "list operations", "kind", r.kind)
		return nil
	}
	var out []reconcile.Request
	for _, obj := range itemsOf(list) {
		if f, _ := FactsOf(obj); !f.finished() {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(obj)})
		}
	}
	return out
}

// requestsOfOperation are those that wait for another to be complete, or for its
// turn to end.
func (r *Reconciler) requestsOfOperation(ctx context.Context, obj client.Object) []reconcile.Request {
	f, ok := FactsOf(obj)
	if !ok {
		return nil
	}
	out := r.matching(ctx, client.MatchingFields{precedingRefs: described("", refOf(obj, f.Kind))})
	if f.finished() || f.repeats() && underWay(f.Status) == nil {
		out = append(out, r.unfinished(ctx, f.Target)...)
	}
	return out
}

// requestsOfGone are those that may have waited for one that was deleted.
func (r *Reconciler) requestsOfGone(ctx context.Context, obj client.Object) []reconcile.Request {
	f, ok := FactsOf(obj)
	if !ok {
		return nil
	}
	return r.unfinished(ctx, f.Target)
}

// requestsOfJob are those that may have waited for a Job's end.
func (r *Reconciler) requestsOfJob(ctx context.Context, obj client.Object) []reconcile.Request {
	dataset := obj.GetAnnotations()[annotationDataset]
	if dataset == "" {
		return nil
	}
	return r.unfinished(ctx, types.NamespacedName{Namespace: obj.GetNamespace(), Name: dataset})
}

// Reconcile brings one operation a step further.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (result ctrl.Result, err error) {
	obj := r.work.Object()
	if err := r.Get(ctx, req.NamespacedName, obj); err != nil {
		if leaver, ok := r.work.(Leaver); ok && apierrors.IsNotFound(err) {
			leaver.Left(req.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	s := r.round(obj)
	if !obj.GetDeletionTimestamp().IsZero() {
		return flow.Run(ctx, s, r.removeJobs, r.dropFinalizer)
	}
	defer func() {
		switch written := r.writeStatus(ctx, s); {
		case apierrors.IsConflict(written): // the round read an old copy
			result, err = ctrl.Result{RequeueAfter: staleRead}, nil
		default:
			err = errors.Join(err, written)
		}
	}()
	return flow.Run(ctx, s, r.expire, r.refuse, r.findDataset, r.adopt, r.awaitPreceding, r.chooseRun, r.awaitDataset, r.awaitTurn, r.startJob, r.observe)
}
