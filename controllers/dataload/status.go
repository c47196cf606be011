package dataload

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/internal/bytesize"
	"github.com/millrace/millrace/controllers/internal/conditions"
)

// unfinishedDuration is what Fluid prints for an operation that has not ended.
const unfinishedDuration = "Unfinished"

const reasonRunning = "Running"

// Running names the DataLoads of a Dataset that have a loader, sorted, as
// dataset.status.operationRef has them.
func Running(loads []datav1alpha1.DataLoad, dataset string) string {
	var names []string
	for i := range loads {
		dl := &loads[i]
		if dl.Spec.Dataset.Name == dataset && dl.Status.Phase == datav1alpha1.PhaseExecuting {
			names = append(names, dl.Name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ",")
}

// started tells whether an earlier round made the loader.
func (s *scope) started() bool {
	return meta.IsStatusConditionTrue(s.before.Status.Conditions, datav1alpha1.OperationReady)
}

func (s *scope) send(kind, reason, message string) {
	s.events = append(s.events, event{kind, reason, message})
}

// wait says what the load has to wait for.
func (s *scope) wait(reason, message string) {
	status := &s.load.Status
	status.Phase, status.Duration = datav1alpha1.PhasePending, unfinishedDuration
	if conditions.False(&status.Conditions, s.load.Generation, datav1alpha1.OperationReady, reason, message) {
		s.send(corev1.EventTypeWarning, reason, message)
	}
}

// start says that the loader was made.
func (s *scope) start(message string) {
	if !s.started() {
		s.send(corev1.EventTypeNormal, contract.EventDataLoadJobStarted, message)
	}
	s.execute("")
}

// execute says that the loader is at work, and why an earlier try of it failed.
func (s *scope) execute(failure string) {
	status := &s.load.Status
	status.Phase, status.Duration = datav1alpha1.PhaseExecuting, unfinishedDuration
	message := fmt.Sprintf("Job %s is loading", contract.LoaderJobName(s.load.Name))
	if failure != "" {
		message += "; an earlier try failed: " + failure
	}
	conditions.True(&status.Conditions, s.load.Generation, datav1alpha1.OperationReady, reasonRunning, message)
}

// complete says that everything asked for is cached: that is what exit code 0
// of a loader means, so the last numbers seen are made whole.
func (s *scope) complete() {
	status := &s.load.Status
	took := s.duration()
	status.Phase, status.Duration = datav1alpha1.PhaseComplete, took.String()
	if p := status.Progress; p != nil {
		p.BytesDone, p.FilesDone, p.Percent, p.ETA = p.BytesTotal, p.FilesTotal, bytesize.Percent(p.BytesTotal, p.BytesTotal, true), ""
		p.BytesPerSecond = int64(float64(p.BytesTotal) / took.Seconds()) // the average, now that there is no "lately"
	}
	message := fmt.Sprintf("loaded in %s", took)
	if p := status.Progress; p != nil {
		message = fmt.Sprintf("loaded %s in %d files in %s", bytesize.Format(p.BytesTotal), p.FilesTotal, took)
	}
	if conditions.True(&status.Conditions, s.load.Generation, datav1alpha1.OperationComplete, contract.EventDataLoadJobComplete, message) {
		s.send(corev1.EventTypeNormal, contract.EventDataLoadJobComplete, message)
	}
	conditions.False(&status.Conditions, s.load.Generation, datav1alpha1.OperationReady, contract.EventDataLoadJobComplete, message)
}

// fail says why the load ended badly.
func (s *scope) fail(reason, message string) {
	status := &s.load.Status
	status.Phase, status.Duration = datav1alpha1.PhaseFailed, s.duration().String()
	if p := status.Progress; p != nil {
		p.ETA = ""
	}
	if conditions.True(&status.Conditions, s.load.Generation, datav1alpha1.OperationFailed, reason, message) {
		s.send(corev1.EventTypeWarning, reason, message)
	}
	conditions.False(&status.Conditions, s.load.Generation, datav1alpha1.OperationReady, reason, message)
}

// notSupported names a field that Millrace does not serve.
func (s *scope) notSupported(message string) {
	conditions.True(&s.load.Status.Conditions, s.load.Generation, datav1alpha1.OperationNotSupported, contract.EventDataOperationNotSupport, message)
	s.fail(contract.EventDataOperationNotSupport, message)
}

// duration of the load in whole seconds, from the start of its Job.
func (s *scope) duration() time.Duration {
	if s.job == nil {
		return 0
	}
	from, to := s.job.CreationTimestamp.Time, time.Now()
	if s.job.Status.StartTime != nil {
		from = s.job.Status.StartTime.Time
	}
	if end := jobEnd(s.job); end != nil {
		to = end.LastTransitionTime.Time
	}
	return max(to.Sub(from).Round(time.Second), time.Second)
}

// progressOf is a master's account of a load, for people.
func progressOf(l contract.LoadSummary) *datav1alpha1.OperationProgress {
	p := &datav1alpha1.OperationProgress{
		Percent:   bytesize.Percent(l.BytesDone, l.BytesTotal, l.Phase == contract.LoadComplete),
		BytesDone: l.BytesDone, BytesTotal: l.BytesTotal, FilesDone: l.FilesDone, FilesTotal: l.FilesTotal,
		BytesPerSecond: l.BytesPerSecond,
	}
	if left := l.BytesTotal - l.BytesDone; l.Phase == contract.LoadRunning && left > 0 && l.BytesPerSecond > 0 {
		eta := time.Duration(float64(left) / float64(l.BytesPerSecond) * float64(time.Second)).Round(time.Second)
		p.ETA = max(eta, time.Second).String()
	}
	return p
}

// writeStatus writes the status if this round changed it, and then sends the
// events of what changed.
func (r *Reconciler) writeStatus(ctx context.Context, s *scope) error {
	s.load.Status.ObservedGeneration = s.load.Generation
	if !equality.Semantic.DeepEqual(s.before.Status, s.load.Status) {
		was := s.load.DeepCopy()
		was.Status = s.before.Status
		if err := r.Status().Patch(ctx, s.load, client.MergeFrom(was)); err != nil {
			return client.IgnoreNotFound(fmt.Errorf("write status of dataload %s: %w", s.before.Name, err))
		}
	}
	for _, e := range s.events {
		r.events.Event(s.load, e.kind, e.reason, e.message)
	}
	return nil
}
