package operation

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/internal/flow"
)

// history is how many runs of an operation that repeats are told of in its
// status, with the Jobs that they have left.
const history = 5

// Run is one run of an operation.
type Run struct {
	// ID sets it apart from other runs of the operation; "" of one that runs once.
	ID string
	// Job is the name of its Job.
	Job string
}

// Token names a run to an engine: another run of the same operation has another,
// and one that is continued after a restart has the same.
func (s *Round) Token() string {
	if s.Run.ID == "" {
		return string(s.Object.GetUID())
	}
	return string(s.Object.GetUID()) + "-" + s.Run.ID
}

// chooseRun finds the run that is under way, or begins the next one when its time
// has come. What it begins is written down before anything is made for it.
func (r *Reconciler) chooseRun(ctx context.Context, s *Round) (flow.Outcome, error) {
	job := r.work.JobName(s.Object.GetName())
	if !s.repeats() {
		s.Run = Run{Job: job}
		return flow.Continue(), nil
	}
	if run := underWay(s.Status); run != nil {
		s.Run = Run{ID: strings.TrimPrefix(run.Job, job+"-"), Job: run.Job}
		return flow.Continue(), nil
	}
	if err := r.forgetRuns(ctx, s); err != nil {
		return flow.Wait(), err
	}
	if s.Policy == datav1alpha1.Cron {
		return r.beginScheduled(s, job)
	}
	return r.beginChanged(s, job)
}

// underWay is the run that has begun and not ended.
func underWay(st *datav1alpha1.OperationStatus) *datav1alpha1.OperationRun {
	if len(st.Runs) == 0 || st.Runs[0].CompletionTime != nil {
		return nil
	}
	return &st.Runs[0]
}

func (r *Reconciler) beginScheduled(s *Round, job string) (flow.Outcome, error) {
	plan, err := parseSchedule(s.Schedule) // refuse has parsed it before
	if err != nil {
		return flow.Wait(), err
	}
	last := s.Object.GetCreationTimestamp().Time
	if t := s.Status.LastScheduleTime; t != nil {
		last = t.Time
	}
	due := plan.due(last, s.Now)
	if due.IsZero() {
		next := plan.nextAfter(last, s.Now)
		s.Status.NextScheduleTime = &metav1.Time{Time: next}
		s.idle(fmt.Sprintf("the next run is at %s", next.Format(time.RFC3339)))
		return flow.WaitFor(next.Sub(s.Now)), nil
	}
	s.Status.LastScheduleTime = &metav1.Time{Time: due}
	s.Status.NextScheduleTime = &metav1.Time{Time: plan.nextAfter(due, s.Now)}
	s.begin(job, datav1alpha1.OperationRun{ScheduledTime: &metav1.Time{Time: due}}, due)
	return flow.Wait(), nil
}

func (r *Reconciler) beginChanged(s *Round, job string) (flow.Outcome, error) {
	summary, _, heard := r.observer.Latest(s.Origin)
	if !heard || !summary.MetadataComplete || summary.Snapshot == "" {
		s.idle(fmt.Sprintf("a run starts when Dataset %s knows all of its sources", s.Origin.Name))
		return flow.Wait(), nil
	}
	if len(s.Status.Runs) > 0 && s.Status.Runs[0].Snapshot == summary.Snapshot {
		s.idle(fmt.Sprintf("the next run starts when the sources of Dataset %s have changed", s.Origin.Name))
		return flow.Wait(), nil
	}
	s.begin(job, datav1alpha1.OperationRun{Snapshot: summary.Snapshot}, s.Now)
	return flow.Wait(), nil
}

// begin writes a run down. Its change of the status starts the next round, which
// makes the Job. The number that names it is the time, or greater than any before.
func (s *Round) begin(job string, run datav1alpha1.OperationRun, at time.Time) {
	number := at.Unix()
	for _, earlier := range s.Status.Runs {
		if n, err := strconv.ParseInt(strings.TrimPrefix(earlier.Job, job+"-"), 10, 64); err == nil && n >= number {
			number = n + 1
		}
	}
	run.Job, run.Phase = job+"-"+strconv.FormatInt(number, 10), datav1alpha1.PhasePending
	s.Status.Runs = slices.Insert(s.Status.Runs, 0, run)
	s.Status.Runs = s.Status.Runs[:min(len(s.Status.Runs), history)]
	s.Status.Progress = nil
}

// forgetRuns deletes the Jobs of runs that the status does not tell of any more.
func (r *Reconciler) forgetRuns(ctx context.Context, s *Round) error {
	jobs, err := r.jobsOf(ctx, s.Object)
	if err != nil {
		return err
	}
	for i := range jobs {
		if slices.ContainsFunc(s.Status.Runs, func(run datav1alpha1.OperationRun) bool { return run.Job == jobs[i].Name }) {
			continue
		}
		if err := r.deleteJob(ctx, &jobs[i]); err != nil {
			return err
		}
	}
	return nil
}

// jobsOf are the Jobs of an operation that are not being deleted.
func (r *Reconciler) jobsOf(ctx context.Context, obj client.Object) ([]batchv1.Job, error) {
	list := &batchv1.JobList{}
	if err := r.List(ctx, list, client.InNamespace(obj.GetNamespace()), client.MatchingLabels{labelOperation: string(obj.GetUID())}); err != nil {
		return nil, fmt.Errorf("list jobs of %s: %w", obj.GetName(), err)
	}
	return slices.DeleteFunc(list.Items, func(job batchv1.Job) bool {
		return !metav1.IsControlledBy(&job, obj) || !job.DeletionTimestamp.IsZero()
	}), nil
}

func (r *Reconciler) deleteJob(ctx context.Context, job *batchv1.Job) error {
	uid := job.UID
	err := r.Delete(ctx, job, client.Preconditions{UID: &uid}, client.PropagationPolicy(metav1.DeletePropagationBackground))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete job %s: %w", job.Name, err)
	}
	return nil
}
