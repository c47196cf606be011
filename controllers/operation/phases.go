package operation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/internal/flow"
	"github.com/millrace/millrace/controllers/internal/status"
)

const (
	// lastNews is how long the end of a Job waits for the engine's last word on the
	// run, which is at most a second behind.
	lastNews = 5 * time.Second
	// soon is when that is asked for again.
	soon = 500 * time.Millisecond
	// lookAgain is when something is looked for again that nobody is told of.
	lookAgain = 10 * time.Second
	// staleRead is how soon a round is repeated that worked on an old copy.
	staleRead = 50 * time.Millisecond
)

// runSuffix is how long the part of a Job's name is that tells the runs of an
// operation apart.
const runSuffix = len("-1700000000")

// removeJobs ends the runs of an operation that is being deleted.
func (r *Reconciler) removeJobs(ctx context.Context, s *Round) (flow.Outcome, error) {
	jobs, err := r.jobsOf(ctx, s.Object)
	if err != nil {
		return flow.Wait(), err
	}
	for i := range jobs {
		if err := r.deleteJob(ctx, &jobs[i]); err != nil {
			return flow.Wait(), err
		}
	}
	return flow.Continue(), nil
}

// dropFinalizer lets go of an object that carries the finalizer of Fluid's
// controller, from before Millrace. Ours needs none: its Jobs are owned.
func (r *Reconciler) dropFinalizer(ctx context.Context, s *Round) (flow.Outcome, error) {
	return flow.Continue(), status.RemoveFinalizer(ctx, r.Client, s.Object, r.work.Finalizer())
}

// expire deletes an operation whose time after its end has passed.
func (r *Reconciler) expire(ctx context.Context, s *Round) (flow.Outcome, error) {
	if !s.finished() {
		return flow.Continue(), nil
	}
	if s.TTLSeconds == nil {
		return flow.Wait(), nil
	}
	if left := s.ended().Add(time.Duration(*s.TTLSeconds) * time.Second).Sub(s.Now); left > 0 {
		return flow.WaitFor(left), nil
	}
	uid := s.Object.GetUID()
	err := r.Delete(ctx, s.Object, client.Preconditions{UID: &uid}, client.PropagationPolicy(metav1.DeletePropagationBackground))
	if client.IgnoreNotFound(err) != nil {
		return flow.Wait(), fmt.Errorf("delete expired %s %s: %w", s.Kind, s.Object.GetName(), err)
	}
	return flow.Wait(), nil
}

// refuse ends what can never run, and says why.
func (r *Reconciler) refuse(_ context.Context, s *Round) (flow.Outcome, error) {
	problem := r.refusal(s)
	if problem == nil {
		s.unrefuse()
		return flow.Continue(), nil
	}
	if problem.Reason == contract.EventDataOperationNotSupport {
		s.notSupported(problem.Message)
	}
	s.fail(problem.Reason, problem.Message)
	return flow.Wait(), nil
}

func (r *Reconciler) refusal(s *Round) *Problem {
	if s.repeats() && underWay(s.Status) != nil {
		return nil // what has begun goes to its end
	}
	name := r.work.JobName(s.Object.GetName())
	longest := validation.DNS1123LabelMaxLength - len(r.work.JobName(""))
	if s.repeats() {
		name, longest = name+strings.Repeat("0", runSuffix), longest-runSuffix
	}
	switch {
	case s.Target.Name == "":
		return &Problem{Reason: contract.EventDataOperationNotValid, Message: "no Dataset is named: name the one to work on"}
	case s.Target.Namespace != s.Object.GetNamespace():
		return &Problem{Reason: contract.EventTargetDatasetNamespaceDiff, Message: fmt.Sprintf("Dataset %s is in another namespace: create the %s in namespace %s",
			s.Target, s.Kind, s.Target.Namespace)}
	case s.Policy == datav1alpha1.Cron:
		if _, err := parseSchedule(s.Schedule); err != nil {
			return &Problem{Reason: contract.EventDataOperationNotValid, Message: "spec." + err.Error()}
		}
	case s.Policy == datav1alpha1.OnEvent && s.Origin.Name == "":
		return &Problem{Reason: contract.EventDataOperationNotSupport, Message: "spec.policy OnEvent needs a Dataset to read from, whose sources it looks at: use Once or Cron"}
	}
	if len(validation.IsDNS1123Label(name)) > 0 {
		return &Problem{Reason: contract.EventDataOperationNotValid, Message: fmt.Sprintf("the name of its Job would not be valid: use a name of at most %d characters without dots", longest)}
	}
	if s.RunAfter != nil && s.RunAfter.Kind == s.Kind && s.RunAfter.Name == s.Object.GetName() && (s.RunAfter.Namespace == "" || s.RunAfter.Namespace == s.Object.GetNamespace()) {
		return &Problem{Reason: contract.EventDataOperationNotValid, Message: "spec.runAfter names the operation itself: name another or leave it out"}
	}
	return r.work.Refuse(s)
}

