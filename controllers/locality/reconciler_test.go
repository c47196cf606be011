package locality_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/millrace/millrace/apis/apitest"
	cachev1alpha1 "github.com/millrace/millrace/apis/cache/v1alpha1"
	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/locality"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }

const patience = 20 * time.Second

// master is an Observer whose master says what the test says.
type master struct {
	mu      sync.Mutex
	summary *contract.Summary
	queue   workqueue.TypedRateLimitingInterface[reconcile.Request]
}

func (m *master) Latest(types.NamespacedName) (contract.Summary, time.Time, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.summary == nil {
		return contract.Summary{}, time.Time{}, false
	}
	return *m.summary, time.Now(), true
}

func (m *master) Source(func(types.NamespacedName) []reconcile.Request) source.Source {
	return source.Func(func(_ context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.queue = q
		return nil
	})
}

func (m *master) say(s *contract.Summary) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.summary = s
	if m.queue != nil {
		m.queue.Add(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "default", Name: "training"}})
	}
}

func TestSlicesFollowTheMaster(t *testing.T) {
	c := apitest.Client(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	m := &master{}
	mgr, err := ctrl.NewManager(apitest.Config(t), ctrl.Options{Scheme: apitest.Scheme(), Metrics: server.Options{BindAddress: "0"}})
	must(err)
	must(locality.SetupWithManager(mgr, m))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := mgr.Start(ctx); err != nil {
			t.Errorf("run manager: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })

	must(c.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{corev1.LabelTopologyZone: "z1"}}}))
	ds := &datav1alpha1.Dataset{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "training"},
		Spec: datav1alpha1.DatasetSpec{Mounts: []datav1alpha1.Mount{{MountPoint: "s3://bucket", Name: "b"}}}}
	must(c.Create(t.Context(), ds))
	bind := func(phase datav1alpha1.DatasetPhase) {
		t.Helper()
		must(c.Get(t.Context(), client.ObjectKeyFromObject(ds), ds))
		ds.Status.Phase = phase
		must(c.Status().Update(t.Context(), ds))
	}
	sees := func(what string, ok func([]cachev1alpha1.LocalitySlice) bool) time.Time {
		t.Helper()
		for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			list := &cachev1alpha1.LocalitySliceList{}
			must(c.List(t.Context(), list, client.InNamespace("default")))
			if ok(list.Items) {
				return time.Now()
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %s", what, fmt.Sprintf("%+v", list.Items))
			}
		}
	}
	holds := func(size int64) func([]cachev1alpha1.LocalitySlice) bool {
		return func(s []cachev1alpha1.LocalitySlice) bool {
			return len(s) == 1 && len(s[0].Nodes) == 1 && s[0].Nodes[0] == cachev1alpha1.NodeBytes{NodeName: "a", Zone: "z1", CachedBytes: size} && s[0].TotalBytes == 1000
		}
	}
	summary := func(size int64) *contract.Summary {
		return &contract.Summary{UFSTotalBytes: 1000, Workers: []contract.WorkerSummary{{Name: "w", Node: "a", CachedBytes: size}}}
	}
	bind(datav1alpha1.BoundDatasetPhase)
	m.say(summary(0))
	first := sees("a worker without bytes has a slice", holds(0))
	m.say(summary(500))
	m.say(summary(600))
	if second := sees("news are written", holds(600)); second.Sub(first) < time.Second {
		t.Errorf("two writes within %s", second.Sub(first))
	}
	m.say(nil) // the master is lost, its workers are not
	sees("a silent master changes nothing", holds(600))
	bind(datav1alpha1.NotBoundDatasetPhase) // the runtime was deleted
	sees("without a runtime there is no slice", func(s []cachev1alpha1.LocalitySlice) bool { return len(s) == 0 })
}
