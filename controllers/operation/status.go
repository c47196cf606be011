package operation

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/internal/conditions"
)

// unfinishedDuration is what Fluid prints for an operation that has not ended.
const unfinishedDuration = "Unfinished"

// Reasons of condition Ready.
const (
	reasonRunning = "Running"
	reasonIdle    = "Idle"
)

// round reads an object.
func (r *Reconciler) round(obj client.Object) *Round {
	s := &Round{Object: obj, before: obj.DeepCopyObject().(client.Object), Now: r.clock.Now(), reason: r.work.Reasons()}
	s.Facts, _ = FactsOf(obj)
	was, _ := FactsOf(s.before)
	s.was = was.Status
	conditions.DropForeign(&s.Status.Conditions)
	return s
}

// started tells whether an earlier round made the run's Job.
func (s *Round) started() bool {
	if s.repeats() {
		run := underWay(s.was)
		return run != nil && run.Phase == datav1alpha1.PhaseExecuting
	}
	return meta.IsStatusConditionTrue(s.was.Conditions, datav1alpha1.OperationReady)
}

// Ended tells whether the run's Job has ended.
func (s *Round) Ended() bool { return s.Job != nil && jobEnd(s.Job) != nil }

// Warn names what is taken and does nothing.
func (s *Round) Warn(message string) { s.notSupported(message) }

func (s *Round) notSupported(message string) {
	conditions.True(&s.Status.Conditions, s.generation(), datav1alpha1.OperationNotSupported, contract.EventDataOperationNotSupport, message)
}

func (s *Round) generation() int64 { return s.Object.GetGeneration() }

func (s *Round) send(kind, reason, message string) {
	s.events = append(s.events, notice{kind, reason, message})
}

// wait says what the run has to wait for.
func (s *Round) wait(reason, message string) {
	s.Status.Phase, s.Status.Duration = datav1alpha1.PhasePending, unfinishedDuration
	if conditions.False(&s.Status.Conditions, s.generation(), datav1alpha1.OperationReady, reason, message) {
		s.send(corev1.EventTypeWarning, reason, message)
	}
}

// idle says what an operation that repeats waits for between its runs. Its phase
// stays that of the latest run.
func (s *Round) idle(message string) {
	if len(s.Status.Runs) == 0 {
		s.Status.Phase, s.Status.Duration = datav1alpha1.PhasePending, unfinishedDuration
	}
	conditions.False(&s.Status.Conditions, s.generation(), datav1alpha1.OperationReady, reasonIdle, message)
}

// start says that the Job was made.
func (s *Round) start() {
	if !s.started() {
		s.send(corev1.EventTypeNormal, s.reason.Started, fmt.Sprintf("Job %s works on Dataset %s", s.Run.Job, s.Target.Name))
	}
	s.execute("")
}

// execute says that the Job is at work, and why an earlier try of it failed.
func (s *Round) execute(failure string) {
	s.Status.Phase, s.Status.Duration = datav1alpha1.PhaseExecuting, unfinishedDuration
	message := fmt.Sprintf("Job %s is at work", s.Run.Job)
	if failure != "" {
		message += "; an earlier try failed: " + failure
	}
	if run := underWay(s.Status); run != nil && s.repeats() {
		run.Phase = datav1alpha1.PhaseExecuting
		if run.StartTime == nil {
			run.StartTime = &metav1.Time{Time: s.Job.CreationTimestamp.Time}
		}
	}
	// An earlier run's end is not this one's.
	for _, conditionType := range []string{datav1alpha1.OperationComplete, datav1alpha1.OperationFailed} {
		if meta.FindStatusCondition(s.Status.Conditions, conditionType) != nil {
			conditions.False(&s.Status.Conditions, s.generation(), conditionType, reasonRunning, message)
		}
	}
	conditions.True(&s.Status.Conditions, s.generation(), datav1alpha1.OperationReady, reasonRunning, message)
}

