package suite_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/e2e/scene"
	"github.com/millrace/millrace/e2e/stage"
)

// place is a namespace of one test.
type place struct {
	t         *testing.T
	namespace string
}

// newPlace makes a namespace and removes it, with all that is in it, at the end.
func newPlace(t *testing.T, name string) *place {
	t.Helper()
	p := &place{t: t, namespace: name}
	p.must(world.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if t.Failed() {
			p.dump(ctx)
		}
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if err := client.IgnoreNotFound(world.Delete(ctx, ns)); err != nil {
			t.Errorf("delete namespace %s: %v", name, err)
		}
		if err := world.Gone(ctx, ns); err != nil {
			t.Errorf("deletion does not end: %v", err)
			p.dump(ctx)
		}
	})
	return p
}

// dump shows what kubectl would show, for a failure's log.
func (p *place) dump(ctx context.Context) {
	for _, args := range [][]string{
		{"get", "datasets,cacheruntimes,alluxioruntimes,dataloads,datamigrates,dataprocesses,localityslices,jobs,pods,pvc", "-o", "wide", "-n", p.namespace},
		{"get", "datasets,dataloads,datamigrates,dataprocesses", "-o", "yaml", "-n", p.namespace},
		{"get", "events", "-n", p.namespace, "--sort-by=.lastTimestamp"},
		{"logs", "-n", p.namespace, "-l", "cacheruntime.fluid.io/name", "--tail=30", "--prefix", "--all-containers"},
		{"logs", "-n", "fluid-system", "-l", "app=millrace-manager", "--tail=40"},
	} {
		out, err := world.Kubectl(ctx, args...)
		if err != nil {
			out += err.Error()
		}
		p.t.Logf("kubectl %s\n%s", strings.Join(args, " "), out)
	}
}

func (p *place) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) ctx() context.Context {
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	p.t.Cleanup(cancel)
	return ctx
}

func (p *place) apply(manifest string) {
	p.t.Helper()
	p.must(world.Apply(p.ctx(), p.namespace, manifest))
}

// bucket seeds a bucket of its own.
func (p *place) bucket(name string, objects ...stage.Object) {
	p.t.Helper()
	to := bucketServer
	to.Bucket = name
	p.must(stage.Seed(p.ctx(), to, objects))
}

const (
	secretManifest = `
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {access: millrace-demo, secret: only-for-the-demo}
`
	datasetManifest = `
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata: {name: $NAME}
spec:
  mounts:
    - mountPoint: s3://$BUCKET
      name: $BUCKET
      path: /
      options: {alluxio.underfs.s3.endpoint: "http://s3.storage.svc:9000", alluxio.underfs.s3.disable.dns.buckets: "true"}
      encryptOptions:
        - {name: aws.accessKeyId, valueFrom: {secretKeyRef: {name: keys, key: access}}}
        - {name: aws.secretKey, valueFrom: {secretKeyRef: {name: keys, key: secret}}}
`
	runtimeManifest = `
apiVersion: data.fluid.io/v1alpha1
kind: CacheRuntime
metadata: {name: $NAME}
spec:
  runtimeClassName: millrace
  worker:
    replicas: $REPLICAS
    tieredStore:
      levels:
        - {hostPath: {paths: [/var/lib/millrace-cache], quotas: [$QUOTA], type: DirectoryOrCreate}, high: "0.95", low: "0.8"}
`
	loadManifest = `
apiVersion: data.fluid.io/v1alpha1
kind: DataLoad
metadata: {name: $NAME}
spec:
  dataset: {name: $DATASET, namespace: $NAMESPACE}
  target: [{path: $PATH}]
`
	readerManifest = `
apiVersion: v1
kind: Pod
metadata: {name: $NAME}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
    - name: read
      image: docker.io/local/stage:dev
      imagePullPolicy: IfNotPresent
      args: [$ARGS]
      volumeMounts: [{name: data, mountPath: /data, readOnly: true}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: $DATASET, readOnly: true}}]
`
)

// withSidecar is the manifest of a pod that asks for one.
func withSidecar(manifest string) string {
	return strings.Replace(manifest, "{name: $NAME}", `{name: $NAME, labels: {serverless.fluid.io/inject: "true"}}`, 1)
}

func fill(manifest string, pairs map[string]string) string {
	all := map[string]string{"$QUOTA": "1Gi", "$REPLICAS": "2", "$PATH": "/"}
	maps.Copy(all, pairs)
	// $NAMESPACE before $NAME, which is its prefix.
	out := strings.ReplaceAll(manifest, "$NAMESPACE", all["$NAMESPACE"])
	for k, v := range all {
		if k != "$NAMESPACE" {
			out = strings.ReplaceAll(out, k, v)
		}
	}
	return out
}

