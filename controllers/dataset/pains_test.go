package dataset

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
	"github.com/millrace/millrace/controllers/internal/apply"
)

// Pain 3: binding is slow, for it is polled. On the way to Bound every round
// ends without asking for another: what comes next is an event of what is
// waited for. controllers.TestPain3… shows that those events come.
func TestPain3NothingIsPolledOnTheWayToBound(t *testing.T) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, datav1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	key := types.NamespacedName{Namespace: "default", Name: "data"}
	meta := metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}
	ds := &datav1alpha1.Dataset{ObjectMeta: meta, Spec: datav1alpha1.DatasetSpec{Mounts: []datav1alpha1.Mount{{MountPoint: "s3://bucket", Name: "b", Path: "/"}}}}
	ds.UID, ds.Generation = "11111111-2222-3333-4444-555555555555", 1
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(ds).
		WithIndex(&corev1.Pod{}, engine.PodIndex, engine.UsedVolumes).
		WithIndex(&datav1alpha1.Dataset{}, engine.ReferenceIndex, engine.ReferredTo).
		WithStatusSubresource(&datav1alpha1.Dataset{}, &datav1alpha1.CacheRuntime{}, &appsv1.StatefulSet{}, &corev1.PersistentVolumeClaim{}).Build()
	m, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	observer := engine.NewObserver(&http.Client{}, logr.Discard())
	t.Cleanup(func() { observer.Forget(key) })
	r := &Reconciler{Client: c, observer: observer, applier: apply.New(c, "test"), events: record.NewFakeRecorder(100), metrics: m, mountRoot: "/runtime-mnt"}
	round := func(stage, reason string) {
		t.Helper()
		result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: key})
		if err != nil {
			t.Fatalf("%s: %v", stage, err)
		}
		if result != (ctrl.Result{}) {
			t.Errorf("%s: the round asks for another: %+v", stage, result)
		}
		now := &datav1alpha1.Dataset{}
		if err := c.Get(t.Context(), key, now); err != nil {
			t.Fatal(err)
		}
		for _, condition := range now.Status.Conditions {
			if condition.Type == datav1alpha1.DatasetReady && condition.Reason == reason {
				return
			}
		}
		t.Errorf("%s: want reason %s in %+v", stage, reason, now.Status.Conditions)
	}
	create := func(obj client.Object) {
		t.Helper()
		if err := c.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
	status := func(obj client.Object) {
		t.Helper()
		if err := c.Status().Update(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
	round("no runtime", reasonRuntimeNotFound)
	rt := &datav1alpha1.CacheRuntime{ObjectMeta: meta}
	create(rt)
	round("a runtime that nobody has looked at", engine.ReasonMasterNotReady)
	ready := func(value metav1.ConditionStatus, reason string) {
		rt.Status.Conditions = []metav1.Condition{{Type: datav1alpha1.RuntimeReady, Status: value, Reason: reason, Message: "as it is", LastTransitionTime: metav1.Now()}}
		status(rt)
	}
	ready(metav1.ConditionFalse, engine.ReasonWorkersNotReady)
	round("workers that start", engine.ReasonWorkersNotReady)
	ready(metav1.ConditionTrue, engine.ReasonReady)
	round("a master of an older make", engine.ReasonUpdating)
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: contract.MasterName(key.Name),
		Annotations: map[string]string{engine.AnnotationDatasetGeneration: strconv.Itoa(1)}}}
	set.Spec.Replicas = ptr.To[int32](1)
	create(set)
	set.Status = appsv1.StatefulSetStatus{Replicas: 1, ReadyReplicas: 1, UpdatedReplicas: 1}
	status(set)
	round("a master that is not heard", reasonUnheard)

	said := make(chan contract.Summary, 1)
	said <- contract.Summary{Revision: 1}
	master := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		for {
			select {
			case s := <-said:
				_ = json.NewEncoder(w).Encode(s)
				_ = http.NewResponseController(w).Flush()
			case <-req.Context().Done():
				return
			}
		}
	}))
	t.Cleanup(master.Close)
	t.Cleanup(func() { observer.Forget(key) }) // before the server waits for its streams
	observer.Watch(key, master.URL)
	heard := func(revision int64) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			summary, _, ok := observer.Latest(key)
			if ok && fmt.Sprint(summary.Revision) == fmt.Sprint(revision) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("revision %d is not heard", revision)
			}
		}
	}
	heard(1)
	round("a source that is being opened", reasonMounting)
	said <- contract.Summary{Revision: 2, Mounts: []contract.MountSummary{{Path: "/", Ready: true, Reason: contract.MountReady}}}
	heard(2)
	round("a claim that is being bound", reasonBinding)
	claim := &corev1.PersistentVolumeClaim{}
	if err := c.Get(t.Context(), key, claim); err != nil {
		t.Fatal(err)
	}
	claim.Status.Phase = corev1.ClaimBound
	status(claim)
	round("bound", reasonBound)
}
