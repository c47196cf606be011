package suite_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/e2e/stage"
)

func TestWorkerKilledDuringARead(t *testing.T) {
	feature(t, "killread", "a read ends right when the workers are killed under it", func(p *place) {
		p.bucket("killread", stage.Object{Name: "model.bin", Size: 512 << 20})
		p.dataset("model", "killread")
		p.runtime("model", 2, "1Gi")
		p.bound("model")
		p.reader("read", "model", "copy", "--sha256", "--runs=3", "/data/model.bin")
		pod := &corev1.Pod{}
		pod.Namespace, pod.Name = p.namespace, "read"
		p.must(world.Until(p.ctx(), pod, func() (string, bool) { return string(pod.Status.Phase), pod.Status.Phase != corev1.PodPending }))
		if pod.Status.Phase != corev1.PodRunning {
			p.t.Fatalf("the read was over before a worker could be killed: %s", pod.Status.Phase)
		}
		for _, worker := range p.pods("model-worker-") {
			p.kill(worker)
		}
		p.reads("read")
	})
}

func TestWorkerKilledDuringADataLoad(t *testing.T) {
	feature(t, "killload", "a DataLoad completes although a worker is killed", func(p *place) {
		p.bucket("killload", append(stage.SmallObjects(500, 256<<10), stage.Object{Name: "model.bin", Size: 512 << 20})...)
		p.dataset("model", "killload")
		p.runtime("model", 2, "2Gi")
		p.bound("model")
		p.load("warm", "model", "/")
		dl := &datav1alpha1.DataLoad{}
		dl.Namespace, dl.Name = p.namespace, "warm"
		p.must(world.Until(p.ctx(), dl, func() (string, bool) {
			return string(dl.Status.Phase), dl.Status.Phase == datav1alpha1.PhaseExecuting || dl.Status.Phase == datav1alpha1.PhaseComplete
		}))
		p.kill(p.pods("model-worker-")[0])
		if dl := p.loadEnds("warm"); dl.Status.Phase != datav1alpha1.PhaseComplete {
			p.t.Fatalf("dataload ended %s: %+v", dl.Status.Phase, dl.Status.Conditions)
		}
		p.fullyCached("model")
	})
}

func TestNodeCutOff(t *testing.T) {
	feature(t, "cutnode", "readers go on when a node with a worker is cut off, and the cache is whole again after it heals", func(p *place) {
		p.bucket("cutnode", stage.Object{Name: "model.bin", Size: 256 << 20})
		p.dataset("model", "cutnode")
		// The S3 server and the master are on the first node: the second one goes.
		kept, lost := cluster.Nodes()[0], cluster.Nodes()[1]
		manifest := fill(runtimeManifest, map[string]string{"$NAME": "model"})
		p.apply(strings.Replace(manifest, "spec:\n", fmt.Sprintf("spec:\n  master: {nodeSelector: {kubernetes.io/hostname: %s}}\n", kept), 1))
		p.bound("model")
		p.load("warm", "model", "/")
		p.loadEnds("warm")
		p.fullyCached("model")
		p.must(cluster.CutNode(p.ctx(), lost))
		healed := false
		heal := func() {
			if !healed {
				healed = true
				p.must(cluster.HealNode(context.Background(), lost))
			}
		}
		p.t.Cleanup(heal)
		pod := fill(readerManifest, map[string]string{"$NAME": "read", "$DATASET": "model", "$ARGS": `copy, --sha256, /data/model.bin`})
		p.apply(strings.Replace(pod, "spec:\n", "spec:\n  nodeName: "+kept+"\n", 1))
		p.reads("read")
		heal()
		p.must(world.Until(p.ctx(), p.node(lost), func() (string, bool) { return "not ready yet", p.nodeReady(lost) }))
		p.fullyCached("model")
	})
}