func (p *place) dataset(name, bucket string) {
	p.t.Helper()
	p.apply(secretManifest)
	p.apply(fill(datasetManifest, map[string]string{"$NAME": name, "$BUCKET": bucket}))
}

func (p *place) runtime(name string, replicas int, quota string) {
	p.t.Helper()
	p.apply(fill(runtimeManifest, map[string]string{"$NAME": name, "$REPLICAS": fmt.Sprint(replicas), "$QUOTA": quota}))
}

func (p *place) load(name, dataset, path string) {
	p.t.Helper()
	p.apply(fill(loadManifest, map[string]string{"$NAME": name, "$DATASET": dataset, "$PATH": path, "$NAMESPACE": p.namespace}))
}

func (p *place) reader(name, dataset string, args ...string) {
	p.t.Helper()
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = fmt.Sprintf("%q", a)
	}
	p.apply(fill(readerManifest, map[string]string{"$NAME": name, "$DATASET": dataset, "$ARGS": strings.Join(quoted, ", ")}))
}

func (p *place) seen(name string) *datav1alpha1.Dataset {
	ds := &datav1alpha1.Dataset{}
	ds.Namespace, ds.Name = p.namespace, name
	return ds
}

func (p *place) bound(name string) *datav1alpha1.Dataset {
	p.t.Helper()
	ds := p.seen(name)
	p.must(world.Until(p.ctx(), ds, func() (string, bool) {
		return fmt.Sprintf("phase %q, conditions %+v", ds.Status.Phase, ds.Status.Conditions), ds.Status.Phase == datav1alpha1.BoundDatasetPhase
	}))
	return ds
}

// loadEnds waits for a DataLoad and gives its last state.
func (p *place) loadEnds(name string) *datav1alpha1.DataLoad {
	p.t.Helper()
	dl := &datav1alpha1.DataLoad{}
	dl.Namespace, dl.Name = p.namespace, name
	p.must(world.Until(p.ctx(), dl, func() (string, bool) {
		return fmt.Sprintf("phase %q, conditions %+v", dl.Status.Phase, dl.Status.Conditions),
			dl.Status.Phase == datav1alpha1.PhaseComplete || dl.Status.Phase == datav1alpha1.PhaseFailed
	}))
	return dl
}

func (p *place) fullyCached(name string) {
	p.t.Helper()
	ds := p.seen(name)
	p.must(world.Until(p.ctx(), ds, func() (string, bool) {
		c := ds.Status.CacheStates
		return fmt.Sprintf("ufsTotal %s, cached %s, %s", ds.Status.UfsTotal, c["cached"], c["cachedPercentage"]),
			c["cachedPercentage"] == "100.0%" && ds.Status.UfsTotal == c["cached"]
	}))
}

// says waits until a condition of the Dataset carries all the words.
func (p *place) says(name, condition string, status metav1.ConditionStatus, words ...string) {
	p.t.Helper()
	ds := p.seen(name)
	p.must(world.Until(p.ctx(), ds, func() (string, bool) {
		text := fmt.Sprintf("%+v", ds.Status.Conditions)
		for _, c := range ds.Status.Conditions {
			if c.Type == condition && c.Status == status && containsAll(c.Reason+" "+c.Message, words) {
				return text, true
			}
		}
		return text, false
	}))
}

func containsAll(text string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

// reads waits for a reader pod and checks every digest it printed.
func (p *place) reads(name string) (node string) {
	p.t.Helper()
	log, node, err := world.PodEnds(p.ctx(), p.namespace, name)
	p.must(err)
	copies, err := scene.Copies(log)
	p.must(err)
	if len(copies) == 0 {
		p.t.Fatalf("pod %s read nothing", name)
	}
	for _, c := range copies {
		if want := stage.Digest(strings.TrimPrefix(c.Path, "/data/"), c.Bytes); c.SHA256 != want {
			p.t.Errorf("pod %s read wrong bytes of %s: sha256 %s, want %s", name, c.Path, c.SHA256, want)
		}
	}
	return node
}

// pods lists the pods of the namespace whose name starts with prefix.
func (p *place) pods(prefix string) []corev1.Pod {
	p.t.Helper()
	list := &corev1.PodList{}
	p.must(world.List(p.ctx(), list, client.InNamespace(p.namespace)))
	var out []corev1.Pod
	for _, pod := range list.Items {
		if strings.HasPrefix(pod.Name, prefix) {
			out = append(out, pod)
		}
	}
	return out
}

// kill ends a pod at once, without a farewell.
func (p *place) kill(pod corev1.Pod) {
	p.t.Helper()
	p.must(world.Delete(p.ctx(), &pod, client.GracePeriodSeconds(0)))
}
