package suite_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/features"

	cachev1alpha1 "github.com/millrace/millrace/apis/cache/v1alpha1"
	"github.com/millrace/millrace/e2e/scene"
	"github.com/millrace/millrace/e2e/stage"
)

// feature runs one assessment in a namespace of its own.
func feature(t *testing.T, namespace, sentence string, assess func(*place)) {
	t.Helper()
	testenv.Test(t, features.New(sentence).Assess(sentence, func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
		assess(newPlace(t, namespace))
		return ctx
	}).Feature())
}

// The article's scenario stays in namespace default, where its PVC is.
func TestArticleManifestsAccelerateAPVC(t *testing.T) {
	testenv.Test(t, features.New("a PVC behind the article's manifests").Assess("is cached and read locally", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
		p := &place{t: t, namespace: "default"}
		t.Cleanup(func() {
			if t.Failed() {
				p.dump(context.Background())
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			for _, name := range []string{"cached-copy", "article-dataload", "article-dataset", "article-runtime"} {
				if err := world.Remove(ctx, "default", scene.Manifest(name)); err != nil {
					t.Error(err)
				}
			}
		})
		p.apply(scene.Manifest("article-dataset"))
		p.apply(scene.Manifest("article-runtime"))
		p.bound("hbase")
		p.apply(scene.Manifest("article-dataload"))
		if dl := p.loadEnds("hbase-warmup"); dl.Status.Phase != "Complete" {
			t.Fatalf("dataload ended %s: %+v", dl.Status.Phase, dl.Status.Conditions)
		}
		p.fullyCached("hbase")
		p.apply(scene.Manifest("cached-copy"))
		log, node, err := world.PodEnds(p.ctx(), "default", "cached-copy")
		p.must(err)
		copies, err := scene.Copies(log)
		p.must(err)
		for _, c := range copies {
			t.Logf("%s: %.2f GB/s", c.Path, c.BytesPerSecond()/1e9)
			if c.Bytes != 1<<30 {
				t.Errorf("%s has %d bytes", c.Path, c.Bytes)
			}
		}
		if best := p.mostBytes("hbase"); node != best {
			t.Errorf("the pod went to %s; most bytes are on %s", node, best)
		}
		out, err := world.Kubectl(p.ctx(), "get", "datasets", "hbase")
		p.must(err)
		if !containsAll(out, []string{"UFS TOTAL SIZE", "CACHED", "CACHE CAPACITY", "CACHED PERCENTAGE", "PHASE", "100.0%", "Bound", "1.00GiB"}) {
			t.Errorf("kubectl get datasets printed\n%s", out)
		}
		return ctx
	}).Feature())
}

// mostBytes is the node that the LocalitySlices of a Dataset put first.
func (p *place) mostBytes(dataset string) string {
	p.t.Helper()
	best, most := "", int64(-1)
	list := &cachev1alpha1.LocalitySliceList{}
	p.must(world.List(p.ctx(), list, client.InNamespace(p.namespace)))
	for _, slice := range list.Items {
		for _, n := range slice.Nodes {
			if slice.Dataset.Name == dataset && n.CachedBytes > most {
				best, most = n.NodeName, n.CachedBytes
			}
		}
	}
	return best
}

