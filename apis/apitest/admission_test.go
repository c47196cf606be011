package apitest_test

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/apitest"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }

// create dry-runs every object of a manifest, strictly: an unknown field fails.
func create(t *testing.T, manifest string) error {
	t.Helper()
	c := client.WithFieldValidation(apitest.Client(t), "Strict")
	docs := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096)
	for {
		obj := &unstructured.Unstructured{}
		if err := docs.Decode(obj); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			t.Fatal(err)
		}
		if obj.GetKind() != "CacheRuntimeClass" {
			obj.SetNamespace("default")
		}
		if err := c.Create(t.Context(), obj, client.DryRunAll); err != nil {
			return err
		}
	}
}

func dataset(mounts string) string {
	return "apiVersion: data.fluid.io/v1alpha1\nkind: Dataset\nmetadata: {name: d}\nspec:\n  mounts: [" + mounts + "]\n"
}

func runtimeWith(level string) string {
	return "apiVersion: data.fluid.io/v1alpha1\nkind: CacheRuntime\nmetadata: {name: r}\nspec: {runtimeClassName: millrace, worker: {replicas: 1, tieredStore: {levels: [" + level + "]}}}\n"
}

func alluxio(level string) string {
	return "apiVersion: data.fluid.io/v1alpha1\nkind: AlluxioRuntime\nmetadata: {name: r}\nspec: {replicas: 1, tieredstore: {levels: [" + level + "]}}\n"
}

