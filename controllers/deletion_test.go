package controllers_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// reader makes a running pod that uses a claim.
func (p *place) reader(name, claim string) *corev1.Pod {
	p.Helper()
	pod := &corev1.Pod{ObjectMeta: p.meta(name), Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "app", Image: "app"}},
		Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}},
	}}
	p.create(pod)
	return pod
}

func (p *place) ended(pod *corev1.Pod) {
	p.Helper()
	pod.Status.Phase = corev1.PodSucceeded
	p.must(world.Status().Update(p.Context(), pod))
}

func (p *place) volumeGone(name string) {
	p.Helper()
	p.gone(&corev1.PersistentVolumeClaim{ObjectMeta: p.meta(name)})
	p.gone(&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: p.namespace + "-" + name}})
}

func TestDatasetGoesOnlyWhenNobodyUsesIt(t *testing.T) {
	p := newPlace(t)
	rt := p.cacheRuntime("data")
	ds := p.bind("data", rt)
	pod := p.reader("holder", "data")
	sidecar := &corev1.Pod{ObjectMeta: p.meta("sidecar"), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}}}
	sidecar.Annotations = map[string]string{contract.AnnotationDatasetsInUse: "other,data"}
	p.create(sidecar)
	// The controllers must have seen the pods before the deletion, as a
	// cluster's own would.
	eventually(t, func() error {
		return world.Get(p.Context(), client.ObjectKeyFromObject(pod), pod)
	})
	p.must(world.Delete(p.Context(), ds))
	p.datasetSays("data", metav1.ConditionFalse, "InUse", "holder", "sidecar", "PersistentVolumeClaim data")
	p.warned("data", contract.EventErrorDeleteDataset, "holder")
	p.ended(sidecar)
	p.datasetSays("data", metav1.ConditionFalse, "InUse", "holder")
	p.ended(pod)
	p.gone(ds)
	p.gone(rt)
	p.volumeGone("data")
	p.gone(&appsv1.DaemonSet{ObjectMeta: p.meta("data-client")})
	p.gone(&appsv1.StatefulSet{ObjectMeta: p.meta("data-worker")})
	p.gone(&corev1.ConfigMap{ObjectMeta: p.meta("fluid-runtime-config-data")})
}

func TestDeletedRuntimeLeavesTheDatasetForAnother(t *testing.T) {
	p := newPlace(t)
	rt := p.cacheRuntime("data")
	p.bind("data", rt)
	pod := p.reader("holder", "data")
	p.must(world.Delete(p.Context(), rt))
	p.runtimeSays(rt, "InUse", "holder")
	p.ended(pod)
	p.gone(rt)
	ds := p.becomes("data", datav1alpha1.NotBoundDatasetPhase)
	p.volumeGone("data")
	if ds.Status.UfsTotal != "" || len(ds.Status.CacheStates) != 0 || len(ds.Status.Runtimes) != 0 {
		t.Errorf("the status still speaks of the runtime: %+v", ds.Status)
	}
	for _, name := range []string{"data-master-0", "data-worker-0"} {
		p.must(world.Delete(p.Context(), &corev1.Pod{ObjectMeta: p.meta(name)}, client.GracePeriodSeconds(0)))
		p.gone(&corev1.Pod{ObjectMeta: p.meta(name)})
	}
	p.create(p.alluxioRuntime("data"))
	p.run("data", "")
	ds = p.becomes("data", datav1alpha1.BoundDatasetPhase)
	if ds.Status.Runtimes[0].Type != "alluxio" {
		t.Errorf("bound to %+v", ds.Status.Runtimes)
	}
}

func TestDeadMasterKeepsNothingFromGoing(t *testing.T) {
	p := newPlace(t)
	rt := p.cacheRuntime("data")
	ds := p.bind("data", rt)
	masters.silence(p.key("data"))
	master := &corev1.Pod{}
	p.must(world.Get(p.Context(), p.key("data-master-0"), master))
	master.Status.Phase = corev1.PodFailed
	p.must(world.Status().Update(p.Context(), master))
	p.must(world.Delete(p.Context(), ds))
	p.gone(ds)
	p.gone(rt)
}

func TestMasterOfALostNodeIsGivenUp(t *testing.T) {
	p := newPlace(t)
	p.bind("data", p.cacheRuntime("data"))
	// Nobody answers for the pod's node: deleted, it stays.
	master := &corev1.Pod{ObjectMeta: p.meta("data-master-0")}
	p.must(world.Delete(p.Context(), master, client.GracePeriodSeconds(1)))
	p.gone(master)
}

func TestSecondRuntimeOfADatasetIsRefused(t *testing.T) {
	p := newPlace(t)
	p.bind("data", p.cacheRuntime("data"))
	second := p.alluxioRuntime("data")
	// Creation times have seconds: the kinds' order decides within one.
	p.create(second)
	p.runtimeSays(second, "RuntimeConflict", "cache")
	p.must(world.Delete(p.Context(), second))
	p.gone(second)
	p.becomes("data", datav1alpha1.BoundDatasetPhase)
	p.must(world.Get(p.Context(), p.key("data-master"), &appsv1.StatefulSet{}))
}

func TestPain11NodeLabelsFollowTheWorkers(t *testing.T) {
	p := newPlace(t)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: p.namespace + "-node", Labels: map[string]string{"kept": "yes"}}}
	p.create(node)
	rt := p.cacheRuntime("data")
	p.dataset("data")
	p.create(rt)
	p.serves("data", "/")
	p.run("data", node.Name)
	id := p.namespace + "-data"
	p.nodeHas(node, map[string]string{
		"kept": "yes", "fluid.io/s-" + id: "true", "fluid.io/s-cache-" + id: "true", "fluid.io/dataset-num": "1",
		"fluid.io/s-h-cache-d-" + id: "1GiB", "fluid.io/s-h-cache-t-" + id: "1GiB", "fluid_exclusive": p.namespace + "_data",
	})
	p.becomes("data", datav1alpha1.BoundDatasetPhase)
	fuse, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]string{"fluid.io/f-" + id: "true"}}})
	p.must(err)
	p.must(world.Patch(p.Context(), node, client.RawPatch("application/merge-patch+json", fuse)))
	p.must(world.Delete(p.Context(), rt))
	p.gone(rt)
	p.must(world.Delete(p.Context(), &corev1.Pod{ObjectMeta: p.meta("data-worker-0")}, client.GracePeriodSeconds(0)))
	p.nodeHas(node, map[string]string{"kept": "yes"})
}

func (p *place) nodeHas(node *corev1.Node, want map[string]string) {
	p.Helper()
	eventually(p.T, func() error {
		if err := world.Get(p.Context(), client.ObjectKeyFromObject(node), node); err != nil {
			return err
		}
		got := map[string]string{}
		for key, value := range node.Labels {
			if !strings.Contains(key, "kubernetes.io/") {
				got[key] = value
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("labels %v, want %v", got, want)
		}
		return nil
	})
}
