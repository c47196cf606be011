package suite_test

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/e2e/scene"
	"github.com/millrace/millrace/e2e/stage"
)

// readsOf is reads for a Dataset that shows a directory of its source.
func (p *place) readsOf(name, directory string) (node string) {
	p.t.Helper()
	log, node, err := world.PodEnds(p.ctx(), p.namespace, name)
	p.must(err)
	copies, err := scene.Copies(log)
	p.must(err)
	if len(copies) == 0 {
		p.t.Errorf("pod %s read nothing", name)
	}
	for _, c := range copies {
		if want := stage.Digest(directory+strings.TrimPrefix(c.Path, "/data"), c.Bytes); c.SHA256 != want {
			p.t.Errorf("pod %s read wrong bytes of %s", name, c.Path)
		}
	}
	return node
}

// TestADatasetOfAnotherNamespaceIsReadWhereItsBytesAre shows pain 5, too:
// Datasets that refer to others get locality.
func TestADatasetOfAnotherNamespaceIsReadWhereItsBytesAre(t *testing.T) {
	feature(t, "origin", "a Dataset refers to a directory of one in another namespace, and is read through its cache", func(p *place) {
		p.bucket("origin", stage.Object{Name: "train/a.bin", Size: 32 << 20}, stage.Object{Name: "train/deep/b.bin", Size: 1 << 20}, stage.Object{Name: "top.bin", Size: 1 << 20})
		view := newPlace(p.t, "viewers")
		view.apply(`
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata: {name: view}
spec: {mounts: [{mountPoint: dataset://origin/training/train}]}
`)
		p.dataset("training", "origin")
		p.runtime("training", 1, "1Gi")
		p.bound("training")
		p.load("warm", "training", "/")
		p.loadEnds("warm")
		p.fullyCached("training")
		view.bound("view")
		view.fullyCached("view")
		view.says("view", "Ready", metav1.ConditionTrue, "train of Dataset origin/training", "numbers")

		view.reader("reads", "view", "copy", "--sha256", "/data/a.bin", "/data/deep/b.bin")
		if node, best := view.readsOf("reads", "train"), p.mostBytes("training"); node != best {
			p.t.Errorf("the pod went to %s; all bytes are on %s", node, best)
		}
		if others := view.pods("training"); len(others) > 0 || len(p.pods("training-client")) != 1 {
			p.t.Errorf("%d pods of a cache beside the reader's, %d FUSE pods at the origin", len(others), len(p.pods("training-client")))
		}
		view.rejected(fill(withSidecar(readerManifest), map[string]string{"$NAME": "sidecar", "$DATASET": "view", "$ARGS": `"copy", "/data/a.bin"`}),
			"namespace origin", "Secrets", contract.LabelServerfulFuse)

		// A file that comes at the source is there once it was looked at.
		before := p.bound("training").Status.Source.Snapshot
		p.bucket("origin", stage.Object{Name: "train/late.bin", Size: 1 << 20})
		_, err := world.Kubectl(p.ctx(), "annotate", "dataset", "training", "-n", "origin", contract.AnnotationRefresh+"=now")
		p.must(err)
		ds := view.seen("view")
		p.must(world.Until(p.ctx(), ds, func() (string, bool) {
			return fmt.Sprintf("source %+v", ds.Status.Source), ds.Status.Source != nil && ds.Status.Source.Snapshot != "" && ds.Status.Source.Snapshot != before && ds.Status.FileNum == "4"
		}))
		own := p.seen("training")
		p.must(world.Until(p.ctx(), own, func() (string, bool) {
			r := own.Status.Source.Refresh
			return fmt.Sprintf("refresh %+v", r), r != nil && r.Token == "now" && r.Succeeded
		}))
		view.reader("reads-late", "view", "copy", "--sha256", "/data/late.bin")
		view.readsOf("reads-late", "train")

		// It stays while it is referred to.
		p.must(world.Delete(p.ctx(), p.seen("training")))
		p.says("training", "Ready", metav1.ConditionFalse, "Referenced", "viewers/view")
		p.must(world.Delete(p.ctx(), view.seen("view")))
		p.must(world.Gone(p.ctx(), view.seen("view")))
		p.must(world.Gone(p.ctx(), p.seen("training")))
	})
}
