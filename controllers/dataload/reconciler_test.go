package dataload_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/millrace/millrace/apis/apitest"
	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/dataload"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }

const patience = 20 * time.Second

// master is an Observer whose master says what the test says.
type master struct {
	mu      sync.Mutex
	summary map[types.NamespacedName]contract.Summary
	wake    func(types.NamespacedName)
}

func (m *master) Latest(key types.NamespacedName) (contract.Summary, time.Time, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.summary[key]
	return s, time.Now(), ok
}

func (m *master) Source(requests func(types.NamespacedName) []reconcile.Request) source.Source {
	return source.Func(func(_ context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.wake = func(key types.NamespacedName) {
			for _, r := range requests(key) {
				q.Add(r)
			}
		}
		return nil
	})
}

func (m *master) say(key types.NamespacedName, loads ...contract.LoadSummary) {
	m.mu.Lock()
	m.summary[key] = contract.Summary{Loads: loads}
	wake := m.wake
	m.mu.Unlock()
	wake(key)
}

// world is a namespace with the controller at work in it.
type world struct {
	*testing.T
	client.Client
	namespace string
	master    *master
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, Client: apitest.Client(t), master: &master{summary: map[types.NamespacedName]contract.Summary{}}}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "load-"}}
	w.must(w.Create(t.Context(), ns))
	w.namespace = ns.Name
	mgr, err := ctrl.NewManager(apitest.Config(t), ctrl.Options{
		Scheme: apitest.Scheme(), Metrics: server.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: ptrTo(true)},
	})
	w.must(err)
	w.must(dataload.SetupWithManager(mgr, w.master, dataload.Options{NativeImage: "cache:test", PullPolicy: corev1.PullNever}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := mgr.Start(ctx); err != nil {
			t.Errorf("run manager: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

func ptrTo[T any](v T) *T { return &v }

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) key(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: w.namespace, Name: name}
}

func (w *world) dataset(name string, phase datav1alpha1.DatasetPhase) {
	w.Helper()
	w.datasetOf(name, "s3://bucket", phase)
}

func (w *world) datasetOf(name, source string, phase datav1alpha1.DatasetPhase) {
	w.Helper()
	ds := &datav1alpha1.Dataset{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name},
		Spec: datav1alpha1.DatasetSpec{Mounts: []datav1alpha1.Mount{{MountPoint: source, Name: "b"}}}}
	if err := w.Create(w.Context(), ds); apierrors.IsAlreadyExists(err) {
		w.must(w.Get(w.Context(), w.key(name), ds))
	} else {
		w.must(err)
	}
	ds.Status.Phase = phase
	w.must(w.Status().Update(w.Context(), ds))
}

func (w *world) load(name string, spec datav1alpha1.DataLoadSpec) *datav1alpha1.DataLoad {
	w.Helper()
	dl := &datav1alpha1.DataLoad{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}, Spec: spec}
	w.must(w.Create(w.Context(), dl))
	return dl
}

