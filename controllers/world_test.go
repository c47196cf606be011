// Package controllers_test runs the controllers together against a real API
// server. What is missing there is stood in for: kubelets and the workload
// controllers by the test itself, and the engine's master by a small server that
// speaks its HTTP interface.
package controllers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/alluxioruntime"
	"github.com/millrace/millrace/controllers/cacheruntime"
	"github.com/millrace/millrace/controllers/dataset"
	"github.com/millrace/millrace/controllers/engine"
	"github.com/millrace/millrace/controllers/nodelabel"
)

const patience = 90 * time.Second

var (
	world   client.Client
	masters = newMasters()
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctrl.SetLogger(klog.NewKlogr())
	if binaries, err = os.MkdirTemp("", "controllers"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(binaries)
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		assets, _ = filepath.Abs("../out/bin")
	}
	env := &envtest.Environment{CRDDirectoryPaths: []string{"../charts/millrace/crds"}, ErrorIfCRDPathMissing: true, BinaryAssetsDirectory: assets}
	env.ControlPlane.GetAPIServer().Configure().Set("disable-admission-plugins", "ServiceAccount", "StorageObjectInUseProtection")
	config, err := env.Start()
	if err != nil {
		return 1, fmt.Errorf("start API server from %s (make tools builds it): %w", assets, err)
	}
	defer func() { err = errors.Join(err, env.Stop()) }()
	server := httptest.NewServer(masters)
	defer server.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	defer func() {
		cancel()
		masters.close()
		err = errors.Join(err, <-done)
	}()
	mgr, err := newManager(ctx, config, server.URL)
	if err != nil {
		done <- nil
		return 1, err
	}
	if world, err = client.New(config, client.Options{Scheme: mgr.GetScheme()}); err != nil {
		done <- nil
		return 1, err
	}
	go func() {
		bound := make(chan struct{})
		go func() { defer close(bound); bindClaims(ctx) }()
		err := mgr.Start(ctx)
		<-bound
		done <- err
	}()
	class := &datav1alpha1.CacheRuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: contract.NativeClass}, FileSystemType: contract.NativeClass}
	if err := world.Create(ctx, class); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

func newManager(ctx context.Context, config *rest.Config, mastersURL string) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), datav1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	config.Wrap(writes.count)
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}, Cache: cache.Options{},
	})
	if err != nil {
		return nil, err
	}
	observer := engine.NewObserver(&http.Client{}, mgr.GetLogger())
	metrics, err := engine.NewMetrics(ctrlmetrics.Registry)
	if err != nil {
		return nil, err
	}
	options := engine.Options{MountRoot: contract.DefaultMountRoot, Egress: []string{"127.0.0.0/8"}, UnusedTime: 2 * time.Second, MasterAddress: func(pod *corev1.Pod) string {
		return mastersURL + "/" + pod.Namespace + "/" + pod.Labels[contract.LabelCacheRuntime]
	}}
	return mgr, errors.Join(
		mgr.Add(observer),
		engine.AddIndexes(ctx, mgr.GetFieldIndexer()),
		dataset.SetupWithManager(mgr, observer, contract.DefaultMountRoot),
		nodelabel.SetupWithManager(ctx, mgr),
		cacheruntime.SetupWithManager(mgr, observer, metrics, cacheruntime.Options{Options: options, NativeImage: "cache:dev"}),
		alluxioruntime.SetupWithManager(mgr, observer, metrics, alluxioruntime.Options{Options: options, NativeImage: "cache:dev"}),
	)
}

