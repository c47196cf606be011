package operation_test

import (
	"fmt"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

func cron(schedule string) func(*datav1alpha1.DataLoadSpec) {
	return func(spec *datav1alpha1.DataLoadSpec) { spec.Policy, spec.Schedule = datav1alpha1.Cron, schedule }
}

// ran waits for so many runs, the latest of which is as it should be.
func (w *world) ran(dl *datav1alpha1.DataLoad, runs int, phase datav1alpha1.Phase) datav1alpha1.OperationRun {
	w.Helper()
	var latest datav1alpha1.OperationRun
	w.until(func() string {
		st := w.status(dl)
		if len(st.Runs) != runs || st.Runs[0].Phase != phase || st.Phase != phase {
			return fmt.Sprintf("%s is %s with runs %+v, want %d and %s", dl.Name, st.Phase, st.Runs, runs, phase)
		}
		latest = st.Runs[0]
		return ""
	})
	return latest
}

func TestACronRunsAtItsTimesAndNeverTwiceAtOnce(t *testing.T) {
	w := newWorld(t)
	w.bound("data")
	dl := w.load("nightly", cron("@every 10m"))
	w.says(dl, datav1alpha1.PhasePending, "Idle", "the next run is at")
	if st := w.status(dl); st.NextScheduleTime == nil || st.LastScheduleTime != nil {
		t.Errorf("times before the first run: %+v", st)
	}
	created := dl.CreationTimestamp.Time
	w.passes(11*time.Minute, dl)
	first := w.running(dl)
	if want := fmt.Sprintf("nightly-chore-%d", created.Add(10*time.Minute).Unix()); first.Name != want || first.Labels[contract.LabelJobPolicy] != "cron" {
		t.Errorf("job %s with labels %v, want %s", first.Name, first.Labels, want)
	}
	w.ran(dl, 1, datav1alpha1.PhaseExecuting)

	// Two times pass while it is at work: no second Job, and one run makes up for both.
	w.passes(25*time.Minute, dl)
	w.says(dl, datav1alpha1.PhaseExecuting)
	w.ends(first, batchv1.JobComplete)
	second := w.running(dl)
	if second.Name == first.Name {
		t.Fatalf("the first job runs on")
	}
	w.ran(dl, 2, datav1alpha1.PhaseExecuting)
	st := w.status(dl)
	if want := created.Add(30 * time.Minute); !st.LastScheduleTime.Time.Equal(want) || st.LastSuccessfulTime == nil {
		t.Errorf("last schedule %s, want %s; last success %s", st.LastScheduleTime, want, st.LastSuccessfulTime)
	}
	w.ends(second, batchv1.JobFailed)
	w.says(dl, datav1alpha1.PhaseFailed, "ChoreFailed", "the Job says so", "Idle")
	if run := w.ran(dl, 2, datav1alpha1.PhaseFailed); run.Message != "the Job says so" || run.CompletionTime == nil {
		t.Errorf("the failed run: %+v", run)
	}
	// A failed run does not end the operation.
	w.passes(10*time.Minute, dl)
	w.ends(w.running(dl), batchv1.JobComplete)
	w.ran(dl, 3, datav1alpha1.PhaseComplete)
	w.says(dl, datav1alpha1.PhaseComplete, "the chore is done")
}

func TestTheHistoryOfRunsIsBounded(t *testing.T) {
	w := newWorld(t)
	w.bound("data")
	dl := w.load("often", cron("*/5 * * * *"))
	for range 7 {
		w.passes(5*time.Minute, dl)
		w.ends(w.running(dl), batchv1.JobComplete)
	}
	w.ran(dl, 5, datav1alpha1.PhaseComplete)
	w.until(func() string {
		if jobs := w.jobs(dl); len(jobs) != 5 {
			return fmt.Sprintf("%d jobs", len(jobs))
		}
		return ""
	})
}

func TestAScheduleThatWasMissedWhileNobodyRanIsMadeUpForOnce(t *testing.T) {
	w := newWorld(t)
	w.bound("data")
	dl := w.load("hourly", cron("@hourly"))
	w.says(dl, datav1alpha1.PhasePending, "Idle")
	w.stop()
	w.clock.Step(5 * time.Hour)
	w.start()
	w.ends(w.running(dl), batchv1.JobComplete)
	w.ran(dl, 1, datav1alpha1.PhaseComplete)
	w.says(dl, datav1alpha1.PhaseComplete, "Idle")
	if jobs := w.jobs(dl); len(jobs) != 1 {
		t.Errorf("%d jobs", len(jobs))
	}
}

func TestOnEventRunsWhenTheSourcesHaveChanged(t *testing.T) {
	w := newWorld(t)
	w.bound("data")
	dl := w.load("follow", func(spec *datav1alpha1.DataLoadSpec) { spec.Policy = datav1alpha1.OnEvent })
	w.says(dl, datav1alpha1.PhasePending, "Idle", "knows all of its sources")
	w.master.snapshot(w.key("data"), "one")
	first := w.running(dl)
	// Changes while it runs are one run after it.
	w.master.snapshot(w.key("data"), "two")
	w.master.snapshot(w.key("data"), "three")
	w.ends(first, batchv1.JobComplete)
	second := w.running(dl)
	if run := w.ran(dl, 2, datav1alpha1.PhaseExecuting); run.Snapshot != "three" || run.Job != second.Name {
		t.Errorf("second run %+v", run)
	}
	w.ends(second, batchv1.JobComplete)
	w.says(dl, datav1alpha1.PhaseComplete, "Idle", "when the sources of Dataset data have changed")
	// The same state once more is no event, and a restart is none.
	w.master.snapshot(w.key("data"), "three")
	w.stop()
	w.start()
	w.master.snapshot(w.key("data"), "one")
	w.ends(w.running(dl), batchv1.JobComplete)
	if run := w.ran(dl, 3, datav1alpha1.PhaseComplete); run.Snapshot != "one" {
		t.Errorf("third run %+v", run)
	}
}

func TestAnOperationRunsAfterAnotherWhereThatRan(t *testing.T) {
	w := newWorld(t)
	w.bound("data")
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-" + w.namespace, Labels: map[string]string{
		corev1.LabelHostname: "host-" + w.namespace, corev1.LabelTopologyZone: "zone-a", "rack": "r7",
	}}}
	w.must(w.Create(t.Context(), node))
	t.Cleanup(func() { _ = w.Delete(t.Context(), node) })
	ref := func(strategy datav1alpha1.AffinityPolicy) *datav1alpha1.OperationRef {
		return &datav1alpha1.OperationRef{ObjectRef: datav1alpha1.ObjectRef{Kind: "DataLoad", Name: "warm"}, AffinityStrategy: strategy}
	}
	required := w.process("required", ref(datav1alpha1.AffinityPolicy{Policy: "Require"}))
	rack := w.process("rack", ref(datav1alpha1.AffinityPolicy{Policy: "Require", Requires: []datav1alpha1.RequireTerm{{Name: "rack"}, {Name: corev1.LabelTopologyZone}}}))
	preferred := w.process("preferred", ref(datav1alpha1.AffinityPolicy{Policy: "Prefer"}))
	anywhere := w.process("anywhere", ref(datav1alpha1.AffinityPolicy{}))
	nowhere := w.process("nowhere", ref(datav1alpha1.AffinityPolicy{Policy: "Require", Requires: []datav1alpha1.RequireTerm{{Name: "no-such-label"}}}))
	w.says(required, datav1alpha1.PhasePending, contract.EventDataOperationNotFound, "DataLoad "+w.namespace+"/warm of spec.runAfter does not exist")

	dl := w.load("warm", nil)
	w.says(required, datav1alpha1.PhasePending, contract.EventDataOperationWaiting, "is not complete")
	if waiting := w.status(required).WaitingFor.OperationComplete; waiting == nil || !*waiting {
		t.Errorf("waitingFor %v", waiting)
	}
	job := w.running(dl)
	pod := &corev1.Pod{ObjectMeta: w.meta("loader"), Spec: *job.Spec.Template.Spec.DeepCopy()}
	pod.Labels, pod.Spec.NodeName, pod.Spec.AutomountServiceAccountToken = map[string]string{batchv1.JobNameLabel: job.Name}, node.Name, ptr.To(false)
	w.must(w.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: w.meta("default")}))
	w.must(w.Create(t.Context(), pod))
	pod.Status.Phase = corev1.PodSucceeded
	w.must(w.Status().Update(t.Context(), pod))
	w.until(func() string { // the Job's end is told of after its pod's, as in a cluster
		if err := w.Get(t.Context(), w.key("loader"), pod); err != nil || pod.Status.Phase != corev1.PodSucceeded {
			return fmt.Sprintf("pod %s: %v", pod.Status.Phase, err)
		}
		return ""
	})
	w.ends(job, batchv1.JobComplete)

	terms := func(dp *datav1alpha1.DataProcess) *corev1.NodeAffinity {
		affinity := w.running(dp).Spec.Template.Spec.Affinity
		if affinity == nil || affinity.NodeAffinity == nil {
			return &corev1.NodeAffinity{}
		}
		return affinity.NodeAffinity
	}
	if got := terms(required).RequiredDuringSchedulingIgnoredDuringExecution; got == nil || fmt.Sprint(got.NodeSelectorTerms) != fmt.Sprintf("[{[{%s In [host-%s]}] []}]", corev1.LabelHostname, w.namespace) {
		t.Errorf("required: %+v", got)
	}
	if got := terms(rack).RequiredDuringSchedulingIgnoredDuringExecution; got == nil || fmt.Sprint(got.NodeSelectorTerms) != "[{[{rack In [r7]} {topology.kubernetes.io/zone In [zone-a]}] []}]" {
		t.Errorf("rack: %+v", got)
	}
	if got := terms(preferred).PreferredDuringSchedulingIgnoredDuringExecution; len(got) != 1 || got[0].Weight != 100 {
		t.Errorf("preferred: %+v", got)
	}
	if got := terms(anywhere); got.RequiredDuringSchedulingIgnoredDuringExecution != nil || got.PreferredDuringSchedulingIgnoredDuringExecution != nil {
		t.Errorf("anywhere: %+v", got)
	}
	w.says(nowhere, datav1alpha1.PhasePending, contract.EventDataOperationWaiting, "no-such-label")
	// Once it was complete it may go.
	w.must(w.Delete(t.Context(), dl))
	w.gone(dl)
	w.ends(w.running(anywhere), batchv1.JobComplete)
	w.says(anywhere, datav1alpha1.PhaseComplete)
}

