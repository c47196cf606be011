package cachelocality_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/kubernetes/cmd/kube-scheduler/app"
	"k8s.io/kubernetes/cmd/kube-scheduler/app/options"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/apitest"
	cachev1alpha1 "github.com/millrace/millrace/apis/cache/v1alpha1"
	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/scheduler/cachelocality"
	"github.com/millrace/millrace/scheduler/profile"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }

const patience = 2 * time.Minute

// schedule runs a scheduler by the profile until the test ends. Both of the
// test have their own name, so that they may run side by side.
func schedule(t *testing.T, name string, weight int) {
	t.Helper()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	cfg := apitest.Config(t)
	if err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: cfg.Host, CertificateAuthorityData: cfg.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": {ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	}, kubeconfig); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "scheduler.yaml")
	if err := os.WriteFile(file, profile.Configuration(profile.Options{Kubeconfig: kubeconfig, SchedulerName: name, Weight: weight}), 0o600); err != nil {
		t.Fatal(err)
	}
	opts := options.NewOptions()
	opts.ConfigFile = file
	opts.SecureServing.BindPort = 0
	ctx, cancel := context.WithCancel(context.Background())
	cc, sched, err := app.Setup(ctx, opts, app.WithPlugin(cachelocality.Name, cachelocality.New))
	if err != nil {
		cancel()
		t.Fatalf("set up scheduler: %v", err)
	}
	// As app.Run does, which may run only once in a process.
	cc.EventBroadcaster.StartRecordingToSink(ctx.Done())
	cc.InformerFactory.Start(ctx.Done())
	cc.DynInformerFactory.Start(ctx.Done())
	cc.InformerFactory.WaitForCacheSync(ctx.Done())
	cc.DynInformerFactory.WaitForCacheSync(ctx.Done())
	if err := sched.WaitForHandlersSync(ctx); err != nil {
		t.Errorf("run scheduler %s: %v", name, err)
	}
	done := make(chan struct{})
	go func() { defer close(done); sched.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func create(t *testing.T, objs ...client.Object) {
	t.Helper()
	c := apitest.Client(t)
	for _, obj := range objs {
		status := obj.DeepCopyObject().(client.Object)
		if err := c.Create(t.Context(), obj); err != nil {
			t.Fatalf("create %T %s: %v", obj, obj.GetName(), err)
		}
		t.Cleanup(func() {
			if err := c.Delete(context.Background(), obj, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
		})
		switch want := status.(type) {
		case *corev1.Node:
			live := obj.(*corev1.Node)
			live.Status = want.Status
			if err := c.Status().Update(t.Context(), live); err != nil {
				t.Fatal(err)
			}
		case *corev1.PersistentVolumeClaim:
			live := obj.(*corev1.PersistentVolumeClaim)
			live.Status.Phase = corev1.ClaimBound
			if err := c.Status().Update(t.Context(), live); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func node(name string, labels map[string]string) *corev1.Node {
	room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("16Gi"), corev1.ResourcePods: resource.MustParse("100")}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Status: corev1.NodeStatus{
			Allocatable: room, Capacity: room,
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
}

// pod asks for a scheduler and mounts a claim, if any.
func pod(name, scheduler, claim string, cpu string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{}},
		Spec: corev1.PodSpec{
			SchedulerName: scheduler,
			Tolerations:   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers: []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("64Mi"),
			}}}},
		},
	}
	if claim != "" {
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
		}}}
	}
	return p
}

// volume is the PV and PVC of a Dataset.
func volume(dataset string) []client.Object {
	labels := map[string]string{contract.LabelDatasetID: "default-" + dataset}
	class, size := contract.StorageClass, corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "default-" + dataset, Labels: labels},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: modes, Capacity: size, StorageClassName: class,
			ClaimRef:               &corev1.ObjectReference{Namespace: "default", Name: dataset},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: contract.CSIDriver, VolumeHandle: "default-" + dataset}},
		},
	}
	pvc := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: dataset, Labels: labels,
			Annotations: map[string]string{"pv.kubernetes.io/bind-completed": "yes"},
		},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: modes, VolumeName: pv.Name, StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{Requests: size},
		},
	}
	return []client.Object{pv, pvc}
}

func localities(dataset string, held map[string]int64) *cachev1alpha1.LocalitySlice {
	s := &cachev1alpha1.LocalitySlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: dataset + "-0"},
		Dataset:    cachev1alpha1.DatasetReference{Name: dataset}, TotalBytes: 1 << 30,
	}
	for name, size := range held {
		s.Nodes = append(s.Nodes, cachev1alpha1.NodeBytes{NodeName: name, CachedBytes: size})
	}
	return s
}

// lands waits until the pod is sent somewhere.
func lands(t *testing.T, p *corev1.Pod) string {
	t.Helper()
	until(t, func() string {
		if err := apitest.Client(t).Get(t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
			return err.Error()
		}
		if p.Spec.NodeName == "" {
			return fmt.Sprintf("pod %s waits: %+v", p.Name, p.Status.Conditions)
		}
		return ""
	})
	return p.Spec.NodeName
}

func until(t *testing.T, missing func() string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		why := missing()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %s", patience, why)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// The node with the bytes is the fuller one: spreading alone would choose the other.
func TestPodGoesToItsBytesAndWouldNotHaveWithoutThePlugin(t *testing.T) {
	create(t, node("full", nil), node("empty", nil))
	ballast := pod("ballast", "nobody", "", "4")
	ballast.Spec.NodeName = "full"
	create(t, ballast)
	create(t, volume("model")...)
	create(t, localities("model", map[string]int64{"full": 1 << 30, "empty": 0}))

	schedule(t, "with", 0)
	schedule(t, "without", -1)
	with, without, stranger := pod("with", "with", "model", "10m"), pod("without", "without", "model", "10m"), pod("stranger", "with", "", "10m")
	// The plugin knows nothing until its first list has come: wait for it by a
	// pod that only a worker's node may have.
	probe := pod("probe", "with", "", "10m")
	probe.Labels[contract.DatasetSchedLabel("model")] = contract.SchedRequired
	create(t, probe)
	lands(t, probe)

	create(t, with, without, stranger)
	if got := lands(t, with); got != "full" {
		t.Errorf("with the plugin the pod went to %s, its bytes are on full", got)
	}
	if got := lands(t, without); got != "empty" {
		t.Errorf("without the plugin the pod went to %s: the test proves nothing", got)
	}
	if got := lands(t, stranger); got != "empty" {
		t.Errorf("a pod without a Dataset went to %s", got)
	}
}

func TestPodThatRequiresADatasetWaitsForItsWorkers(t *testing.T) {
	create(t, node("bare", nil), node("holder", nil))
	schedule(t, "required", 0)
	p := pod("picky", "required", "", "10m")
	p.Labels[contract.DatasetSchedLabel("late")] = contract.SchedRequired
	create(t, p)
	until(t, func() string {
		if err := apitest.Client(t).Get(t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
			return err.Error()
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && strings.Contains(c.Message, "no node has a cache worker of Dataset default/late") {
				return ""
			}
		}
		return fmt.Sprintf("pod is not told why it waits: %s %+v", p.Spec.NodeName, p.Status.Conditions)
	})
	// A worker without bytes is enough: somebody has to read the first ones.
	create(t, localities("late", map[string]int64{"holder": 0}))
	started := time.Now()
	if got := lands(t, p); got != "holder" {
		t.Errorf("the pod went to %s, the only worker is on holder", got)
	}
	t.Logf("the pod went %s after the slice was written", time.Since(started).Round(time.Millisecond))
}