func (w *world) until(missing func() string) {
	w.Helper()
	deadline := time.Now().Add(patience)
	for {
		why := missing()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("after %s: %s", patience, why)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// says waits until the DataLoad has a phase and a condition with the words.
func (w *world) says(dl *datav1alpha1.DataLoad, phase datav1alpha1.Phase, condition, words string) {
	w.Helper()
	w.until(func() string {
		if err := w.Get(w.Context(), client.ObjectKeyFromObject(dl), dl); err != nil {
			return err.Error()
		}
		c := meta.FindStatusCondition(dl.Status.Conditions, condition)
		if dl.Status.Phase != phase || c == nil || !strings.Contains(c.Reason+" "+c.Message, words) || c.ObservedGeneration != dl.Generation {
			return fmt.Sprintf("want phase %s and condition %s with %q, got %+v", phase, condition, words, dl.Status)
		}
		return ""
	})
}

// event waits for an event about the DataLoad.
func (w *world) event(dl *datav1alpha1.DataLoad, reason string) {
	w.Helper()
	w.until(func() string {
		list := &corev1.EventList{}
		if err := w.List(w.Context(), list, client.InNamespace(w.namespace)); err != nil {
			return err.Error()
		}
		for _, e := range list.Items {
			if e.InvolvedObject.Name == dl.Name && e.Reason == reason {
				return ""
			}
		}
		return "no event " + reason
	})
}

func (w *world) job(dl *datav1alpha1.DataLoad) *batchv1.Job {
	w.Helper()
	job := &batchv1.Job{}
	w.until(func() string {
		if err := w.Get(w.Context(), w.key(contract.LoaderJobName(dl.Name)), job); err != nil {
			return err.Error()
		}
		return ""
	})
	return job
}

// ends sets the status that the Job controller would set.
func (w *world) ends(job *batchv1.Job, how batchv1.JobConditionType) {
	w.Helper()
	now := metav1.Now()
	w.must(w.Get(w.Context(), client.ObjectKeyFromObject(job), job))
	job.Status.StartTime = &now
	interim := batchv1.JobSuccessCriteriaMet
	if how == batchv1.JobFailed {
		interim = batchv1.JobFailureTarget
		job.Status.Failed = 1
	} else {
		job.Status.Succeeded, job.Status.CompletionTime = 1, &now
	}
	for _, c := range []batchv1.JobConditionType{interim, how} {
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{
			Type: c, Status: corev1.ConditionTrue, LastTransitionTime: now, Reason: "PodFailurePolicy", Message: "the Job says so",
		})
	}
	w.must(w.Status().Update(w.Context(), job))
}

func dataset(name string) datav1alpha1.DataLoadSpec {
	return datav1alpha1.DataLoadSpec{Dataset: datav1alpha1.TargetDataset{Name: name}}
}

func TestDataLoadWaitsForItsDatasetAndRunsToItsEnd(t *testing.T) {
	w := newWorld(t)
	dl := w.load("warm", dataset("training"))
	w.says(dl, datav1alpha1.PhasePending, datav1alpha1.OperationReady, contract.EventTargetDatasetNotFound)
	w.event(dl, contract.EventTargetDatasetNotFound)
	w.dataset("training", datav1alpha1.NotBoundDatasetPhase)
	w.says(dl, datav1alpha1.PhasePending, datav1alpha1.OperationReady, "is not bound")
	w.dataset("training", datav1alpha1.BoundDatasetPhase)
	w.says(dl, datav1alpha1.PhaseExecuting, datav1alpha1.OperationReady, "is at work")
	w.event(dl, contract.EventDataLoadJobStarted)

	ds := &datav1alpha1.Dataset{}
	w.must(w.Get(t.Context(), w.key("training"), ds))
	if len(dl.OwnerReferences) != 1 || dl.OwnerReferences[0].UID != ds.UID {
		t.Errorf("the Dataset does not own its load: %+v", dl.OwnerReferences)
	}
	job := w.job(dl)
	if c := job.Spec.Template.Spec.Containers[0]; c.Image != "cache:test" || c.Name != "dataloader" || !metav1.IsControlledBy(job, dl) {
		t.Errorf("job %+v", job)
	}

	w.master.say(w.key("training"), contract.LoadSummary{ID: string(dl.UID), Phase: contract.LoadRunning, BytesTotal: 1000, BytesDone: 573, FilesTotal: 10, FilesDone: 5, BytesPerSecond: 100})
	w.until(func() string {
		w.must(w.Get(t.Context(), client.ObjectKeyFromObject(dl), dl))
		if p := dl.Status.Progress; p == nil || p.Percent != "57.3%" || p.ETA != "4s" {
			return fmt.Sprintf("progress %+v", p)
		}
		return ""
	})
	w.ends(job, batchv1.JobComplete)
	w.master.say(w.key("training"), contract.LoadSummary{ID: string(dl.UID), Phase: contract.LoadComplete, BytesTotal: 1000, BytesDone: 1000, FilesTotal: 10, FilesDone: 10})
	w.says(dl, datav1alpha1.PhaseComplete, datav1alpha1.OperationComplete, "loaded 1000.00B in 10 files")
	w.event(dl, contract.EventDataLoadJobComplete)
	if p := dl.Status.Progress; p.Percent != "100.0%" || p.BytesDone != 1000 || p.FilesDone != 10 || p.ETA != "" || p.BytesPerSecond != 1000 {
		t.Errorf("progress at the end: %+v", p)
	}
	if dl.Status.Duration != "1s" {
		t.Errorf("duration %q", dl.Status.Duration)
	}
}

func TestFailedLoadSaysWhatItsLoaderSaid(t *testing.T) {
	w := newWorld(t)
	w.dataset("training", datav1alpha1.BoundDatasetPhase)
	dl := w.load("warm", datav1alpha1.DataLoadSpec{Dataset: datav1alpha1.TargetDataset{Name: "training"}, Target: []datav1alpha1.TargetPath{{Path: "/nowhere"}}})
	job := w.job(dl)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "loader", Labels: map[string]string{batchv1.JobNameLabel: job.Name}},
		Spec:       job.Spec.Template.Spec,
	}
	w.must(w.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "default"}}))
	w.must(w.Create(t.Context(), pod))
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: contract.LoaderContainer, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: contract.LoadExitHopeless, Message: "/nowhere does not exist\n", FinishedAt: metav1.Now(), StartedAt: metav1.Now(),
	}}}}
	w.must(w.Status().Update(t.Context(), pod))
	w.must(w.Get(t.Context(), client.ObjectKeyFromObject(job), job))
	job.Status.Failed = 1
	w.must(w.Status().Update(t.Context(), job))
	w.says(dl, datav1alpha1.PhaseExecuting, datav1alpha1.OperationReady, "an earlier try failed: /nowhere does not exist")
	w.ends(job, batchv1.JobFailed)
	w.says(dl, datav1alpha1.PhaseFailed, datav1alpha1.OperationFailed, "DataLoadJobFailed /nowhere does not exist")
	w.event(dl, contract.EventDataLoadJobFailed)
}

