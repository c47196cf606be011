package operation_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/millrace/millrace/apis/apitest"
	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/operation"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }

const patience = 60 * time.Second

// master is an Observer whose masters say what the test says.
type master struct {
	mu      sync.Mutex
	summary map[types.NamespacedName]contract.Summary
	wake    []func(types.NamespacedName)
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
		m.wake = append(m.wake, func(key types.NamespacedName) {
			for _, r := range requests(key) {
				q.Add(r)
			}
		})
		return nil
	})
}

// snapshot has a master name the state of its sources.
func (m *master) snapshot(key types.NamespacedName, name string) {
	m.mu.Lock()
	m.summary[key] = contract.Summary{Snapshot: name, MetadataComplete: true}
	wake := slices.Clone(m.wake)
	m.mu.Unlock()
	for _, w := range wake {
		w(key)
	}
}

// chore is Work that does nothing: what becomes of its Jobs the test decides.
type chore struct{ object func() client.Object }

func (c chore) Object() client.Object                    { return c.object() }
func (chore) JobName(name string) string                 { return name + "-chore" }
func (chore) Finalizer() string                          { return "fluid-chore-controller-finalizer" }
func (chore) Refuse(*operation.Round) *operation.Problem { return nil }
func (chore) Reasons() operation.Reasons {
	return operation.Reasons{Started: "ChoreStarted", Complete: "ChoreComplete", Failed: "ChoreFailed"}
}

func (chore) Job(context.Context, *operation.Round) (*batchv1.Job, error) {
	return &batchv1.Job{Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "chore", Image: "i"}},
	}}}}, nil
}

func (chore) Observe(context.Context, *operation.Round) (operation.News, error) {
	return operation.News{}, nil
}
func (chore) Done(*operation.Round, time.Duration) string { return "the chore is done" }

// world is a namespace with the controllers of all kinds at work in it.
type world struct {
	*testing.T
	client.Client
	namespace string
	master    *master
	clock     *clocktesting.FakeClock
	stop      func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := quietWorld(t)
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// quietWorld is one in which nothing is at work yet.
func quietWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, Client: apitest.Client(t), master: &master{summary: map[types.NamespacedName]contract.Summary{}},
		clock: clocktesting.NewFakeClock(time.Now().Truncate(time.Second))}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "op-"}}
	w.must(w.Create(t.Context(), ns))
	w.namespace = ns.Name
	return w
}

// start runs a manager; stop ends it.
func (w *world) start() { w.Helper(); w.startWith(nil) }

// startWith runs one that writes with a client of the test's.
func (w *world) startWith(newClient client.NewClientFunc) {
	w.Helper()
	mgr, err := ctrl.NewManager(apitest.Config(w.T), ctrl.Options{
		Scheme: apitest.Scheme(), Metrics: server.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: ptr.To(true)},
		NewClient: newClient,
	})
	w.must(err)
	options := operation.Options{Turns: operation.NewTurns(), Clock: w.clock}
	for _, kind := range operation.Kinds() {
		object := func() client.Object { return kind.DeepCopyObject().(client.Object) }
		w.must(operation.SetupWithManager(mgr, w.master, chore{object}, options))
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := mgr.Start(ctx); err != nil {
			w.Errorf("run manager: %v", err)
		}
	}()
	w.stop = sync.OnceFunc(func() { cancel(); <-done })
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) key(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: w.namespace, Name: name}
}

func (w *world) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: w.namespace, Name: name}
}

func (w *world) until(missing func() string) {
	w.Helper()
	var why string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if why = missing(); why == "" {
			return
		}
	}
	w.Fatal(why)
}

// bound makes a Dataset that is bound.
func (w *world) bound(name string) {
	w.Helper()
	ds := &datav1alpha1.Dataset{ObjectMeta: w.meta(name), Spec: datav1alpha1.DatasetSpec{Mounts: []datav1alpha1.Mount{{MountPoint: "s3://bucket", Name: "b"}}}}
	w.must(w.Create(w.Context(), ds))
	ds.Status.Phase = datav1alpha1.BoundDatasetPhase
	w.must(w.Status().Update(w.Context(), ds))
}

func (w *world) load(name string, edit func(*datav1alpha1.DataLoadSpec)) *datav1alpha1.DataLoad {
	w.Helper()
	dl := &datav1alpha1.DataLoad{ObjectMeta: w.meta(name), Spec: datav1alpha1.DataLoadSpec{Dataset: datav1alpha1.TargetDataset{Name: "data"}}}
	if edit != nil {
		edit(&dl.Spec)
	}
	w.must(w.Create(w.Context(), dl))
	return dl
}

