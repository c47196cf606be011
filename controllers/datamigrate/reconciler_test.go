package datamigrate_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/millrace/millrace/apis/apitest"
	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/datamigrate"
	"github.com/millrace/millrace/controllers/engine"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }

func TestADataMigrateTellsHowFarItIsAndWhatItDid(t *testing.T) {
	c := apitest.Client(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "migrate-"}}
	must(c.Create(t.Context(), ns))
	dm := &datav1alpha1.DataMigrate{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "copy"}, Spec: datav1alpha1.DataMigrateSpec{
		From: datav1alpha1.DataToMigrate{DataSet: &datav1alpha1.DatasetToMigrate{Name: "training", Namespace: ns.Name}},
		To: datav1alpha1.DataToMigrate{ExternalStorage: &datav1alpha1.ExternalStorage{URI: "s3://elsewhere", EncryptOptions: []datav1alpha1.EncryptOption{
			{Name: "secret-key", ValueFrom: datav1alpha1.EncryptOptionSource{SecretKeyRef: datav1alpha1.SecretKeySelector{Name: "keys", Key: "sk"}}}}}},
	}}
	// The pod that copies.
	var id string
	made := make(chan struct{}) // closed when id is known
	pod := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-made
		_ = json.NewEncoder(w).Encode(contract.Summary{Revision: 1, Loads: []contract.LoadSummary{{
			ID: id, Phase: contract.LoadRunning, BytesTotal: 1000, BytesDone: 250, FilesTotal: 4, FilesDone: 1, BytesPerSecond: 75,
		}}})
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(pod.Close)
	mgr, err := ctrl.NewManager(apitest.Config(t), ctrl.Options{
		Scheme: apitest.Scheme(), Metrics: server.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: ptr.To(true)},
		Client: client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}},
	})
	must(err)
	transport := &http.Transport{}
	observer := engine.NewObserver(&http.Client{Transport: transport}, logr.Discard())
	must(mgr.Add(observer))
	must(datamigrate.SetupWithManager(mgr, observer, datamigrate.Options{NativeImage: "cache:test", Address: func(*corev1.Pod) string { return pod.URL }}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := mgr.Start(ctx); err != nil {
			t.Errorf("run manager: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done; transport.CloseIdleConnections() })

	ds := &datav1alpha1.Dataset{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "training"},
		Spec: datav1alpha1.DatasetSpec{Mounts: []datav1alpha1.Mount{{MountPoint: "s3://bucket", Name: "b"}}}}
	must(c.Create(t.Context(), ds))
	ds.Status.Phase = datav1alpha1.BoundDatasetPhase
	must(c.Status().Update(t.Context(), ds))
	must(c.Create(t.Context(), dm))
	id = "migrate-" + string(dm.UID)
	close(made)
	until := func(what string, seen func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			must(c.Get(t.Context(), client.ObjectKeyFromObject(dm), dm))
			if seen() {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: status %+v", what, dm.Status)
			}
		}
	}
	said := func(words string) func() bool {
		return func() bool {
			for _, condition := range dm.Status.Conditions {
				if strings.Contains(condition.Message, words) {
					return true
				}
			}
			return false
		}
	}
	until("no word of the secret", said("Secret keys does not exist"))
	must(c.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "keys"}, StringData: map[string]string{"sk": "hush"}}))
	// Nobody tells of Secrets: a change of the object has it looked at again.
	must(c.Patch(t.Context(), dm, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"look":"again"}}}`))))
	job := &batchv1.Job{}
	until("no job", func() bool {
		return c.Get(t.Context(), types.NamespacedName{Namespace: ns.Name, Name: "copy-migrate-migrate"}, job) == nil
	})
	if text, err := json.Marshal(job); err != nil || strings.Contains(string(text), "hush") {
		t.Errorf("the secret is in the Job: %v", err)
	}
	worker := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "worker", Labels: map[string]string{batchv1.JobNameLabel: job.Name}}, Spec: *job.Spec.Template.Spec.DeepCopy()}
	must(c.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "default"}}))
	must(c.Create(t.Context(), worker))
	worker.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}}
	must(c.Status().Update(t.Context(), worker))
	until("no pod", func() bool {
		must(c.Get(t.Context(), client.ObjectKeyFromObject(job), job))
		if ptr.Deref(job.Status.Ready, 0) == 0 {
			job.Status.Active, job.Status.Ready = 1, ptr.To[int32](1)
			must(c.Status().Update(t.Context(), job))
		}
		return dm.Status.Progress != nil
	})
	if p := dm.Status.Progress; p.Percent != "25.0%" || p.ETA != "10s" || p.FilesTotal != 4 {
		t.Errorf("progress %+v", p)
	}
	worker.Status.Phase = corev1.PodSucceeded
	worker.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "migrate", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		Message: `{"files":5,"bytes":1024,"keptFiles":2,"links":1}`, StartedAt: metav1.Now(), FinishedAt: metav1.Now(),
	}}}}
	must(c.Status().Update(t.Context(), worker))
	now := metav1.Now()
	job.Status.StartTime, job.Status.CompletionTime, job.Status.Succeeded, job.Status.Active, job.Status.Ready = &now, &now, 1, 0, nil
	for _, condition := range []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobComplete} {
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{Type: condition, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	must(c.Status().Update(t.Context(), job))
	until("not complete", said("copied 1.00KiB in 5 files in 1s; 2 of them were there already; 1 symbolic links were left out"))
	if dm.Status.Phase != datav1alpha1.PhaseComplete || dm.Status.Progress.Percent != "100.0%" {
		t.Errorf("status %+v", dm.Status)
	}
}