func TestLoadsThatCanNeverRunFailAtOnce(t *testing.T) {
	w := newWorld(t)
	w.dataset("training", datav1alpha1.BoundDatasetPhase)
	w.datasetOf("view", "dataset://far/training/train", datav1alpha1.BoundDatasetPhase)
	for name, tc := range map[string]struct {
		spec      datav1alpha1.DataLoadSpec
		condition string
		words     string
	}{
		"other-namespace": {datav1alpha1.DataLoadSpec{Dataset: datav1alpha1.TargetDataset{Name: "training", Namespace: "elsewhere"}},
			datav1alpha1.OperationFailed, contract.EventTargetDatasetNamespaceDiff},
		"schedule": {datav1alpha1.DataLoadSpec{Dataset: datav1alpha1.TargetDataset{Name: "training"}, Policy: datav1alpha1.Cron, Schedule: "0 0 31 2 *"},
			datav1alpha1.OperationFailed, "never comes"},
		"itself": {datav1alpha1.DataLoadSpec{Dataset: datav1alpha1.TargetDataset{Name: "training"}, RunAfter: &datav1alpha1.OperationRef{ObjectRef: datav1alpha1.ObjectRef{Kind: "DataLoad", Name: "itself"}}},
			datav1alpha1.OperationFailed, "names the operation itself"},
		"colon": {datav1alpha1.DataLoadSpec{Dataset: datav1alpha1.TargetDataset{Name: "training"}, Target: []datav1alpha1.TargetPath{{Path: "/a:b"}}},
			datav1alpha1.OperationFailed, "has a colon"},
		"referring":             {dataset("view"), datav1alpha1.OperationFailed, "refers to Dataset training of namespace far"},
		"nobody":                {datav1alpha1.DataLoadSpec{}, datav1alpha1.OperationFailed, "spec.dataset.name is empty"},
		strings.Repeat("l", 60): {dataset("training"), datav1alpha1.OperationFailed, "name of at most 52 characters"},
	} {
		if name == "nobody" {
			continue // the API server already refuses it
		}
		dl := w.load(name, tc.spec)
		w.says(dl, datav1alpha1.PhaseFailed, tc.condition, tc.words)
		job := &batchv1.Job{}
		if err := w.Get(t.Context(), w.key(contract.LoaderJobName(name)), job); !apierrors.IsNotFound(err) {
			t.Errorf("%s: a job was made: %v", name, err)
		}
	}
}

func TestForeignJobIsNotTaken(t *testing.T) {
	w := newWorld(t)
	w.dataset("training", datav1alpha1.BoundDatasetPhase)
	foreign := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "warm-loader-job"}, Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{
		Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}}}
	w.must(w.Create(t.Context(), foreign))
	dl := w.load("warm", dataset("training"))
	w.says(dl, datav1alpha1.PhaseFailed, datav1alpha1.OperationFailed, "belongs to somebody else")
	w.must(w.Delete(t.Context(), dl))
	w.until(func() string {
		if err := w.Get(t.Context(), client.ObjectKeyFromObject(dl), dl); apierrors.IsNotFound(err) {
			return ""
		}
		return "the dataload is still there"
	})
	if err := w.Get(t.Context(), client.ObjectKeyFromObject(foreign), foreign); err != nil || !foreign.DeletionTimestamp.IsZero() {
		t.Errorf("the foreign job is gone: %v", err)
	}
}