func (w *world) migrate(name string, block bool) *datav1alpha1.DataMigrate {
	w.Helper()
	dm := &datav1alpha1.DataMigrate{ObjectMeta: w.meta(name), Spec: datav1alpha1.DataMigrateSpec{
		From:  datav1alpha1.DataToMigrate{ExternalStorage: &datav1alpha1.ExternalStorage{URI: "s3://elsewhere/"}},
		To:    datav1alpha1.DataToMigrate{DataSet: &datav1alpha1.DatasetToMigrate{Name: "data", Namespace: w.namespace}},
		Block: block,
	}}
	w.must(w.Create(w.Context(), dm))
	return dm
}

func (w *world) process(name string, after *datav1alpha1.OperationRef) *datav1alpha1.DataProcess {
	w.Helper()
	dp := &datav1alpha1.DataProcess{ObjectMeta: w.meta(name), Spec: datav1alpha1.DataProcessSpec{
		Dataset:   datav1alpha1.TargetDatasetWithMountPath{TargetDataset: datav1alpha1.TargetDataset{Name: "data"}, MountPath: "/data"},
		Processor: datav1alpha1.Processor{Script: &datav1alpha1.ScriptProcessor{Command: []string{"true"}}},
		RunAfter:  after,
	}}
	w.must(w.Create(w.Context(), dp))
	return dp
}

// status reads an operation.
func (w *world) status(obj client.Object) *datav1alpha1.OperationStatus {
	w.Helper()
	w.must(w.Get(w.Context(), client.ObjectKeyFromObject(obj), obj))
	f, _ := operation.FactsOf(obj)
	return f.Status
}

// says waits until an operation has a phase, and a condition Ready with a word.
func (w *world) says(obj client.Object, phase datav1alpha1.Phase, words ...string) {
	w.Helper()
	w.until(func() string {
		st := w.status(obj)
		text := fmt.Sprintf("%+v", st.Conditions)
		for _, word := range words {
			if !strings.Contains(text, word) {
				return fmt.Sprintf("%s does not say %q: %s %s", obj.GetName(), word, st.Phase, text)
			}
		}
		if st.Phase != phase {
			return fmt.Sprintf("%s is %q, want %q: %s", obj.GetName(), st.Phase, phase, text)
		}
		return ""
	})
}

// jobs of an operation, by name.
func (w *world) jobs(of client.Object) []batchv1.Job {
	w.Helper()
	list := &batchv1.JobList{}
	w.must(w.List(w.Context(), list, client.InNamespace(w.namespace)))
	out := slices.DeleteFunc(list.Items, func(job batchv1.Job) bool { return !metav1.IsControlledBy(&job, of) || job.DeletionTimestamp != nil })
	slices.SortFunc(out, func(a, b batchv1.Job) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// running waits for the Job of an operation that has not ended.
func (w *world) running(of client.Object) *batchv1.Job {
	w.Helper()
	var found *batchv1.Job
	w.until(func() string {
		for _, job := range w.jobs(of) {
			if len(job.Status.Conditions) == 0 {
				found = &job
				return ""
			}
		}
		return fmt.Sprintf("no job of %s is at work: %+v", of.GetName(), w.status(of))
	})
	return found
}

// ends sets the status that the Job controller would set.
func (w *world) ends(job *batchv1.Job, how batchv1.JobConditionType) {
	w.Helper()
	now := metav1.Now()
	w.must(w.Get(w.Context(), client.ObjectKeyFromObject(job), job))
	job.Status.StartTime = &now
	interim := batchv1.JobSuccessCriteriaMet
	if how == batchv1.JobFailed {
		interim, job.Status.Failed = batchv1.JobFailureTarget, 1
	} else {
		job.Status.Succeeded, job.Status.CompletionTime = 1, &now
	}
	for _, c := range []batchv1.JobConditionType{interim, how} {
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{
			Type: c, Status: corev1.ConditionTrue, LastTransitionTime: now, Reason: "Because", Message: "the Job says so",
		})
	}
	w.must(w.Status().Update(w.Context(), job))
}

// passes lets time pass and has an operation notice.
func (w *world) passes(d time.Duration, obj client.Object) {
	w.Helper()
	w.clock.Step(d)
	err := w.Patch(w.Context(), obj, client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"annotations":{"test/now":"%d"}}}`, w.clock.Now().Unix())))
	w.must(client.IgnoreNotFound(err)) // it may have noticed by itself, and be gone
}

func (w *world) gone(obj client.Object) {
	w.Helper()
	w.until(func() string {
		if err := w.Get(w.Context(), client.ObjectKeyFromObject(obj), obj); !apierrors.IsNotFound(err) {
			return fmt.Sprintf("%s is still there: %v", obj.GetName(), err)
		}
		return ""
	})
}

func inNamespace(w *world) client.InNamespace { return client.InNamespace(w.namespace) }

func background() client.PropagationPolicy {
	return client.PropagationPolicy(metav1.DeletePropagationBackground)
}
