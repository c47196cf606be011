package apitest_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	for _, obj := range objects(t, manifest) {
		if err := c.Create(t.Context(), obj, client.DryRunAll); err != nil {
			return err
		}
	}
	return nil
}

func objects(t *testing.T, manifest string) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	for docs := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096); ; {
		obj := &unstructured.Unstructured{}
		if err := docs.Decode(obj); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		if obj.GetKind() != "CacheRuntimeClass" && obj.GetKind() != "ThinRuntimeProfile" {
			obj.SetNamespace("default")
		}
		out = append(out, obj)
	}
}

const header = "apiVersion: data.fluid.io/v1alpha1\nkind: "

func dataset(mounts string) string {
	return header + "Dataset\nmetadata: {name: d}\nspec:\n  mounts: [" + mounts + "]\n"
}

func runtimeWith(level string) string {
	return header + "CacheRuntime\nmetadata: {name: r}\nspec: {runtimeClassName: millrace, worker: {replicas: 1, tieredStore: {levels: [" + level + "]}}}\n"
}

func alluxio(level string) string {
	return header + "AlluxioRuntime\nmetadata: {name: r}\nspec: {replicas: 1, tieredstore: {levels: [" + level + "]}}\n"
}

func dataload(spec string) string {
	return header + "DataLoad\nmetadata: {name: l}\nspec: {" + spec + "}\n"
}

func class(master string) string {
	return header + "CacheRuntimeClass\nmetadata: {name: c}\nfileSystemType: demofs\ntopology: {master: {" + master + "}}\n"
}

func named(manifest, name string) string {
	head, rest, _ := strings.Cut(manifest, "{name: ")
	_, rest, _ = strings.Cut(rest, "}")
	return head + "{name: " + name + "}" + rest
}