func TestDeletionEndsAlsoWithFluidsFinalizer(t *testing.T) {
	w := newWorld(t)
	w.dataset("training", datav1alpha1.BoundDatasetPhase)
	dl := &datav1alpha1.DataLoad{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "old", Finalizers: []string{contract.FinalizerDataLoad}}, Spec: dataset("training")}
	w.must(w.Create(t.Context(), dl))
	job := w.job(dl)
	w.must(w.Delete(t.Context(), dl))
	for _, obj := range []client.Object{dl, job} {
		w.until(func() string {
			err := w.Get(t.Context(), client.ObjectKeyFromObject(obj), obj)
			if apierrors.IsNotFound(err) || err == nil && obj != client.Object(dl) && !obj.GetDeletionTimestamp().IsZero() {
				return ""
			}
			return fmt.Sprintf("%T %s is still there", obj, obj.GetName())
		})
	}
}

func TestExpiredLoadIsDeleted(t *testing.T) {
	w := newWorld(t)
	w.dataset("training", datav1alpha1.BoundDatasetPhase)
	spec := dataset("training")
	spec.TTLSecondsAfterFinished = ptrTo[int32](0)
	dl := w.load("brief", spec)
	w.ends(w.job(dl), batchv1.JobComplete)
	w.until(func() string {
		if err := w.Get(t.Context(), client.ObjectKeyFromObject(dl), dl); apierrors.IsNotFound(err) {
			return ""
		}
		return fmt.Sprintf("still there: %+v", dl.Status)
	})
}

func TestOptionsReachTheLoaderAndUnknownOnesAreNamed(t *testing.T) {
	w := newWorld(t)
	w.dataset("training", datav1alpha1.BoundDatasetPhase)
	spec := dataset("training")
	spec.Options = map[string]string{"bandwidth": "10Mi", "keep": "free", "threads": "4", "atomicCache": "true"}
	dl := w.load("warm", spec)
	job := w.job(dl)
	said := ""
	for _, e := range job.Spec.Template.Spec.Containers[0].Env {
		if e.Name == contract.EnvLoadOptions {
			said = e.Value
		}
	}
	if want := `{"atomicCache":"true","bandwidth":"10Mi","keep":"free","threads":"4"}`; said != want {
		t.Errorf("the loader is told %s, want %s", said, want)
	}
	w.says(dl, datav1alpha1.PhaseExecuting, datav1alpha1.OperationNotSupported, "has no option atomicCache, threads in spec.options")
	w.master.say(w.key("training"), contract.LoadSummary{ID: string(dl.UID), Phase: contract.LoadComplete, Message: "freed 3 of 5 files, 1.00KiB in the cache",
		BytesTotal: 1024, BytesDone: 1024, FilesTotal: 5, FilesDone: 5})
	w.ends(job, batchv1.JobComplete)
	w.says(dl, datav1alpha1.PhaseComplete, datav1alpha1.OperationComplete, "DataLoadJobComplete freed 3 of 5 files")
}

func TestAFailedLoadNamesItsFiles(t *testing.T) {
	w := newWorld(t)
	w.dataset("training", datav1alpha1.BoundDatasetPhase)
	dl := w.load("warm", dataset("training"))
	job := w.job(dl)
	load := contract.LoadSummary{ID: string(dl.UID), Phase: contract.LoadRunning, BytesTotal: 100, BytesDone: 50, FilesTotal: 4, FilesDone: 2, FilesFailed: 2,
		Failures: []contract.LoadFailure{{Path: "/a", Error: "access denied"}, {Path: "/b", Error: "the cache has no room for it"}}}
	w.master.say(w.key("training"), load)
	w.until(func() string {
		w.must(w.Get(t.Context(), client.ObjectKeyFromObject(dl), dl))
		if p := dl.Status.Progress; p == nil || p.FilesFailed != 2 || len(p.Failures) != 2 || p.Failures[0].Path != "/a" {
			return fmt.Sprintf("progress %+v", p)
		}
		return ""
	})
	load.Phase, load.Message = contract.LoadFailed, "cached 50.00B of 100.00B (50.0%), 2 of 4 files failed: /a: access denied"
	w.master.say(w.key("training"), load)
	w.ends(job, batchv1.JobFailed)
	w.says(dl, datav1alpha1.PhaseFailed, datav1alpha1.OperationFailed, "2 of 4 files failed")
	if p := dl.Status.Progress; p.FilesFailed != 2 || len(p.Failures) != 2 {
		t.Errorf("progress at the end: %+v", p)
	}
}
