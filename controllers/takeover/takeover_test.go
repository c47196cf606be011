package takeover_test

import (
	"bytes"
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

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	"github.com/millrace/millrace/apis/apitest"
	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/alluxioruntime"
	"github.com/millrace/millrace/controllers/cacheruntime"
	"github.com/millrace/millrace/controllers/dataload"
	"github.com/millrace/millrace/controllers/datamigrate"
	"github.com/millrace/millrace/controllers/dataset"
	"github.com/millrace/millrace/controllers/engine"
	"github.com/millrace/millrace/controllers/nodelabel"
	"github.com/millrace/millrace/controllers/notsupported"
)

// patience is for a machine that is busy with something else.
const patience = 90 * time.Second

// cluster is an API server of the test's own, so that it can have Fluid's
// definitions first. Kubelets and workload controllers are stood in for.
type cluster struct {
	*testing.T
	client.Client
	config *rest.Config
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	ctrl.SetLogger(klog.NewKlogr())
	assets, err := filepath.Abs("../../out/bin")
	if err != nil {
		t.Fatal(err)
	}
	env := &envtest.Environment{CRDDirectoryPaths: []string{"testdata/fluid-crds.yaml"}, ErrorIfCRDPathMissing: true, BinaryAssetsDirectory: assets}
	env.ControlPlane.GetAPIServer().Configure().Set("disable-admission-plugins", "ServiceAccount", "StorageObjectInUseProtection")
	config, err := env.Start()
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatalf("start API server from %s (make tools builds it): %v", assets, err)
	}
	config.QPS, config.Burst = 500, 1000
	c, err := client.New(config, client.Options{Scheme: apitest.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{T: t, Client: c, config: config}
}

func (c *cluster) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) eventually(ask func() error) {
	c.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = ask(); err == nil {
			return
		}
	}
	c.Fatal(err)
}

func documents(t *testing.T, file string) []*unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []*unstructured.Unstructured
	for _, doc := range bytes.Split(text, []byte("\n---\n")) {
		obj := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(doc, obj); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		out = append(out, obj)
	}
	return out
}

// runFluid makes what Fluid and the cluster made of its user's objects.
func (c *cluster) runFluid() {
	c.Helper()
	var runtime *unstructured.Unstructured
	for _, obj := range documents(c.T, "testdata/objects.yaml") {
		status, hasStatus := obj.Object["status"]
		if obj.GetObjectKind().GroupVersionKind().Group == "apps" && obj.GetAnnotations()["unowned"] == "" {
			obj.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: runtime.GetAPIVersion(), Kind: runtime.GetKind(), Name: runtime.GetName(), UID: runtime.GetUID()}})
		}
		c.must(c.Create(c.Context(), obj))
		if hasStatus {
			obj.Object["status"] = status
			c.must(c.Status().Update(c.Context(), obj))
		}
		if obj.GetKind() == "AlluxioRuntime" {
			runtime = obj
		}
	}
	claim := &corev1.PersistentVolumeClaim{}
	c.must(c.Get(c.Context(), key("hbase"), claim))
	claim.Status.Phase = corev1.ClaimBound
	c.must(c.Status().Update(c.Context(), claim))
	c.running("hbase-master-0")
}

func (c *cluster) running(pod string) {
	c.Helper()
	p := &corev1.Pod{}
	c.must(c.Get(c.Context(), key(pod), p))
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}}
	c.must(c.Status().Update(c.Context(), p))
}

func key(name string) client.ObjectKey { return client.ObjectKey{Namespace: "default", Name: name} }

// upgrade does what the migration page says: the definitions of the chart are
// applied over those that are there.
func (c *cluster) upgrade() {
	c.Helper()
	files, err := filepath.Glob("../../charts/millrace/crds/*.yaml")
	if err != nil || len(files) == 0 {
		c.Fatal("no definitions", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		c.must(err)
		crd := &unstructured.Unstructured{}
		c.must(yaml.Unmarshal(text, crd))
		c.must(c.Apply(c.Context(), client.ApplyConfigurationFromUnstructured(crd), client.FieldOwner("helm"), client.ForceOwnership))
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		group, plural, _ := strings.Cut(name, "_")
		crd := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}}
		c.eventually(func() error {
			if err := c.Get(c.Context(), client.ObjectKey{Name: plural + "." + group}, crd); err != nil {
				return err
			}
			list, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
			for _, item := range list {
				if item := item.(map[string]any); item["type"] == "Established" && item["status"] == "True" {
					return nil
				}
			}
			return fmt.Errorf("%s is not established", crd.GetName())
		})
	}
	// The API server has taken the new schema when it prunes no field of ours.
	probe := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "data.fluid.io/v1alpha1", "kind": "Dataset"}}
	probe.SetNamespace("default")
	probe.SetGenerateName("probe-")
	c.must(unstructured.SetNestedField(probe.Object, "pvc://backups", "spec", "dataRestoreLocation", "path"))
	c.eventually(func() error {
		return client.WithFieldValidation(c.Client, "Strict").Create(c.Context(), probe.DeepCopy(), client.DryRunAll)
	})
}