// findDataset waits for the Dataset to exist.
func (r *Reconciler) findDataset(ctx context.Context, s *Round) (flow.Outcome, error) {
	dataset := &datav1alpha1.Dataset{}
	err := r.Get(ctx, s.Target, dataset)
	switch {
	case apierrors.IsNotFound(err):
		s.wait(contract.EventTargetDatasetNotFound, fmt.Sprintf("Dataset %s does not exist: this operation starts when it is created and bound", s.Target))
		return flow.Wait(), nil
	case err != nil:
		return flow.Wait(), fmt.Errorf("read dataset %s: %w", s.Target, err)
	}
	s.Dataset = dataset
	return flow.Continue(), nil
}

// adopt makes the Dataset own its operation, so that both go together.
func (r *Reconciler) adopt(ctx context.Context, s *Round) (flow.Outcome, error) {
	if owns(s.Dataset, s.Object) {
		return flow.Continue(), nil
	}
	before, after := s.Object.DeepCopyObject().(client.Object), s.Object.DeepCopyObject().(client.Object)
	if err := controllerutil.SetOwnerReference(s.Dataset, after, r.Scheme()); err != nil {
		return flow.Wait(), fmt.Errorf("own %s %s: %w", s.Kind, s.Object.GetName(), err)
	}
	// Only metadata is taken over: the status of this round is written at its end.
	if err := r.Patch(ctx, after, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return flow.Wait(), fmt.Errorf("own %s %s: %w", s.Kind, s.Object.GetName(), err)
	}
	s.Object.SetOwnerReferences(after.GetOwnerReferences())
	s.Object.SetResourceVersion(after.GetResourceVersion())
	return flow.Continue(), nil
}

// awaitDataset waits for a Dataset that is bound, unless the run has started.
func (r *Reconciler) awaitDataset(_ context.Context, s *Round) (flow.Outcome, error) {
	if s.started() {
		return flow.Continue(), nil
	}
	switch s.Dataset.Status.Phase {
	case datav1alpha1.BoundDatasetPhase, datav1alpha1.UpdatingDatasetPhase, datav1alpha1.DataMigratingDatasetPhase:
		return flow.Continue(), nil
	default:
		s.wait(contract.EventTargetDatasetNotReady, fmt.Sprintf("Dataset %s is not bound (phase %q): this operation starts when it is", s.Target, s.Dataset.Status.Phase))
		return flow.Wait(), nil
	}
}

// awaitTurn waits for those operations that this one must not run beside.
func (r *Reconciler) awaitTurn(ctx context.Context, s *Round) (flow.Outcome, error) {
	if s.started() {
		return flow.Continue(), nil
	}
	others, err := r.turns.take(ctx, r.Client, s)
	if err != nil {
		return flow.Wait(), err
	}
	if len(others) > 0 {
		s.wait(contract.EventDataOperationCollision, fmt.Sprintf("%s runs on Dataset %s: this operation starts when it has ended", strings.Join(others, ", "), s.Target.Name))
		return flow.Wait(), nil
	}
	return flow.Continue(), nil
}

