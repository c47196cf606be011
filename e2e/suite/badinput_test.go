package suite_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/e2e/stage"
)

// rejected applies a manifest that must be turned away with all the words.
func (p *place) rejected(manifest string, words ...string) {
	p.t.Helper()
	err := world.Apply(p.ctx(), p.namespace, manifest)
	if err == nil {
		p.t.Errorf("was let in:\n%s", manifest)
		return
	}
	if !containsAll(err.Error(), words) {
		p.t.Errorf("was turned away, but the message lacks one of %q: %v", words, err)
	}
}

func TestBadInputIsTurnedAwayAtAdmission(t *testing.T) {
	feature(t, "admission", "what can be seen at admission is refused there, with the field and the remedy", func(p *place) {
		dataset := fill(datasetManifest, map[string]string{"$NAME": "bad", "$BUCKET": "any-bucket"})
		p.rejected(strings.Replace(dataset, "s3://any-bucket", "ftpx", 1), "mountPoint")
		second := "\n    - {mountPoint: \"s3://other-bucket\", name: other, path: /}\n"
		p.rejected(strings.Replace(dataset, "  mounts:\n", "  mounts:"+second, 1), "mounts", "path")
		runtime := map[string]string{"$NAME": "bad", "$REPLICAS": "1", "$QUOTA": "plenty"}
		p.rejected(fill(runtimeManifest, runtime), "quota")
	})
}

// Fluid's users have schemes of engines that are not ours, so only the engine
// knows which it serves.
func TestASchemeThatTheEngineDoesNotServeIsTold(t *testing.T) {
	feature(t, "scheme", "a Dataset whose scheme the engine does not serve says so, and which it serves", func(p *place) {
		p.apply(`
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata: {name: data}
spec:
  mounts: [{mountPoint: "ftpx://host/files", name: data, path: /}]
`)
		p.runtime("data", 1, "1Gi")
		p.says("data", "Ready", metav1.ConditionFalse, "ftpx", "hdfs")
	})
}

func TestMissingSecretIsNamedAndRecovers(t *testing.T) {
	feature(t, "nosecret", "a missing Secret, then a missing key, are named; with both there the Dataset binds", func(p *place) {
		p.bucket("nosecret", stage.Object{Name: "a", Size: 10})
		p.apply(fill(datasetManifest, map[string]string{"$NAME": "data", "$BUCKET": "nosecret"}))
		p.runtime("data", 1, "1Gi")
		p.says("data", "Ready", metav1.ConditionFalse, "keys")
		p.apply(strings.Replace(secretManifest, ", secret: only-for-the-demo", "", 1))
		p.says("data", "Ready", metav1.ConditionFalse, "keys", "secret")
		p.apply(secretManifest)
		p.bound("data")
	})
}

func TestWrongCredentialsAndMissingBucketAreTold(t *testing.T) {
	feature(t, "denied", "the source's own answer reaches the Dataset's condition", func(p *place) {
		p.apply(strings.Replace(secretManifest, "only-for-the-demo", "not-the-key", 1))
		p.bucket("denied", stage.Object{Name: "a", Size: 10})
		p.apply(fill(datasetManifest, map[string]string{"$NAME": "wrong", "$BUCKET": "denied"}))
		p.runtime("wrong", 1, "1Gi")
		p.says("wrong", "Ready", metav1.ConditionFalse, "SourceDenied", "s3://denied")
		p.apply(strings.ReplaceAll(fill(datasetManifest, map[string]string{"$NAME": "nowhere", "$BUCKET": "no-such-bucket"}), "name: keys,", "name: good,"))
		p.apply(strings.Replace(secretManifest, "name: keys", "name: good", 1))
		p.runtime("nowhere", 1, "1Gi")
		p.says("nowhere", "Ready", metav1.ConditionFalse, "SourceNotFound", "s3://no-such-bucket")
	})
}

func TestMissingPVCIsNamed(t *testing.T) {
	feature(t, "nopvc", "a pvc:// source whose claim does not exist is named", func(p *place) {
		p.apply(`
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata: {name: data}
spec:
  mounts: [{mountPoint: "pvc://not-there", name: data, path: /}]
`)
		p.runtime("data", 1, "1Gi")
		p.says("data", "Ready", metav1.ConditionFalse, "not-there")
	})
}