// runMillrace starts the controllers; the engine's master says that all is served.
func (c *cluster) runMillrace() {
	c.Helper()
	stop, retired := make(chan struct{}), make(chan struct{})
	var once sync.Once
	master := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		summary := contract.Summary{Revision: 1, Mounts: []contract.MountSummary{{Path: "/", Ready: true, Reason: contract.MountReady}}}
		if r.URL.Path == contract.PathRetire {
			once.Do(func() { close(retired) })
		}
		select {
		case <-retired:
			summary.Revision, summary.Retired = 2, true
		default:
		}
		if json.NewEncoder(w).Encode(summary) != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		if r.URL.Path == contract.PathRetire || summary.Retired {
			return
		}
		select {
		case <-stop:
		case <-retired: // said in the next stream
		case <-r.Context().Done():
		}
	}))
	c.Cleanup(func() { close(stop); master.Close() })
	// Each run of the test has a manager and so metrics of its own.
	ctrlmetrics.Registry = prometheus.NewRegistry()
	mgr, err := ctrl.NewManager(c.config, ctrl.Options{
		Scheme: apitest.Scheme(), Metrics: metricsserver.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: ptr.To(true)},
	})
	c.must(err)
	observer := engine.NewObserver(&http.Client{}, mgr.GetLogger())
	metrics, err := engine.NewMetrics(ctrlmetrics.Registry)
	c.must(err)
	options := engine.Options{MountRoot: contract.DefaultMountRoot, MasterAddress: func(*corev1.Pod) string { return master.URL }}
	ctx, cancel := context.WithCancel(context.Background())
	c.must(errors.Join(
		mgr.Add(observer),
		engine.AddIndexes(ctx, mgr.GetFieldIndexer()),
		dataset.SetupWithManager(mgr, observer, contract.DefaultMountRoot),
		nodelabel.SetupWithManager(ctx, mgr),
		cacheruntime.SetupWithManager(mgr, observer, metrics, cacheruntime.Options{Options: options, NativeImage: "cache:dev"}),
		alluxioruntime.SetupWithManager(mgr, observer, metrics, alluxioruntime.Options{Options: options, NativeImage: "cache:dev"}),
		dataload.SetupWithManager(mgr, observer, dataload.Options{NativeImage: "cache:dev"}),
		datamigrate.SetupWithManager(mgr, observer, datamigrate.Options{NativeImage: "cache:dev"}),
		notsupported.SetupWithManager(mgr),
	))
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	c.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			c.Error(err)
		}
	})
}

// startSet makes the pod of a StatefulSet of ours as soon as there is one.
func (c *cluster) startSet(name, node string) {
	c.Helper()
	set := &appsv1.StatefulSet{}
	c.eventually(func() error {
		if err := c.Get(c.Context(), key(name), set); err != nil {
			return err
		}
		if set.Labels[contract.LabelCacheRuntime] != "hbase" {
			return fmt.Errorf("StatefulSet %s is still Fluid's", name)
		}
		return nil
	})
	// The pods of the set that was replaced go with it.
	old := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name + "-0"}}
	c.must(client.IgnoreNotFound(c.Delete(c.Context(), old, client.GracePeriodSeconds(0))))
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name + "-0", Labels: set.Spec.Template.Labels, Annotations: set.Spec.Template.Annotations}, Spec: *set.Spec.Template.Spec.DeepCopy()}
	pod.Spec.NodeName = node
	c.must(c.Create(c.Context(), pod))
	c.running(pod.Name)
	c.eventually(func() error {
		if err := c.Get(c.Context(), key(name), set); err != nil {
			return err
		}
		set.Status = appsv1.StatefulSetStatus{ObservedGeneration: set.Generation, Replicas: 1, ReadyReplicas: 1, AvailableReplicas: 1, UpdatedReplicas: 1, CurrentReplicas: 1}
		return c.Status().Update(c.Context(), set)
	})
}

func (c *cluster) says(obj client.Object, conditionType, word string) {
	c.Helper()
	c.eventually(func() error {
		if err := c.Get(c.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
			return err
		}
		var list []metav1.Condition
		switch obj := obj.(type) {
		case *datav1alpha1.Dataset:
			list = obj.Status.Conditions
		case *datav1alpha1.AlluxioRuntime:
			list = obj.Status.Conditions
		case *datav1alpha1.JuiceFSRuntime:
			list = obj.Status.Conditions
		case *datav1alpha1.DataMigrate:
			list = obj.Status.Conditions
		}
		if found := meta.FindStatusCondition(list, conditionType); found == nil || found.Status != metav1.ConditionTrue || !strings.Contains(found.Message, word) {
			return fmt.Errorf("conditions of %T: %+v", obj, list)
		}
		return nil
	})
}