// endRun writes down how a run of an operation that repeats ended.
func (s *Round) endRun(phase datav1alpha1.Phase, message string) {
	run := underWay(s.Status)
	if run == nil || !s.repeats() {
		return
	}
	at := s.Now
	if s.Job != nil {
		if end := jobEnd(s.Job); end != nil {
			at = end.LastTransitionTime.Time
		}
	}
	run.Phase, run.Message, run.CompletionTime = phase, shortened(message), &metav1.Time{Time: at}
	if phase == datav1alpha1.PhaseComplete {
		s.Status.LastSuccessfulTime = run.CompletionTime.DeepCopy()
	}
}

// shortened keeps the history of runs short; a condition has all that is said of
// the latest.
func shortened(message string) string {
	const most = 512
	if len(message) <= most {
		return message
	}
	return message[:most] + "…"
}

// complete says that the run has done what it was to do.
func (s *Round) complete(took time.Duration, message string) {
	s.Status.Phase, s.Status.Duration = datav1alpha1.PhaseComplete, took.String()
	if conditions.True(&s.Status.Conditions, s.generation(), datav1alpha1.OperationComplete, s.reason.Complete, message) {
		s.send(corev1.EventTypeNormal, s.reason.Complete, message)
	}
	conditions.False(&s.Status.Conditions, s.generation(), datav1alpha1.OperationReady, s.reason.Complete, message)
}

// fail says why the run ended badly.
func (s *Round) fail(reason, message string) {
	s.Status.Phase, s.Status.Duration = datav1alpha1.PhaseFailed, s.duration().String()
	if p := s.Status.Progress; p != nil {
		p.ETA = ""
	}
	if conditions.True(&s.Status.Conditions, s.generation(), datav1alpha1.OperationFailed, reason, message) {
		s.send(corev1.EventTypeWarning, reason, message)
	}
	conditions.False(&s.Status.Conditions, s.generation(), datav1alpha1.OperationReady, reason, message)
}

// unrefuse takes back that a spec which is another by now can never run.
func (s *Round) unrefuse() {
	c := meta.FindStatusCondition(s.Status.Conditions, datav1alpha1.OperationFailed)
	if !s.repeats() || c == nil || c.ObservedGeneration == s.generation() || len(s.Status.Runs) > 0 {
		return
	}
	meta.RemoveStatusCondition(&s.Status.Conditions, datav1alpha1.OperationFailed)
	meta.RemoveStatusCondition(&s.Status.Conditions, datav1alpha1.OperationNotSupported)
}

// duration of the run in whole seconds, from the start of its Job.
func (s *Round) duration() time.Duration {
	if s.Job == nil {
		return 0
	}
	from, to := s.Job.CreationTimestamp.Time, s.Now
	if s.Job.Status.StartTime != nil {
		from = s.Job.Status.StartTime.Time
	}
	if end := jobEnd(s.Job); end != nil {
		to = end.LastTransitionTime.Time
	}
	return max(to.Sub(from).Round(time.Second), time.Second)
}

// writeStatus writes the status if this round changed it, and then sends the
// events of what changed. A round that worked on an old copy meets a conflict:
// it may have begun a run that another round began before.
func (r *Reconciler) writeStatus(ctx context.Context, s *Round) error {
	s.Status.ObservedGeneration = s.generation()
	if !equality.Semantic.DeepEqual(s.was, s.Status) {
		base := s.before.DeepCopyObject().(client.Object)
		base.SetFinalizers(s.Object.GetFinalizers())
		base.SetOwnerReferences(s.Object.GetOwnerReferences())
		base.SetResourceVersion(s.Object.GetResourceVersion())
		after := s.Object.DeepCopyObject().(client.Object)
		if err := r.Status().Patch(ctx, after, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})); err != nil {
			return client.IgnoreNotFound(fmt.Errorf("write status of %s %s: %w", s.Kind, s.Object.GetName(), err))
		}
	}
	for _, e := range s.events {
		r.events.Event(s.Object, e.kind, e.reason, e.message)
	}
	return nil
}