// startJob makes the Job. One that was deleted under a run is made again.
func (r *Reconciler) startJob(ctx context.Context, s *Round) (flow.Outcome, error) {
	job := &batchv1.Job{}
	err := r.Get(ctx, types.NamespacedName{Namespace: s.Object.GetNamespace(), Name: s.Run.Job}, job)
	switch {
	case err == nil && !metav1.IsControlledBy(job, s.Object):
		s.endRun(datav1alpha1.PhaseFailed, fmt.Sprintf("Job %s exists and belongs to somebody else", job.Name))
		s.fail(contract.EventDataOperationNotValid, fmt.Sprintf("Job %s exists and belongs to somebody else: delete it or use another name", job.Name))
		return flow.Wait(), nil
	case err == nil:
		s.Job = job
		return flow.Continue(), nil
	case !apierrors.IsNotFound(err):
		return flow.Wait(), fmt.Errorf("read job of %s %s: %w", s.Kind, s.Object.GetName(), err)
	}
	job, problem, err := r.build(ctx, s)
	if err != nil {
		return flow.Wait(), err
	}
	if problem == nil {
		err := r.Create(ctx, job)
		switch {
		case apierrors.IsAlreadyExists(err):
			return flow.WaitFor(time.Second), nil // the cache is behind
		case apierrors.IsInvalid(err):
			problem = &Problem{Reason: contract.EventDataOperationNotValid, Message: fmt.Sprintf("its Job is not valid: %v", err), Hopeless: true}
		case err != nil:
			return flow.Wait(), fmt.Errorf("create job %s: %w", job.Name, err)
		}
	}
	switch {
	case problem == nil:
		s.Job = job
		s.start()
		return flow.Continue(), nil
	case problem.Hopeless:
		s.endRun(datav1alpha1.PhaseFailed, problem.Message)
		s.fail(problem.Reason, problem.Message)
		return flow.Wait(), nil
	default:
		r.turns.giveBack(s.Object.GetUID())
		s.wait(problem.Reason, problem.Message)
		return flow.WaitFor(lookAgain), nil
	}
}

// build makes the run's Job, in the place that is asked for.
func (r *Reconciler) build(ctx context.Context, s *Round) (*batchv1.Job, *Problem, error) {
	place, missing, err := r.besidePreceding(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	if missing != "" {
		return nil, &Problem{Reason: contract.EventDataOperationWaiting, Message: missing}, nil
	}
	job, err := r.work.Job(ctx, s)
	var problem *Problem
	if errors.As(err, &problem) {
		return nil, problem, nil
	}
	if err != nil {
		return nil, nil, err
	}
	return dressed(job, s, place), nil, nil
}

// observe takes in how far the run is and how its Job ended.
func (r *Reconciler) observe(ctx context.Context, s *Round) (flow.Outcome, error) {
	news, err := r.work.Observe(ctx, s)
	if err != nil {
		return flow.Wait(), err
	}
	end := jobEnd(s.Job)
	pods := tried{}
	if end != nil || s.Job.Status.Failed > 0 {
		if pods, err = r.pods(ctx, s.Job); err != nil {
			return flow.Wait(), err
		}
	}
	switch {
	case end == nil:
		s.execute(pods.words)
	case end.Type == batchv1.JobFailed:
		why := firstOf(pods.words, news.Failure, end.Message)
		s.endRun(datav1alpha1.PhaseFailed, why)
		s.fail(s.reason.Failed, why)
	case news.Behind && r.clock.Since(end.LastTransitionTime.Time) < lastNews:
		s.execute("")
		return flow.WaitFor(soon), nil
	default:
		if s.Status.NodeAffinity, err = r.placeOf(ctx, pods.node); err != nil {
			return flow.Wait(), err
		}
		took := s.duration()
		message := r.work.Done(s, took)
		s.endRun(datav1alpha1.PhaseComplete, message)
		s.complete(took, message)
	}
	return flow.Continue(), nil
}

// ended is when the operation ended: zero if that is not known.
func (s *Round) ended() time.Time {
	for _, conditionType := range []string{datav1alpha1.OperationComplete, datav1alpha1.OperationFailed} {
		if c := meta.FindStatusCondition(s.Status.Conditions, conditionType); c != nil && c.Status == metav1.ConditionTrue {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}