func TestManifestsOfFluidsUsersAreTaken(t *testing.T) {
	for name, manifest := range map[string]string{
		"a Dataset without mounts, with a Secret, tolerations and node affinity": `
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata: {name: imagenet, annotations: {pvc.fluid.io/resources.requests.storage: 10Gi}}
spec:
  accessModes: [ReadWriteMany]
  placement: Shared
  owner: {uid: 1000, gid: 1000, user: fluid, group: fluid}
  sharedOptions: {a: b}
  sharedEncryptOptions: [{name: k, valueFrom: {secretKeyRef: {name: s, key: k}}}]
  tolerations: [{key: gpu, operator: Exists}]
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: In, values: [b]}]}]}}
  dataRestoreLocation: {path: "pvc://backup/sub", nodeName: n1}
  runtimes: [{name: r, namespace: default, category: Accelerate, type: alluxio}]
`,
		"several mounts with paths by name and by path": dataset(
			`{mountPoint: "https://mirrors.bit.edu.cn/apache/hbase/stable/", name: hbase}, {mountPoint: "pvc://claim/sub", path: /x/y}, {mountPoint: "dataset://ns/name/sub", name: ref}, {mountPoint: "local:///data", name: loc, readOnly: true, shared: true}`),
		"an AlluxioRuntime with what Fluid's samples use": `
apiVersion: data.fluid.io/v1alpha1
kind: AlluxioRuntime
metadata: {name: hbase}
spec:
  replicas: 2
  alluxioVersion: {image: registry/alluxio, imageTag: "2.9", imagePullPolicy: IfNotPresent}
  data: {replicas: 1, pin: true}
  jvmOptions: ["-Xmx4G"]
  properties: {alluxio.user.file.writetype.default: MUST_CACHE}
  master: {replicas: 3, jvmOptions: ["-Xmx4G"], resources: {limits: {cpu: 1}}, nodeSelector: {a: b}, networkMode: ContainerNetwork}
  jobMaster: {ports: {rpc: 1}}
  worker: {env: {A: b}, podMetadata: {labels: {tier: cache}}}
  fuse: {args: [fuse, "--fuse-opts=kernel_cache,ro"], cleanPolicy: OnDemand, global: true, nodeSelector: {a: b}, imagePullPolicy: Always}
  initUsers: {image: i, imageTag: t}
  runAs: {uid: 0, gid: 0, user: root, group: root}
  disablePrometheus: true
  hadoopConfig: hdfs
  management: {cleanCachePolicy: {gracePeriodSeconds: 60, maxRetryAttempts: 3}, metadataSyncPolicy: {autoSync: false}}
  tieredstore:
    levels:
      - {mediumtype: MEM, path: /dev/shm, quota: 2Gi, high: "0.95", low: "0.7"}
      - {mediumtype: SSD, volumeType: emptyDir, path: "/a,/b", quotaList: "1Gi,2Gi"}
`,
		"a DataLoad with everything": `
apiVersion: data.fluid.io/v1alpha1
kind: DataLoad
metadata: {name: load}
spec:
  dataset: {name: d, namespace: default}
  loadMetadata: true
  policy: Cron
  schedule: "0 * * * *"
  target: [{path: /a, replicas: 2}, {path: /b}]
  options: {timeout: 2h}
  runAfter: {kind: DataMigrate, name: m, namespace: default, affinityStrategy: {policy: Require}}
  ttlSecondsAfterFinished: 60
  podMetadata: {labels: {a: b}}
  schedulerName: s
  resources: {limits: {cpu: 1}}
`,
		"a CacheRuntimeClass with fields at the top": `
apiVersion: data.fluid.io/v1alpha1
kind: CacheRuntimeClass
metadata: {name: c}
fileSystemType: curvine
topology:
  master:
    options: {a: b}
    template: {spec: {containers: [{name: master, image: i}]}}
    service: {headless: {}}
    dependencies: {secretMount: {enabled: true}, extraResources: {configMaps: [{name: c, mountPath: /etc/x}]}}
    executionEntries: {mountUFS: {command: [mount], timeout: 30}, reportSummary: {command: [report]}}
extraResources: {configMaps: [{name: c, data: {k: v}}]}
dataOperationSpecs: [{name: DataLoad, image: i, command: [c], args: [a]}]
`,
		"levels of each kind": runtimeWith(`{processMemory: {quota: 1Gi}, high: "0.9", low: "0.5"}, {emptyDir: {quota: 1Gi, medium: Memory}}, {hostPath: {paths: [/a, /b], quotas: [1Gi, "100"], type: Directory}}`),
	} {
		t.Run(name, func(t *testing.T) {
			if err := create(t, manifest); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestBadManifestsAreTurnedAwayWithTheFieldAndTheRemedy(t *testing.T) {
	for name, tc := range map[string]struct {
		manifest string
		want     []string
	}{
		"unknown scheme":              {dataset(`{mountPoint: "ftpx://host", name: a}`), []string{"spec.mounts[0].mountPoint", "unknown scheme", "s3://bucket/prefix"}},
		"no scheme":                   {dataset(`{mountPoint: "/some/path", name: a}`), []string{"spec.mounts[0].mountPoint", "scheme"}},
		"short mount point":           {dataset(`{mountPoint: "s3:", name: a}`), []string{"spec.mounts[0].mountPoint"}},
		"two mounts on one path":      {dataset(`{mountPoint: "s3://a/b", path: /x}, {mountPoint: "s3://c/d", name: x}`), []string{"spec.mounts", "same path", "its own path"}},
		"two mounts on the root":      {dataset(`{mountPoint: "s3://a/b", path: /}, {mountPoint: "s3://c/d", path: /}`), []string{"same path"}},
		"a name that is no DNS label": {strings.Replace(dataset(`{mountPoint: "s3://a/b", name: a}`), "name: d", "name: 1.d", 1), []string{"metadata.name", "lower-case letters"}},
		"placement":                   {dataset(`{mountPoint: "s3://a/b", name: a}`) + "  placement: Somewhere\n", []string{"spec.placement", "Exclusive"}},
		"quota that is no quantity":   {runtimeWith(`{hostPath: {paths: [/a], quotas: [plenty]}}`), []string{"quotas"}},
		"two kinds in one level":      {runtimeWith(`{processMemory: {quota: 1Gi}, emptyDir: {quota: 1Gi}}`), []string{"levels[0]", "exactly one of"}},
		"no kind in a level":          {runtimeWith(`{high: "0.9"}`), []string{"exactly one of"}},
		"a path without quota":        {runtimeWith(`{hostPath: {paths: [/a, /b], quotas: [1Gi]}}`), []string{"hostPath", "one entry of quotas"}},
		"a relative path":             {runtimeWith(`{hostPath: {paths: [a], quotas: [1Gi]}}`), []string{"paths"}},
		"low above high":              {runtimeWith(`{processMemory: {quota: 1Gi}, high: "0.5", low: "0.9"}`), []string{"high must be larger than low"}},
		"high that is no fraction":    {runtimeWith(`{processMemory: {quota: 1Gi}, high: "95"}`), []string{"high"}},
		"negative replicas":           {strings.Replace(runtimeWith(""), "replicas: 1", "replicas: -1", 1), []string{"spec.worker.replicas"}},
		"alluxio quota":               {alluxio(`{mediumtype: MEM, path: /dev/shm, quota: much}`), []string{"quota"}},
		"alluxio without quota":       {alluxio(`{mediumtype: MEM, path: /dev/shm}`), []string{"quota, such as 2Gi"}},
		"alluxio quotaList":           {alluxio(`{mediumtype: MEM, path: /dev/shm, quotaList: "a,b"}`), []string{"quotaList"}},
		"alluxio medium":              {alluxio(`{mediumtype: TAPE, path: /dev/shm, quota: 1Gi}`), []string{"mediumtype"}},
		"cron without schedule":       {"apiVersion: data.fluid.io/v1alpha1\nkind: DataLoad\nmetadata: {name: l}\nspec: {dataset: {name: d}, policy: Cron}\n", []string{"schedule is needed"}},
		"an unknown field":            {dataset(`{mountPoint: "s3://a/b", name: a, mountpoint: x}`), []string{"mountpoint"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := create(t, tc.manifest)
			if err == nil {
				t.Fatal("was taken")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the message lacks %q: %v", want, err)
				}
			}
		})
	}
}

func TestTheClassOfARuntimeCannotChange(t *testing.T) {
	c := apitest.Client(t)
	obj := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "data.fluid.io/v1alpha1", "kind": "CacheRuntime",
		"metadata": map[string]any{"name": "fixed", "namespace": "default"},
		"spec":     map[string]any{"runtimeClassName": "millrace"},
	}}
	if err := c.Create(t.Context(), obj); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Delete(t.Context(), obj) })
	if err := unstructured.SetNestedField(obj.Object, "other", "spec", "runtimeClassName"); err != nil {
		t.Fatal(err)
	}
	if err := c.Update(t.Context(), obj); err == nil || !strings.Contains(err.Error(), "cannot change") {
		t.Errorf("error %v", err)
	}
}
