package suite_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/e2e/stage"
)

// ofJava is how long a thing may take that starts Java machines on two busy cores.
const ofJava = 8 * time.Minute

// slowly gives the place's waits the time that Java takes.
func (p *place) slowly() context.Context {
	ctx, cancel := context.WithTimeout(p.t.Context(), ofJava)
	p.t.Cleanup(cancel)
	return ctx
}

func TestARealAlluxioServesADataset(t *testing.T) {
	feature(t, "alluxio", "an AlluxioRuntime that asks for a real Alluxio is bound, loaded by Alluxio's own commands, read, and goes", func(p *place) {
		p.must(cluster.LoadImages(p.slowly(), filepath.Join(repository(), "out", "images", "alluxio.tar")))
		objects := []stage.Object{{Name: "part-00000", Size: 9 << 20}, {Name: "dir/part-00001", Size: 3<<20 + 7}, {Name: "empty", Size: 0}}
		p.bucket("alluxio", objects...)
		p.dataset("data", "alluxio")
		p.apply(`
apiVersion: data.fluid.io/v1alpha1
kind: AlluxioRuntime
metadata: {name: data, annotations: {cache.millrace.io/engine: alluxio}}
spec:
  replicas: 1
  properties: {alluxio.user.block.size.bytes.default: 4MB}
  tieredstore:
    levels: [{mediumtype: MEM, path: /dev/shm, quota: 64Mi, high: "0.95", low: "0.7"}]
`)
		ds := p.seen("data")
		p.must(world.Until(p.slowly(), ds, func() (string, bool) {
			return fmt.Sprintf("phase %q, ufsTotal %s, files %s, conditions %+v", ds.Status.Phase, ds.Status.UfsTotal, ds.Status.FileNum, ds.Status.Conditions),
				ds.Status.Phase == datav1alpha1.BoundDatasetPhase && ds.Status.UfsTotal == "12.00MiB" && ds.Status.FileNum == "3"
		}))
		for _, pod := range p.pods("data-") {
			if image := pod.Spec.Containers[0].Image; image != "docker.io/local/alluxio:dev" {
				t.Errorf("pod %s runs %s", pod.Name, image)
			}
		}

		p.load("warmup", "data", "/")
		dl := &datav1alpha1.DataLoad{}
		dl.Namespace, dl.Name = p.namespace, "warmup"
		p.must(world.Until(p.slowly(), dl, func() (string, bool) {
			return fmt.Sprintf("phase %q, conditions %+v", dl.Status.Phase, dl.Status.Conditions),
				dl.Status.Phase == datav1alpha1.PhaseComplete || dl.Status.Phase == datav1alpha1.PhaseFailed
		}))
		if dl.Status.Phase != datav1alpha1.PhaseComplete {
			t.Fatalf("dataload ended %s: %+v", dl.Status.Phase, dl.Status.Conditions)
		}
		p.fullyCached("data")

		p.reader("read", "data", "copy", "--sha256", "/data/part-00000", "/data/dir/part-00001")
		pod := &corev1.Pod{}
		pod.Namespace, pod.Name = p.namespace, "read"
		p.must(world.Until(p.slowly(), pod, func() (string, bool) {
			return fmt.Sprintf("%s %+v", pod.Status.Phase, pod.Status.Conditions), pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		}))
		p.reads("read")

		p.must(world.Delete(p.ctx(), pod))
		for _, obj := range []client.Object{ds, &datav1alpha1.AlluxioRuntime{ObjectMeta: ds.ObjectMeta}} {
			gone := obj.DeepCopyObject().(client.Object)
			gone.SetResourceVersion("")
			p.must(client.IgnoreNotFound(world.Delete(p.ctx(), gone)))
			p.must(world.Gone(p.slowly(), gone))
		}
	})
}