func TestAnOperationWaitsOnBehindOneThatFailed(t *testing.T) {
	w := newWorld(t)
	w.bound("data")
	dl := w.load("warm", nil)
	dp := w.process("after", &datav1alpha1.OperationRef{ObjectRef: datav1alpha1.ObjectRef{Kind: "DataLoad", Name: "warm"}})
	w.ends(w.running(dl), batchv1.JobFailed)
	w.says(dp, datav1alpha1.PhasePending, contract.EventDataOperationWaiting, "failed (the Job says so)", "delete it and create it again")
	w.must(w.Delete(t.Context(), dl))
	w.gone(dl)
	w.must(w.DeleteAllOf(t.Context(), &batchv1.Job{}, inNamespace(w), background()))
	w.ends(w.running(w.load("warm", nil)), batchv1.JobComplete)
	w.ends(w.running(dp), batchv1.JobComplete)
	w.says(dp, datav1alpha1.PhaseComplete)
}

func TestOperationsThatExcludeEachOtherTakeTurns(t *testing.T) {
	w := newWorld(t)
	w.bound("data")
	first := w.migrate("first", false)
	job := w.running(first)
	second := w.migrate("second", false)
	w.says(second, datav1alpha1.PhasePending, contract.EventDataOperationCollision, "DataMigrate first runs on Dataset data")
	// Loads and processes run beside it, and beside each other.
	a, b, p := w.load("a", nil), w.load("b", nil), w.process("p", nil)
	jobs := []*batchv1.Job{w.running(a), w.running(b), w.running(p)}
	// Who had the turn is known after a restart.
	w.stop()
	w.start()
	alone := w.migrate("alone", true)
	w.says(alone, datav1alpha1.PhasePending, contract.EventDataOperationCollision, "DataLoad a, DataLoad b, DataMigrate first, DataProcess p")
	w.ends(job, batchv1.JobComplete)
	job = w.running(second)
	w.ends(job, batchv1.JobFailed)
	for _, j := range jobs {
		w.says(alone, datav1alpha1.PhasePending, contract.EventDataOperationCollision)
		w.ends(j, batchv1.JobComplete)
	}
	job = w.running(alone)
	late := w.load("late", nil)
	w.says(late, datav1alpha1.PhasePending, contract.EventDataOperationCollision, "DataMigrate alone")
	// Deletion gives the turn back when the Job is gone, which is for Kubernetes'
	// garbage collector to do.
	w.must(w.Delete(t.Context(), alone))
	w.gone(alone)
	w.must(w.Delete(t.Context(), job, background()))
	w.running(late)
}

func TestAnOperationIsDeletedWhenItsTimeIsOver(t *testing.T) {
	w := newWorld(t)
	w.bound("data")
	dl := w.load("brief", func(spec *datav1alpha1.DataLoadSpec) { spec.TTLSecondsAfterFinished = ptr.To[int32](600) })
	w.ends(w.running(dl), batchv1.JobComplete)
	w.says(dl, datav1alpha1.PhaseComplete)
	w.passes(9*time.Minute, dl)
	w.says(dl, datav1alpha1.PhaseComplete)
	w.passes(2*time.Minute, dl)
	w.gone(dl)
}