func (p *place) node(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func (p *place) nodeReady(name string) bool {
	node := p.node(name)
	p.must(world.Get(p.ctx(), client.ObjectKeyFromObject(node), node))
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func TestManagerRestartedInTheMiddleOfEverything(t *testing.T) {
	feature(t, "restart", "a Dataset binds and loads although the manager is killed twice", func(p *place) {
		p.bucket("restart", append(stage.SmallObjects(200, 64<<10), stage.Object{Name: "model.bin", Size: 256 << 20})...)
		p.dataset("model", "restart")
		p.runtime("model", 1, "1Gi")
		p.killManager()
		p.bound("model")
		p.load("warm", "model", "/")
		p.killManager()
		if dl := p.loadEnds("warm"); dl.Status.Phase != datav1alpha1.PhaseComplete {
			p.t.Fatalf("dataload ended %s: %+v", dl.Status.Phase, dl.Status.Conditions)
		}
		p.fullyCached("model")
	})
}

func (p *place) killManager() {
	p.t.Helper()
	list := &corev1.PodList{}
	p.must(world.List(p.ctx(), list, client.InNamespace("fluid-system"), client.MatchingLabels{"app": "millrace-manager"}))
	if len(list.Items) == 0 {
		p.t.Fatal("no manager pod to kill")
	}
	for _, pod := range list.Items {
		p.kill(pod)
	}
	dep := &appsv1.Deployment{}
	dep.Namespace, dep.Name = "fluid-system", "millrace-manager"
	p.must(world.Until(p.ctx(), dep, func() (string, bool) {
		return fmt.Sprintf("%d available", dep.Status.AvailableReplicas), dep.Status.AvailableReplicas > 0
	}))
}

func TestDatasetIsNotDeletedWhileInUse(t *testing.T) {
	feature(t, "inuse", "deletion waits for the pod that uses the volume, says so, and then ends", func(p *place) {
		p.bucket("inuse", stage.Object{Name: "a", Size: 1000})
		p.dataset("held", "inuse")
		p.runtime("held", 1, "1Gi")
		p.bound("held")
		p.reader("holder", "held", "wait")
		pod := &corev1.Pod{}
		pod.Namespace, pod.Name = p.namespace, "holder"
		p.must(world.Until(p.ctx(), pod, func() (string, bool) { return string(pod.Status.Phase), pod.Status.Phase == corev1.PodRunning }))
		ds := p.seen("held")
		p.must(world.Delete(p.ctx(), ds))
		p.must(world.Until(p.ctx(), ds, func() (string, bool) {
			for _, c := range ds.Status.Conditions {
				if strings.Contains(c.Message, "holder") {
					return c.Message, true
				}
			}
			return fmt.Sprintf("%+v", ds.Status.Conditions), false
		}))
		p.eventSays("Dataset", "held", "ErrorDeleteDataset", "holder")
		p.must(world.Delete(p.ctx(), pod))
		p.must(world.Gone(p.ctx(), ds))
		pvc := &corev1.PersistentVolumeClaim{}
		pvc.Namespace, pvc.Name = p.namespace, "held"
		p.must(world.Gone(p.ctx(), pvc))
		for _, name := range cluster.Nodes() {
			node := p.node(name)
			p.must(world.Until(p.ctx(), node, func() (string, bool) {
				for key := range node.Labels {
					if strings.Contains(key, "inuse-held") {
						return "label " + key + " is left", false
					}
				}
				return "", true
			}))
		}
	})
}

// eventSays waits for an event on an object with the reason and the words.
func (p *place) eventSays(kind, name, reason string, words ...string) {
	p.t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: p.namespace}}
	p.must(world.Until(p.ctx(), ns, func() (string, bool) {
		list := &corev1.EventList{}
		p.must(world.List(p.ctx(), list, client.InNamespace(p.namespace)))
		saw := ""
		for _, e := range list.Items {
			if e.InvolvedObject.Kind != kind || e.InvolvedObject.Name != name {
				continue
			}
			saw += e.Reason + ": " + e.Message + "; "
			if e.Reason == reason && containsAll(e.Message, words) {
				return saw, true
			}
		}
		return "events " + saw, false
	}))
}