func TestSourceDownAtStartComesBack(t *testing.T) {
	feature(t, "down", "a source that is down is told of, and the Dataset binds by itself when it is back", func(p *place) {
		p.bucket("down", stage.Object{Name: "a", Size: 1000})
		p.apply(`
apiVersion: v1
kind: Service
metadata: {name: s3}
spec: {selector: {app: nobody}, ports: [{port: 9000}]}
`)
		p.apply(secretManifest)
		manifest := strings.ReplaceAll(fill(datasetManifest, map[string]string{"$NAME": "data", "$BUCKET": "down"}), "s3.storage.svc", "s3.down.svc")
		p.apply(manifest)
		p.runtime("data", 1, "1Gi")
		p.says("data", "Ready", metav1.ConditionFalse, "SourceUnavailable", "s3://down")
		address := strings.TrimSuffix(strings.TrimPrefix(bucketServer.Endpoint, "http://"), ":9000")
		p.apply(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: s3}
spec: {ports: [{port: 9000}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s3-back, labels: {kubernetes.io/service-name: s3}}
addressType: IPv4
ports: [{port: 9000, protocol: TCP}]
endpoints: [{addresses: [%s], conditions: {ready: true}}]
`, address))
		p.bound("data")
		p.reader("read", "data", "copy", "--sha256", "/data/a")
		p.reads("read")
	})
}

func TestHalvesWithoutTheirOther(t *testing.T) {
	feature(t, "halves", "a Dataset without a runtime and a runtime without a Dataset say what they wait for", func(p *place) {
		p.dataset("alone", "any-bucket")
		p.says("alone", "Ready", metav1.ConditionFalse, "untime")
		p.runtime("single", 1, "1Gi")
		rt := &datav1alpha1.CacheRuntime{}
		rt.Namespace, rt.Name = p.namespace, "single"
		p.must(world.Until(p.ctx(), rt, func() (string, bool) {
			text := fmt.Sprintf("%+v", rt.Status.Conditions)
			return text, containsAll(text, []string{"Dataset", "single"})
		}))
	})
}

func TestQuotaLargerThanTheDisk(t *testing.T) {
	feature(t, "bigquota", "a quota larger than the disk is cut to it and said, and reads go on", func(p *place) {
		p.bucket("bigquota", stage.Object{Name: "a", Size: 1000})
		p.dataset("data", "bigquota")
		p.runtime("data", 1, "100Ti")
		p.bound("data")
		rt := &datav1alpha1.CacheRuntime{}
		rt.Namespace, rt.Name = p.namespace, "data"
		p.must(world.Until(p.ctx(), rt, func() (string, bool) {
			text := fmt.Sprintf("%+v", rt.Status.Conditions)
			return text, containsAll(text, []string{"quota"})
		}))
		p.reader("read", "data", "copy", "--sha256", "/data/a")
		p.reads("read")
	})
}

func TestDataLoadsThatCannotWork(t *testing.T) {
	feature(t, "badload", "a DataLoad for a missing Dataset, an unbound one, a missing path and too small a cache", func(p *place) {
		p.load("missing", "nobody", "/")
		p.loadSays("missing", "nobody")
		p.eventSays("DataLoad", "missing", "TargetDatasetNotFound", "nobody")
		p.dataset("unbound", "badload")
		p.load("early", "unbound", "/")
		p.loadSays("early", "unbound")

		p.bucket("badload", stage.Object{Name: "a", Size: 1000}, stage.Object{Name: "big", Size: 96 << 20})
		p.runtime("unbound", 1, "64Mi")
		p.bound("unbound")
		p.load("nopath", "unbound", "/not/there")
		if dl := p.loadEnds("nopath"); dl.Status.Phase != datav1alpha1.PhaseFailed || !strings.Contains(fmt.Sprint(dl.Status.Conditions), "/not/there") {
			t.Errorf("a missing path ended %s: %+v", dl.Status.Phase, dl.Status.Conditions)
		}
		if dl := p.loadEnds("early"); dl.Status.Phase != datav1alpha1.PhaseFailed || !strings.Contains(fmt.Sprint(dl.Status.Conditions), "cached") {
			t.Errorf("a load of 96 MiB into a quota of 64 MiB ended %s: %+v", dl.Status.Phase, dl.Status.Conditions)
		}
		p.reader("read", "unbound", "copy", "--sha256", "/data/a", "/data/big")
		p.reads("read")
	})
}

func (p *place) loadSays(name string, words ...string) {
	p.t.Helper()
	dl := &datav1alpha1.DataLoad{}
	dl.Namespace, dl.Name = p.namespace, name
	p.must(world.Until(p.ctx(), dl, func() (string, bool) {
		text := fmt.Sprintf("phase %q, conditions %+v", dl.Status.Phase, dl.Status.Conditions)
		return text, containsAll(text, words)
	}))
}

func TestForeignPVCIsNeverAdopted(t *testing.T) {
	feature(t, "foreign", "a PVC of somebody else with the Dataset's name is named, kept and not used", func(p *place) {
		p.bucket("foreign", stage.Object{Name: "a", Size: 10})
		foreign := `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, labels: {owner: somebody}}
spec: {accessModes: [ReadWriteOnce], storageClassName: other, resources: {requests: {storage: 1Gi}}}
`
		p.apply(foreign)
		p.dataset("data", "foreign")
		p.runtime("data", 1, "1Gi")
		p.says("data", "Ready", metav1.ConditionFalse, "data", "PersistentVolumeClaim")
		p.must(world.Delete(p.ctx(), p.seen("data")))
		p.must(world.Gone(p.ctx(), p.seen("data")))
		pvc := &corev1.PersistentVolumeClaim{}
		pvc.Namespace, pvc.Name = p.namespace, "data"
		p.must(world.Get(p.ctx(), client.ObjectKeyFromObject(pvc), pvc))
		if !pvc.DeletionTimestamp.IsZero() || pvc.Labels["owner"] != "somebody" || len(pvc.Annotations["CreatedBy"]) > 0 {
			p.t.Errorf("the foreign claim was touched: %+v", pvc.ObjectMeta)
		}
	})
}

func TestLabelledPodWithAnUnboundDatasetIsRejected(t *testing.T) {
	feature(t, "unbound", "a pod that asks for a sidecar of an unbound Dataset is refused and told why", func(p *place) {
		p.dataset("data", "any-bucket")
		pod := fill(readerManifest, map[string]string{"$NAME": "app", "$DATASET": "data", "$ARGS": "wait"})
		p.rejected(strings.Replace(pod, "metadata: {name: app}", `metadata: {name: app, labels: {serverless.fluid.io/inject: "true"}}`, 1), "data", "ound")
	})
}