// bindClaims does what Kubernetes' volume controller does for ours: a claim that
// names its volume is bound to it.
func bindClaims(ctx context.Context) {
	for ctx.Err() == nil {
		list := &corev1.PersistentVolumeClaimList{}
		if err := world.List(ctx, list); err == nil {
			for i := range list.Items {
				if claim := &list.Items[i]; claim.Status.Phase == corev1.ClaimPending && claim.Spec.VolumeName != "" {
					claim.Status.Phase = corev1.ClaimBound
					_ = world.Status().Update(ctx, claim) // the next look tries again
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// mastersServer speaks the HTTP interface of every runtime's master, at
// /<namespace>/<name>.
type mastersServer struct {
	mu      sync.Mutex
	changed chan struct{}
	said    map[types.NamespacedName]contract.Summary
	mute    map[types.NamespacedName]bool
	// looks counts the looks that were asked for; blind says why one fails.
	looks map[types.NamespacedName]int
	// real are masters that are the engine's own.
	real   map[types.NamespacedName]http.Handler
	blind  map[types.NamespacedName]string
	closed bool
}

func newMasters() *mastersServer {
	return &mastersServer{changed: make(chan struct{}), said: map[types.NamespacedName]contract.Summary{}, mute: map[types.NamespacedName]bool{},
		looks: map[types.NamespacedName]int{}, real: map[types.NamespacedName]http.Handler{}, blind: map[types.NamespacedName]string{}}
}

// change edits what a master says and tells every stream.
func (m *mastersServer) change(key types.NamespacedName, edit func(s *contract.Summary)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.said[key]
	edit(&s)
	s.Revision++
	m.said[key] = s
	m.wake()
}

// silence makes a master refuse to answer.
func (m *mastersServer) silence(key types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mute[key] = true
	m.wake()
}

func (m *mastersServer) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.wake()
}

func (m *mastersServer) wake() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *mastersServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/"), "/", 3)
	key := types.NamespacedName{Namespace: parts[0], Name: parts[1]}
	m.mu.Lock()
	own := m.real[key]
	m.mu.Unlock()
	if own != nil {
		http.StripPrefix("/"+parts[0]+"/"+parts[1], own).ServeHTTP(w, r)
		return
	}
	if "/"+parts[2] == contract.PathRetire {
		m.change(key, func(s *contract.Summary) { s.Retired = true })
		return
	}
	if "/"+parts[2] == contract.PathRevalidate {
		m.revalidate(w, key)
		return
	}
	for {
		m.mu.Lock()
		summary, mute, changed := m.said[key], m.mute[key] || m.closed, m.changed
		m.mu.Unlock()
		if mute {
			panic(http.ErrAbortHandler)
		}
		if json.NewEncoder(w).Encode(summary) != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// revalidate answers a look at the sources, and counts it.
func (m *mastersServer) revalidate(w http.ResponseWriter, key types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looks[key]++
	if why := m.blind[key]; why != "" {
		http.Error(w, why, http.StatusBadGateway)
		return
	}
	_ = json.NewEncoder(w).Encode(contract.RevalidateReply{Snapshot: m.said[key].Snapshot})
}

// eventually asks until there is no error, for a bounded time.
func eventually(t *testing.T, ask func() error) {
	t.Helper()
	eventuallyWithin(t, patience, ask)
}

func eventuallyWithin(t *testing.T, limit time.Duration, ask func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = ask(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// place is a namespace of one test.
type place struct {
	*testing.T
	namespace string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	t.Parallel()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}
	if err := world.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	return &place{T: t, namespace: ns.Name}
}

func (p *place) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *place) key(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: p.namespace, Name: name}
}

func (p *place) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: p.namespace, Name: name}
}

func (p *place) create(obj client.Object) {
	p.Helper()
	p.must(world.Create(p.Context(), obj))
}

// dataset makes a Dataset of one bucket.
func (p *place) dataset(name string, mounts ...datav1alpha1.Mount) {
	p.Helper()
	if len(mounts) == 0 {
		mounts = []datav1alpha1.Mount{{MountPoint: "s3://bucket", Name: "bucket", Path: "/"}}
	}
	p.create(&datav1alpha1.Dataset{ObjectMeta: p.meta(name), Spec: datav1alpha1.DatasetSpec{Mounts: mounts}})
}

// run starts what a cluster would start for a runtime: its pods, all ready.
func (p *place) run(name string, nodes ...string) {
	p.Helper()
	p.startSet(contract.MasterName(name), "master-node")
	p.startSet(contract.WorkerName(name), nodes...)
}

// startSet makes the pods of a StatefulSet as soon as there is one.
func (p *place) startSet(name string, nodes ...string) {
	p.Helper()
	set := &appsv1.StatefulSet{}
	eventually(p.T, func() error { return world.Get(p.Context(), p.key(name), set) })
	for i, node := range nodes {
		pod := &corev1.Pod{ObjectMeta: p.meta(fmt.Sprintf("%s-%d", name, i)), Spec: *set.Spec.Template.Spec.DeepCopy()}
		pod.Labels, pod.Annotations, pod.Spec.NodeName = set.Spec.Template.Labels, set.Spec.Template.Annotations, node
		p.create(pod)
		pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}}
		p.must(world.Status().Update(p.Context(), pod))
	}
	p.rollOut(name, int32(len(nodes)))
}

