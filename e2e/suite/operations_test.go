package suite_test

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/e2e/scene"
	"github.com/millrace/millrace/e2e/stage"
)

const (
	followManifest = `
apiVersion: data.fluid.io/v1alpha1
kind: DataLoad
metadata: {name: follow}
spec:
  dataset: {name: training, namespace: operations}
  policy: OnEvent
`
	migrateManifest = `
apiVersion: data.fluid.io/v1alpha1
kind: DataMigrate
metadata: {name: copy}
spec:
  from: {dataset: {name: training, namespace: operations, path: /train}}
  to: {dataset: {name: training, namespace: operations, path: /copied}}
`
	processManifest = `
apiVersion: data.fluid.io/v1alpha1
kind: DataProcess
metadata: {name: $NAME}
spec:
  dataset: {name: training, namespace: operations, mountPath: /data}
  runAfter: {kind: DataMigrate, name: copy, affinityStrategy: {policy: Require}}
  processor:
    job:
      podSpec:
        containers:
          - {name: read, image: "docker.io/local/stage:dev", imagePullPolicy: IfNotPresent, args: [$ARGS]}
`
)

// operationEnds waits until an operation is complete.
func (p *place) operationEnds(obj client.Object, status *datav1alpha1.OperationStatus) {
	p.t.Helper()
	p.must(world.Until(p.ctx(), obj, func() (string, bool) {
		return fmt.Sprintf("phase %q, conditions %+v", status.Phase, status.Conditions), status.Phase == datav1alpha1.PhaseComplete
	}))
}

// processed checks the digests that the pod of a DataProcess printed of files that
// came from a directory of the source.
func (p *place) processed(name, at, directory string) {
	p.t.Helper()
	dp := &datav1alpha1.DataProcess{}
	dp.Namespace, dp.Name = p.namespace, name
	p.operationEnds(dp, &dp.Status)
	log, err := world.JobEnds(p.ctx(), p.namespace, name+"-processor-job")
	p.must(err)
	copies, err := scene.Copies(log)
	p.must(err)
	if len(copies) != 2 {
		p.t.Errorf("DataProcess %s read %d files", name, len(copies))
	}
	for _, c := range copies {
		if want := stage.Digest(directory+strings.TrimPrefix(c.Path, at), c.Bytes); c.SHA256 != want {
			p.t.Errorf("DataProcess %s read wrong bytes of %s", name, c.Path)
		}
	}
}

func TestOperationsFollowEachOther(t *testing.T) {
	feature(t, "operations", "a DataMigrate copies, DataProcesses read after it, and a DataLoad follows the source", func(p *place) {
		p.bucket("operations", stage.Object{Name: "train/a.bin", Size: 20<<20 + 3}, stage.Object{Name: "train/deep/b.bin", Size: 7})
		p.apply(secretManifest)
		p.apply(fill(datasetManifest, map[string]string{"$NAME": "training", "$BUCKET": "operations"}) + "  metadataSyncPolicy: {interval: 1s}\n")
		p.runtime("training", 1, "1Gi")
		p.apply(followManifest)
		p.apply(fill(processManifest, map[string]string{"$NAME": "after", "$ARGS": `"copy", "--sha256", "/data/train/a.bin", "/data/train/deep/b.bin"`}))
		p.bound("training")
		p.fullyCached("training")

		p.apply(migrateManifest)
		dm := &datav1alpha1.DataMigrate{}
		dm.Namespace, dm.Name = p.namespace, "copy"
		p.operationEnds(dm, &dm.Status)
		if progress := dm.Status.Progress; progress == nil || progress.FilesDone != 2 || progress.BytesDone != 20<<20+10 {
			t.Errorf("the DataMigrate says of itself: %+v", progress)
		}
		p.processed("after", "/data/train", "train")

		// What was copied is seen at the source, and loaded by nobody's order.
		ds := p.seen("training")
		p.must(world.Until(p.ctx(), ds, func() (string, bool) { return "files: " + ds.Status.FileNum, ds.Status.FileNum == "4" }))
		p.fullyCached("training")
		dl := &datav1alpha1.DataLoad{}
		dl.Namespace, dl.Name = p.namespace, "follow"
		p.must(world.Until(p.ctx(), dl, func() (string, bool) {
			return fmt.Sprintf("runs %+v", dl.Status.Runs), len(dl.Status.Runs) > 1 && dl.Status.Runs[0].Phase == datav1alpha1.PhaseComplete
		}))
		p.apply(fill(processManifest, map[string]string{"$NAME": "later", "$ARGS": `"copy", "--sha256", "/data/copied/a.bin", "/data/copied/deep/b.bin"`}))
		p.processed("later", "/data/copied", "train")
	})
}
