package suite_test

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/e2e/stage"
)

const (
	rcloneManifest = `
apiVersion: data.fluid.io/v1alpha1
kind: CacheRuntime
metadata: {name: $NAME}
spec:
  runtimeClassName: rclone
  client:
    options: {dir-cache-time: 5s}
    tieredStore: {levels: [{emptyDir: {quota: 64Mi}}]}
`
)

func TestABucketIsReadThroughAClassOfClientsAlone(t *testing.T) {
	feature(t, "rclone", "rclone serves a bucket by its class, to a pod with a volume and to one with a sidecar", func(p *place) {
		objects := []stage.Object{{Name: "large", Size: 20<<20 + 3}, {Name: "sub/small", Size: 7}}
		p.bucket("rclone-class", objects...)
		p.dataset("files", "rclone-class")
		p.apply(fill(rcloneManifest, map[string]string{"$NAME": "files"}))
		ds := p.bound("files")
		if ds.Status.UfsTotal != "N/A" || ds.Status.CacheStates["cached"] != "N/A" {
			t.Errorf("numbers that nobody counts: %s, %v", ds.Status.UfsTotal, ds.Status.CacheStates)
		}
		p.reader("read", "files", "copy", "--sha256", "/data/large", "/data/sub/small")
		p.apply(fill(withSidecar(readerManifest), map[string]string{"$NAME": "beside", "$DATASET": "files", "$ARGS": `copy, --sha256, /data/large, /data/sub/small`}))
		p.reads("read")
		p.reads("beside")
		for _, pod := range p.pods("beside") {
			if len(pod.Spec.InitContainers) != 2 || pod.Spec.InitContainers[1].Name != "fluid-fuse-0" {
				t.Errorf("the pod has no sidecar with a helper before it: %+v", pod.Spec.InitContainers)
			}
		}

		// The secret is in nobody's arguments or environment.
		for _, pod := range p.pods("files-client") {
			text := pod.String()
			if strings.Contains(text, "only-for-the-demo") {
				t.Errorf("pod %s tells the secret", pod.Name)
			}
		}
		// A FUSE pod that is killed comes back over the mount that it left.
		for _, pod := range p.pods("files-client") {
			p.kill(pod)
		}
		p.reader("again", "files", "copy", "--sha256", "/data/sub/small")
		p.reads("again")

		for _, name := range []string{"read", "beside", "again"} {
			pod := &corev1.Pod{}
			pod.Namespace, pod.Name = p.namespace, name
			p.must(world.Delete(p.ctx(), pod))
			p.must(world.Gone(p.ctx(), pod))
		}
		p.must(world.Delete(p.ctx(), p.seen("files")))
		p.must(world.Gone(p.ctx(), p.seen("files")))
		runtime, set := &datav1alpha1.CacheRuntime{}, &appsv1.DaemonSet{}
		runtime.Namespace, runtime.Name = p.namespace, "files"
		set.Namespace, set.Name = p.namespace, "files-client"
		p.must(world.Gone(p.ctx(), runtime))
		p.must(world.Gone(p.ctx(), set))
	})
}