func TestManifestsOfFluidsUsersAreTaken(t *testing.T) {
	for name, manifest := range map[string]string{
		"a Dataset without mounts":                        header + "Dataset\nmetadata: {name: vineyard}\nspec: {}\n",
		"a mount of each scheme of a Fluid guide":         dataset(`{mountPoint: "oss://b/x", name: a}, {mountPoint: "cosn://b", name: b}, {mountPoint: "juicefs:///", name: c}, {mountPoint: "gs://b", name: d}, {mountPoint: "obs://b", name: e}, {mountPoint: "hdfs://ha/x", name: f}, {mountPoint: "abfss://c@a.dfs.core.windows.net/x", name: g}, {mountPoint: "nfs://host/x", name: h}`),
		"several mounts with paths by name and by path":   dataset(`{mountPoint: "https://mirrors.example.org/apache/hbase/stable/", name: hbase}, {mountPoint: "pvc://claim/sub", path: /x/y}, {mountPoint: "dataset://ns/name/sub", name: ref}, {mountPoint: "local:///data", name: loc, readOnly: true, shared: true}`),
		"sources that only a ThinRuntime's FUSE can read": dataset(`{mountPoint: "10.0.0.1:/export", name: a}, {mountPoint: "demofs:///", name: b}, {mountPoint: "10.0.0.1@tcp:/fs", name: c}`),
		"a root and a mount below it":                     dataset(`{mountPoint: "s3://a", path: /}, {mountPoint: "s3://b", path: /b}`),
		"an encryptOption without key":                    dataset(`{mountPoint: "s3://a", encryptOptions: [{name: token, valueFrom: {secretKeyRef: {name: s}}}]}`),
		"a Dataset that is looked at by the hour":         dataset(`{mountPoint: "s3://a"}`) + "  metadataSyncPolicy: {autoSync: true, interval: 1h30m}\n",
		"a Dataset with a name of 63 characters":          named(dataset(`{mountPoint: "s3://a"}`), strings.Repeat("x", 63)),
		"levels of each kind":                             runtimeWith(`{processMemory: {quota: 1Gi}, high: "0.9", low: "0.5"}, {emptyDir: {quota: 1Gi, medium: Memory}}, {hostPath: {paths: [/a, /b], quotas: [1Gi, "100"], type: Directory}}`),
		"quotas as numbers, and none":                     runtimeWith(`{processMemory: {quota: 1073741824}}, {emptyDir: {quota: 0}}, {hostPath: {paths: [/a], quotas: [1000]}}`),
		"marks in several spellings":                      runtimeWith(`{processMemory: {quota: 1Gi}, high: ".95", low: "0"}, {processMemory: {quota: 1Gi}, high: "1.0", low: ""}`),
		"Alluxio levels with lists":                       alluxio(`{mediumtype: SSD, volumeType: hostPath, path: "/a,/b", quotaList: "1.5Gi, 2e9"}`),
		"an Alluxio level on a volume of its own":         alluxio(`{mediumtype: SSD, volumeType: emptyDir, path: /a, quota: 1Gi, volumeSource: {emptyDir: {medium: "", sizeLimit: 2Gi}}}`),
		"a DataLoad by the hour":                          dataload(`dataset: {name: d}, policy: Cron, schedule: "@hourly"`),
		"a DataLoad with all options of the engine":       dataload(`dataset: {name: d}, options: {bandwidth: 100Mi, parallelism: "4096", priority: "-1000", keep: pin}`),
		"a DataLoad with options of other engines":        dataload(`dataset: {name: d}, options: {threads: "50", atomicCache: "true"}`),
		"a DataLoad that starts with a digit":             named(dataload(`dataset: {name: d}`), "1-load"),
		"a DataLoad of a Dataset in another namespace":    dataload(`dataset: {name: d, namespace: elsewhere}`),
		"a class that names its workloads":                class(`workloadType: {apiVersion: apps/v1, kind: StatefulSet}, dependencies: {encryptOption: {}}, template: {metadata: {labels: {a: b}, annotations: {c: d}}, spec: {containers: [{name: m, ports: [{containerPort: 1}]}]}}`),
	} {
		t.Run(name, func(t *testing.T) {
			if err := create(t, manifest); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTheManifestsOfTheTypesAreTaken(t *testing.T) {
	files, err := filepath.Glob("../data/v1alpha1/testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no manifests", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := create(t, string(text)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWhatIsLeftOutIsFilledInAsFluidDoes(t *testing.T) {
	c := apitest.Client(t)
	for name, tc := range map[string]struct {
		manifest string
		want     any
		path     []string
	}{
		"a worker":          {header + "CacheRuntime\nmetadata: {name: r}\nspec: {runtimeClassName: c, worker: {}}\n", int64(1), []string{"spec", "worker", "replicas"}},
		"a worker at zero":  {header + "CacheRuntime\nmetadata: {name: r}\nspec: {runtimeClassName: c, worker: {replicas: 0}}\n", int64(0), []string{"spec", "worker", "replicas"}},
		"a master":          {header + "CacheRuntime\nmetadata: {name: r}\nspec: {runtimeClassName: c, master: {}}\n", int64(1), []string{"spec", "master", "replicas"}},
		"a DataLoad's turn": {dataload("dataset: {name: d}"), "Once", []string{"spec", "policy"}},
	} {
		t.Run(name, func(t *testing.T) {
			obj := objects(t, tc.manifest)[0]
			if err := c.Create(t.Context(), obj, client.DryRunAll); err != nil {
				t.Fatal(err)
			}
			if got, _, _ := unstructured.NestedFieldNoCopy(obj.Object, tc.path...); got != tc.want {
				t.Errorf("%s is %v, want %v", strings.Join(tc.path, "."), got, tc.want)
			}
		})
	}
}

const (
	samePath     = "two mounts have the same path: give each of spec.mounts its own path, or its own name"
	oneKind      = "a level of tieredStore needs exactly one of processMemory, emptyDir and hostPath"
	highAboveLow = "high must be larger than low: eviction starts at high and stops at low"
	quota        = "quota must be a quantity of bytes, such as 2Gi"
	quotas       = "quotas must be quantities of bytes, such as 100Gi, one for each of paths"
	quotaList    = "quotaList must be quantities of bytes with commas between, such as 100Gi,50Gi"
	cron         = "schedule is not one of cron: give five fields such as '0 * * * *', or a name such as @hourly"
	datasetName  = "metadata.name must be a DNS label: use at most 63 lower-case letters, digits and '-', starting with a letter"
	runtimeName  = "metadata.name names Services and StatefulSets too: use at most 45 lower-case letters, digits and '-', starting with a letter"
)

func TestBadManifestsAreTurnedAwayWithTheFieldAndTheRemedy(t *testing.T) {
	const level = "spec.worker.tieredStore.levels[0]"
	const tier = "spec.tieredstore.levels[0]"
	for name, tc := range map[string]struct{ manifest, field, message string }{
		"short mount point":             {dataset(`{mountPoint: "s3:", name: a}`), "spec.mounts[0].mountPoint", "should be at least 5 chars long"},
		"a claim without a name":        {dataset(`{mountPoint: "pvc:///sub", name: a}`), "spec.mounts[0].mountPoint", "mountPoint names no claim: write it as pvc://claim or pvc://claim/sub"},
		"a Dataset without a namespace": {dataset(`{mountPoint: "dataset://name", name: a}`), "spec.mounts[0].mountPoint", "mountPoint names no Dataset: write it as dataset://namespace/name or dataset://namespace/name/sub"},
		"two mounts on one path":        {dataset(`{mountPoint: "s3://a/b", path: /x}, {mountPoint: "s3://c/d", name: x}`), "spec.mounts", samePath},
		"two spellings of one path":     {dataset(`{mountPoint: "s3://a/b", path: /x/}, {mountPoint: "s3://c/d", path: /x}`), "spec.mounts", samePath},
		"a relative path and a name":    {dataset(`{mountPoint: "s3://a/b", path: rel, name: x}, {mountPoint: "s3://c/d", path: /x}`), "spec.mounts", samePath},
		"two mounts on the root":        {dataset(`{mountPoint: "s3://a/b", path: /}, {mountPoint: "s3://c/d", path: /}`), "spec.mounts", samePath},
		"two mounts without a name":     {dataset(`{mountPoint: "s3://a/b"}, {mountPoint: "s3://c/d"}`), "spec.mounts", samePath},
		"an encryptOption without name": {dataset(`{mountPoint: "s3://a", encryptOptions: [{valueFrom: {secretKeyRef: {name: s, key: k}}}]}`), "spec.mounts[0].encryptOptions[0].name", "Required value"},
		"a secret without name":         {dataset(`{mountPoint: "s3://a", encryptOptions: [{name: token, valueFrom: {secretKeyRef: {key: k}}}]}`), "spec.mounts[0].encryptOptions[0].valueFrom.secretKeyRef.name", "Required value"},
		"a look too often":              {dataset(`{mountPoint: "s3://a/b", name: a}`) + "  metadataSyncPolicy: {interval: 10ms}\n", "spec.metadataSyncPolicy.interval", "interval must be 1s to 8760h: write it as 30s, 10m or 12h"},
		"an interval in words":          {dataset(`{mountPoint: "s3://a/b", name: a}`) + "  metadataSyncPolicy: {interval: daily}\n", "spec.metadataSyncPolicy.interval", "interval must be 1s to 8760h: write it as 30s, 10m or 12h"},
		"placement":                     {dataset(`{mountPoint: "s3://a/b", name: a}`) + "  placement: Somewhere\n", "spec.placement", `supported values: "Exclusive", "", "Shared"`},
		"a Dataset with a dot":          {named(dataset(`{mountPoint: "s3://a/b"}`), "a.d"), "", datasetName},
		"a Dataset with a digit first":  {named(dataset(`{mountPoint: "s3://a/b"}`), "1d"), "", datasetName},
		"a Dataset with a long name":    {named(dataset(`{mountPoint: "s3://a/b"}`), strings.Repeat("x", 64)), "", datasetName},
		"a runtime with a long name":    {named(runtimeWith(""), strings.Repeat("x", 46)), "", runtimeName},
		"an Alluxio with a long name":   {named(alluxio(""), strings.Repeat("x", 46)), "", runtimeName},
		"quota in letters":              {runtimeWith(`{processMemory: {quota: plenty}}`), level + ".processMemory.quota", quota},
		"quota in GB":                   {runtimeWith(`{emptyDir: {quota: 2GB}}`), level + ".emptyDir.quota", quota},
		"negative quota":                {runtimeWith(`{emptyDir: {quota: -1Gi}}`), level + ".emptyDir.quota", quota},
		"negative quota as a number":    {runtimeWith(`{emptyDir: {quota: -1}}`), level + ".emptyDir.quota", quota},
		"quotas in letters":             {runtimeWith(`{hostPath: {paths: [/a], quotas: [plenty]}}`), level + ".hostPath.quotas", quotas},
		"negative quotas":               {runtimeWith(`{hostPath: {paths: [/a], quotas: [-1Gi]}}`), level + ".hostPath.quotas", quotas},
		"two kinds in one level":        {runtimeWith(`{processMemory: {quota: 1Gi}, emptyDir: {quota: 1Gi}}`), level, oneKind},
		"no kind in a level":            {runtimeWith(`{high: "0.9"}`), level, oneKind},
		"a path without quota":          {runtimeWith(`{hostPath: {paths: [/a, /b], quotas: [1Gi]}}`), level + ".hostPath", "hostPath needs one entry of quotas for each of paths"},
		"a relative path":               {runtimeWith(`{hostPath: {paths: [a], quotas: [1Gi]}}`), level + ".hostPath.paths[0]", "should match '^/.+'"},
		"low above high":                {runtimeWith(`{processMemory: {quota: 1Gi}, high: "0.5", low: "0.9"}`), level, highAboveLow},
		"low equal to high":             {runtimeWith(`{processMemory: {quota: 1Gi}, high: "0.5", low: "0.50"}`), level, highAboveLow},
		"high that is no fraction":      {runtimeWith(`{processMemory: {quota: 1Gi}, high: "95"}`), level + ".high", `should match '^((0?\.[0-9]+|0|1|1\.0+)?)$'`},
		"negative replicas":             {strings.Replace(runtimeWith(""), "replicas: 1", "replicas: -1", 1), "spec.worker.replicas", "should be greater than or equal to 0"},
		"no class":                      {header + "CacheRuntime\nmetadata: {name: r}\nspec: {}\n", "spec.runtimeClassName", "Required value"},
		"alluxio replicas":              {strings.Replace(alluxio(""), "replicas: 1", "replicas: -1", 1), "spec.replicas", "should be greater than or equal to 0"},
		"alluxio quota":                 {alluxio(`{mediumtype: MEM, path: /dev/shm, quota: much}`), tier + ".quota", quota},
		"alluxio without quota":         {alluxio(`{mediumtype: MEM, path: /dev/shm}`), tier, "a level of tieredstore needs quota, such as 2Gi, or quotaList with one quantity for each path"},
		"alluxio quotaList":             {alluxio(`{mediumtype: MEM, path: "/a,/b", quotaList: "a,b"}`), tier + ".quotaList", quotaList},
		"alluxio quotaList in GB":       {alluxio(`{mediumtype: MEM, path: "/a,/b", quotaList: "1Gi,2GB"}`), tier + ".quotaList", quotaList},
		"alluxio short quotaList":       {alluxio(`{mediumtype: MEM, path: "/a,/b", quotaList: "1Gi"}`), tier, "quotaList needs one quantity for each of the paths in path"},
		"alluxio marks":                 {alluxio(`{mediumtype: MEM, path: /a, quota: 1Gi, high: "0.7", low: "0.9"}`), tier, highAboveLow},
		"alluxio medium":                {alluxio(`{mediumtype: TAPE, path: /dev/shm, quota: 1Gi}`), tier + ".mediumtype", `supported values: "MEM", "SSD", "HDD"`},
		"a DataLoad of nothing":         {dataload(`loadMetadata: true`), "spec.dataset", "Required value"},
		"cron without schedule":         {dataload(`dataset: {name: d}, policy: Cron`), "spec", "schedule is needed with policy Cron: give five fields such as '0 * * * *'"},
		"cron of four fields":           {dataload(`dataset: {name: d}, policy: Cron, schedule: "0 * * *"`), "spec", cron},
		"a bandwidth without a unit":    {dataload(`dataset: {name: d}, options: {bandwidth: "100"}`), "spec.options", "bandwidth is bytes per second with M, Mi, G, Gi, T or Ti: give a value such as 100Mi"},
		"a bandwidth that is too small": {dataload(`dataset: {name: d}, options: {bandwidth: 100Ki}`), "spec.options", "bandwidth is bytes per second with M, Mi, G, Gi, T or Ti: give a value such as 100Mi"},
		"parallelism of nothing":        {dataload(`dataset: {name: d}, options: {parallelism: "0"}`), "spec.options", "parallelism is how many blocks are read at once: give a whole number from 1 to 4096"},
		"too much parallelism":          {dataload(`dataset: {name: d}, options: {parallelism: "4097"}`), "spec.options", "parallelism is how many blocks are read at once: give a whole number from 1 to 4096"},
		"a priority in words":           {dataload(`dataset: {name: d}, options: {priority: high}`), "spec.options", "priority orders the loads of a Dataset: give a whole number from -1000 to 1000, higher goes first"},
		"keep for ever":                 {dataload(`dataset: {name: d}, options: {keep: forever}`), "spec.options", "keep is what becomes of the targets beside or instead of loading: give pin, unpin or free"},
		"an unknown policy":             {dataload(`dataset: {name: d}, policy: Often`), "spec.policy", `supported values: "Once", "Cron", "OnEvent", ""`},
		"an unknown operation":          {header + "CacheRuntimeClass\nmetadata: {name: c}\nfileSystemType: x\ndataOperationSpecs: [{name: DataDelete}]\n", "dataOperationSpecs[0].name", `supported values: "DataLoad", "DataBackup", "DataMigrate", "DataProcess"`},
	} {
		t.Run(name, func(t *testing.T) {
			err := create(t, tc.manifest)
			if err == nil {
				t.Fatal("was taken")
			}
			var status *apierrors.StatusError
			if !errors.As(err, &status) || status.ErrStatus.Details == nil {
				t.Fatal(err)
			}
			told := slices.ContainsFunc(status.ErrStatus.Details.Causes, func(c metav1.StatusCause) bool {
				return (c.Field == tc.field || tc.field == "" && c.Field == "<nil>") && strings.HasSuffix(c.Message, tc.message)
			})
			if !told {
				t.Errorf("nothing says of %q %q:\n%v", tc.field, tc.message, err)
			}
		})
	}
}

func TestAnUnknownFieldIsNamed(t *testing.T) {
	err := create(t, dataset(`{mountPoint: "s3://a/b", name: a, mountpoint: x}`))
	if err == nil || !strings.Contains(err.Error(), `unknown field "spec.mounts[0].mountpoint"`) {
		t.Errorf("error %v", err)
	}
}

// An object that Go cannot decode would, once stored, fail every typed list of
// its kind, and so stop a controller for everybody.
func TestWhatGoCannotDecodeIsTurnedAway(t *testing.T) {
	for name, manifest := range map[string]string{
		"a large int32 of ours":             dataload(`dataset: {name: d}, ttlSecondsAfterFinished: 99999999999`),
		"a large int32 of Kubernetes":       header + "AlluxioRuntime\nmetadata: {name: r}\nspec: {volumes: [{name: v, secret: {secretName: s, defaultMode: 99999999999}}]}\n",
		"an integer beyond int64":           header + "AlluxioRuntime\nmetadata: {name: r}\nspec: {master: {ports: {a: 99999999999999999999999}}}\n",
		"a quantity with a huge exponent":   header + "AlluxioRuntime\nmetadata: {name: r}\nspec: {worker: {resources: {limits: {memory: 1e99999999999999999999}}}}\n",
		"a quantity with half an exponent":  header + "AlluxioRuntime\nmetadata: {name: r}\nspec: {worker: {resources: {limits: {memory: 1e1.5}}}}\n",
		"a volume source of text":           alluxio(`{mediumtype: SSD, path: /a, quota: 1Gi, volumeSource: {emptyDir: much}}`),
		"a template with a text for a list": class(`template: {spec: {containers: none}}`),
		"a template with a large port":      class(`template: {spec: {containers: [{name: m, ports: [{containerPort: 99999999999}]}]}}`),
		"a template with a large probe":     class(`template: {spec: {containers: [{name: m, livenessProbe: {tcpSocket: {port: 99999999999}}}]}}`),
	} {
		t.Run(name, func(t *testing.T) {
			if err := create(t, manifest); !apierrors.IsInvalid(err) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestTheClassOfARuntimeCannotChange(t *testing.T) {
	c := apitest.Client(t)
	obj := objects(t, header+"CacheRuntime\nmetadata: {name: fixed}\nspec: {runtimeClassName: millrace}\n")[0]
	if err := c.Create(t.Context(), obj); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Delete(t.Context(), obj) })
	if err := unstructured.SetNestedField(obj.Object, "other", "spec", "runtimeClassName"); err != nil {
		t.Fatal(err)
	}
	if err := c.Update(t.Context(), obj); err == nil || !strings.Contains(err.Error(), "runtimeClassName cannot change: delete the runtime and create it with the other class; the Dataset stays") {
		t.Errorf("error %v", err)
	}
}
