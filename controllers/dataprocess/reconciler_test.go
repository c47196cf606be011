package dataprocess_test

import (
	"context"
	"os"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
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
	"github.com/millrace/millrace/controllers/dataprocess"
	"github.com/millrace/millrace/controllers/operation"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }

// nobody is an Observer that hears no master.
type nobody struct{}

func (nobody) Latest(types.NamespacedName) (contract.Summary, time.Time, bool) {
	return contract.Summary{}, time.Time{}, false
}

func (nobody) Source(func(types.NamespacedName) []reconcile.Request) source.Source {
	return source.Func(func(context.Context, workqueue.TypedRateLimitingInterface[reconcile.Request]) error { return nil })
}

func TestADataProcessRunsWithItsDatasetToItsEnd(t *testing.T) {
	c := apitest.Client(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "process-"}}
	must(c.Create(t.Context(), ns))
	mgr, err := ctrl.NewManager(apitest.Config(t), ctrl.Options{
		Scheme: apitest.Scheme(), Metrics: server.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: ptr.To(true)},
	})
	must(err)
	must(dataprocess.SetupWithManager(mgr, nobody{}, operation.Options{}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := mgr.Start(ctx); err != nil {
			t.Errorf("run manager: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	ds := &datav1alpha1.Dataset{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "training"},
		Spec: datav1alpha1.DatasetSpec{Mounts: []datav1alpha1.Mount{{MountPoint: "s3://bucket", Name: "b"}}}}
	must(c.Create(t.Context(), ds))
	ds.Status.Phase = datav1alpha1.BoundDatasetPhase
	must(c.Status().Update(t.Context(), ds))

	dp := &datav1alpha1.DataProcess{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "prepare"}, Spec: datav1alpha1.DataProcessSpec{
		Dataset: datav1alpha1.TargetDatasetWithMountPath{TargetDataset: datav1alpha1.TargetDataset{Name: "training"}, MountPath: "/data"},
		Processor: datav1alpha1.Processor{Script: &datav1alpha1.ScriptProcessor{
			VersionSpec: datav1alpha1.VersionSpec{Image: "alpine", ImageTag: "3.20"}, Command: []string{"sh"}, Source: "ls /data\n",
		}},
	}}
	must(c.Create(t.Context(), dp))
	until := func(what string, seen func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !seen(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: status %+v", what, dp.Status)
			}
		}
	}
	job := &batchv1.Job{}
	until("no job", func() bool {
		return c.Get(t.Context(), types.NamespacedName{Namespace: ns.Name, Name: "prepare-processor-job"}, job) == nil
	})
	if pod := job.Spec.Template; pod.Annotations["cache.millrace.io/script"] != "ls /data\n" || pod.Spec.Volumes[1].PersistentVolumeClaim.ClaimName != "training" {
		t.Errorf("pod %+v", pod)
	}
	now := metav1.Now()
	job.Status.StartTime, job.Status.CompletionTime, job.Status.Succeeded = &now, &now, 1
	for _, condition := range []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobComplete} {
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{Type: condition, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	must(c.Status().Update(t.Context(), job))
	until("not complete", func() bool {
		must(c.Get(t.Context(), client.ObjectKeyFromObject(dp), dp))
		return dp.Status.Phase == datav1alpha1.PhaseComplete && dp.Status.Duration == "1s"
	})
}