func TestBucketWithSecretsIsCachedByTwoWorkers(t *testing.T) {
	feature(t, "bucket", "an S3 Dataset reads right through a volume and through a sidecar", func(p *place) {
		p.bucket("two-workers", append(stage.SmallObjects(300, 64<<10), stage.Object{Name: "model.bin", Size: 200 << 20}, stage.Object{Name: "empty", Size: 0},
			stage.Object{Name: "deep/er/than most/ünï code.txt", Size: 12345})...)
		p.dataset("training", "two-workers")
		p.runtime("training", 2, "1Gi")
		p.bound("training")
		p.load("warm", "training", "/")
		if dl := p.loadEnds("warm"); dl.Status.Phase != "Complete" {
			p.t.Fatalf("dataload ended %s: %+v", dl.Status.Phase, dl.Status.Conditions)
		}
		p.fullyCached("training")
		files := []string{"copy", "--sha256", "/data/model.bin", "/data/empty", "/data/deep/er/than most/ünï code.txt", "/data/train/002/img-00299.jpg"}
		p.reader("by-volume", "training", files...)
		p.reads("by-volume")

		job := strings.NewReplacer("/data/train/000/img-00042.jpg", "/data/train/000/img-00042.jpg", "/data/train/019/img-01999.jpg", "/data/empty").Replace(scene.Manifest("sidecar-job"))
		p.apply(job)
		log, err := world.JobEnds(p.ctx(), p.namespace, "train")
		p.must(err)
		copies, err := scene.Copies(log)
		p.must(err)
		for _, c := range copies {
			if c.SHA256 != stage.Digest(strings.TrimPrefix(c.Path, "/data/"), c.Bytes) {
				p.t.Errorf("the sidecar Job read wrong bytes of %s", c.Path)
			}
		}
		for _, pod := range p.pods("train-") {
			if pod.Labels["done.sidecar.fluid.io/inject"] != "true" || len(pod.Spec.InitContainers) == 0 || pod.Spec.InitContainers[0].Name != "fluid-fuse-0" {
				p.t.Errorf("pod %s has no sidecar: labels %v", pod.Name, pod.Labels)
			}
		}
	})
}

func TestRuntimeMayComeBeforeItsDataset(t *testing.T) {
	feature(t, "order", "a runtime created first waits for its Dataset and then binds", func(p *place) {
		p.bucket("order", stage.Object{Name: "a", Size: 100})
		p.runtime("early", 1, "1Gi")
		p.dataset("early", "order")
		p.bound("early")
		p.reader("read", "early", "copy", "--sha256", "/data/a")
		p.reads("read")
	})
}

func TestPodGoesToItsBytesOnlyWithThePlugin(t *testing.T) {
	feature(t, "locality", "the same pod lands on its bytes with the plugin and elsewhere without", func(p *place) {
		p.bucket("locality", stage.Object{Name: "model.bin", Size: 64 << 20})
		p.dataset("model", "locality")
		p.runtime("model", 1, "1Gi")
		p.bound("model")
		p.load("warm", "model", "/")
		p.loadEnds("warm")
		p.fullyCached("model")
		holder := p.pods("model-worker-")[0].Spec.NodeName
		p.must(world.Until(p.ctx(), p.seen("model"), func() (string, bool) {
			best := p.mostBytes("model")
			return "most bytes on " + best, best == holder
		}))
		// A ballast makes the holder the fuller node, so that spreading alone
		// would send the pod to the other one.
		p.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: ballast}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 0
  containers:
    - {name: wait, image: "docker.io/local/stage:dev", imagePullPolicy: IfNotPresent, args: [wait], resources: {requests: {cpu: 500m, memory: 1Gi}}}
`, holder))
		ballast := &corev1.Pod{}
		ballast.Namespace, ballast.Name = p.namespace, "ballast"
		p.must(world.Until(p.ctx(), ballast, func() (string, bool) { return string(ballast.Status.Phase), ballast.Status.Phase == corev1.PodRunning }))
		for i := range 3 {
			name := fmt.Sprintf("with-%d", i)
			p.reader(name, "model", "copy", "--sha256", "/data/model.bin")
			if node := p.reads(name); node != holder {
				p.t.Errorf("with the plugin, pod %s went to %s; its bytes are on %s", name, node, holder)
			}
		}
		p.must(scene.StockScheduler(p.ctx(), cluster))
		p.t.Cleanup(func() {
			if err := scene.OurScheduler(context.Background(), filepath.Join(repository(), "out"), cluster); err != nil {
				p.t.Error(err)
			}
		})
		p.reader("without", "model", "copy", "--sha256", "/data/model.bin")
		if node := p.reads("without"); node == holder {
			p.t.Errorf("without the plugin the pod went to %s as well: the test proves nothing", node)
		}
	})
}