func (c *cluster) gone(obj client.Object) {
	c.Helper()
	c.eventually(func() error {
		if err := c.Get(c.Context(), client.ObjectKeyFromObject(obj), obj); !apierrors.IsNotFound(err) {
			return fmt.Errorf("%T %s is still there, with %v: %w", obj, obj.GetName(), obj.GetFinalizers(), err)
		}
		return nil
	})
}

func (c *cluster) nodeHas(name string, want map[string]string) {
	c.Helper()
	c.eventually(func() error {
		node := &corev1.Node{}
		if err := c.Get(c.Context(), client.ObjectKey{Name: name}, node); err != nil {
			return err
		}
		if diff := cmp.Diff(want, node.Labels); diff != "" {
			return fmt.Errorf("labels of node %s (-want +got):\n%s", name, diff)
		}
		return nil
	})
}

func TestFluidIsReplacedInPlace(t *testing.T) {
	c := newCluster(t)
	c.runFluid()
	meta := metav1.ObjectMeta{Namespace: "default", Name: "hbase"}
	claim, volume := &corev1.PersistentVolumeClaim{}, &corev1.PersistentVolume{}
	c.must(c.Get(t.Context(), key("hbase"), claim))
	c.must(c.Get(t.Context(), client.ObjectKey{Name: "default-hbase"}, volume))
	claimBefore, volumeBefore := claim.DeepCopy(), volume.DeepCopy()
	c.must(c.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-2"}}))

	c.upgrade()
	c.runMillrace()

	ds, rt := &datav1alpha1.Dataset{ObjectMeta: meta}, &datav1alpha1.AlluxioRuntime{ObjectMeta: meta}
	c.startSet("hbase-master", "node-2")
	c.startSet("hbase-worker", "node-2")
	c.says(rt, datav1alpha1.RuntimeReady, "workers are ready")
	c.says(ds, datav1alpha1.DatasetReady, "bound to its alluxio runtime")
	if ds.Status.Phase != datav1alpha1.BoundDatasetPhase || len(ds.Status.Mounts) != 1 {
		t.Errorf("status %+v", ds.Status)
	}
	for _, condition := range append(ds.Status.Conditions, rt.Status.Conditions...) {
		if strings.Contains(condition.Reason, " ") {
			t.Errorf("a condition of Fluid's is left: %+v", condition)
		}
	}
	c.must(c.Get(t.Context(), key("hbase"), claim))
	c.must(c.Get(t.Context(), client.ObjectKey{Name: "default-hbase"}, volume))
	if diff := cmp.Diff(claimBefore, claim); diff != "" {
		t.Errorf("the claim changed (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(volumeBefore, volume); diff != "" {
		t.Errorf("the volume changed (-before +after):\n%s", diff)
	}
	fuse := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "hbase-fuse"}}
	c.must(c.Get(t.Context(), key("hbase-fuse"), fuse))
	if fuse.Spec.Template.Spec.Containers[0].Image != "cache:dev" || fuse.Spec.Template.Spec.NodeSelector["fluid.io/f-default-hbase"] != "true" {
		t.Errorf("FUSE pods %+v", fuse.Spec.Template.Spec)
	}
	c.nodeHas("node-1", map[string]string{"disk": "ssd", "fluid.io/f-default-hbase": "true"})
	c.nodeHas("node-2", map[string]string{
		"fluid.io/s-default-hbase": "true", "fluid.io/s-alluxio-default-hbase": "true", "fluid.io/dataset-num": "1", "fluid_exclusive": "default_hbase",
		"fluid.io/s-h-alluxio-m-default-hbase": "2GiB", "fluid.io/s-h-alluxio-t-default-hbase": "2GiB",
	})

	// What ended under Fluid is not done again; what cannot go on says so.
	load := &datav1alpha1.DataLoad{}
	c.must(c.Get(t.Context(), key("warm"), load))
	if err := c.Get(t.Context(), key(contract.LoaderJobName("warm")), &batchv1.Job{}); load.Status.Phase != datav1alpha1.PhaseComplete || !apierrors.IsNotFound(err) {
		t.Errorf("the finished DataLoad has phase %q, its Job: %v", load.Status.Phase, err)
	}
	migrate := &datav1alpha1.DataMigrate{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "copy"}}
	c.says(migrate, datav1alpha1.OperationReady, "Job copy-migrate-migrate is at work")
	jfs := &datav1alpha1.JuiceFSRuntime{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "jfs"}}
	c.says(jfs, datav1alpha1.RuntimeNotSupported, "JuiceFSRuntime")

	for _, obj := range []client.Object{load, migrate, jfs, ds} {
		c.must(c.Delete(t.Context(), obj))
	}
	for _, obj := range []client.Object{load, migrate, jfs, ds, rt, claim, volume, fuse} {
		c.gone(obj)
	}
	c.must(c.Delete(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "hbase-worker-0"}}, client.GracePeriodSeconds(0)))
	c.nodeHas("node-1", map[string]string{"disk": "ssd"})
	c.nodeHas("node-2", nil)
}