// rollOut has a StatefulSet report that all its pods are of its present make.
func (p *place) rollOut(name string, replicas int32) {
	p.Helper()
	eventually(p.T, func() error {
		set := &appsv1.StatefulSet{}
		if err := world.Get(p.Context(), p.key(name), set); err != nil {
			return err
		}
		set.Status = appsv1.StatefulSetStatus{
			ObservedGeneration: set.Generation, Replicas: replicas, ReadyReplicas: replicas, AvailableReplicas: replicas, UpdatedReplicas: replicas, CurrentReplicas: replicas,
		}
		return world.Status().Update(p.Context(), set)
	})
}

// serves has the master of a runtime say that its mounts are ready.
func (p *place) serves(name string, paths ...string) {
	masters.change(p.key(name), func(s *contract.Summary) {
		s.Mounts = nil
		for _, path := range paths {
			s.Mounts = append(s.Mounts, contract.MountSummary{Path: path, Ready: true, Reason: contract.MountReady})
		}
	})
}

func (p *place) get(name string) *datav1alpha1.Dataset {
	p.Helper()
	ds := &datav1alpha1.Dataset{}
	p.must(world.Get(p.Context(), p.key(name), ds))
	return ds
}

// becomes waits until a Dataset has a phase.
func (p *place) becomes(name string, phase datav1alpha1.DatasetPhase) *datav1alpha1.Dataset {
	p.Helper()
	var ds *datav1alpha1.Dataset
	eventually(p.T, func() error {
		if ds = p.get(name); ds.Status.Phase != phase {
			return fmt.Errorf("dataset %s is %q, want %q: %+v", name, ds.Status.Phase, phase, ds.Status.Conditions)
		}
		return nil
	})
	return ds
}

// says waits until a condition list has a condition with all the words.
func says(t *testing.T, read func() []metav1.Condition, conditionType string, status metav1.ConditionStatus, words ...string) {
	t.Helper()
	eventually(t, func() error {
		list := read()
		for _, c := range list {
			if c.Type == conditionType && c.Status == status && containsAll(c.Reason+" "+c.Message, words) {
				return nil
			}
		}
		return fmt.Errorf("no condition %s=%s with %q in %+v", conditionType, status, words, list)
	})
}

func (p *place) datasetSays(name string, status metav1.ConditionStatus, words ...string) {
	p.Helper()
	says(p.T, func() []metav1.Condition { return p.get(name).Status.Conditions }, datav1alpha1.DatasetReady, status, words...)
}

func containsAll(text string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

// gone waits until an object does not exist.
func (p *place) gone(obj client.Object) {
	p.Helper()
	p.goneWithin(obj, patience)
}

func (p *place) goneWithin(obj client.Object, limit time.Duration) {
	p.Helper()
	eventuallyWithin(p.T, limit, func() error {
		switch err := world.Get(p.Context(), client.ObjectKeyFromObject(obj), obj); {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return err
		default:
			return fmt.Errorf("%T %s is still there", obj, obj.GetName())
		}
	})
}

// warned waits for an event on an object.
func (p *place) warned(name, reason string, words ...string) {
	p.Helper()
	eventually(p.T, func() error {
		list := &corev1.EventList{}
		if err := world.List(p.Context(), list, client.InNamespace(p.namespace)); err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.InvolvedObject.Name == name && e.Reason == reason && containsAll(e.Message, words) {
				return nil
			}
		}
		return fmt.Errorf("no event %s with %q on %s", reason, words, name)
	})
}
