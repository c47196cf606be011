package alluxioruntime

import (
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
)

func quantity(text string) *resource.Quantity { return ptr.To(resource.MustParse(text)) }

func TestTieredStoreBecomesTiers(t *testing.T) {
	const gib = 1 << 30
	for sentence, tc := range map[string]struct {
		level datav1alpha1.Level
		want  engine.Tier
	}{
		"the article's memory is the worker's own": {
			datav1alpha1.Level{MediumType: datav1alpha1.Memory, Path: "/dev/shm", Quota: quantity("2Gi"), High: "0.95", Low: "0.7"},
			engine.Tier{Medium: contract.TierMEM, High: "0.95", Low: "0.7", Dirs: []engine.TierDir{{ProcessMemory: true, QuotaBytes: 2 * gib}}},
		},
		"a quota is divided evenly over the paths": {
			datav1alpha1.Level{MediumType: datav1alpha1.SSD, Path: "/mnt/a, /mnt/b/", Quota: quantity("3Gi")},
			engine.Tier{Medium: contract.TierSSD, High: "0.95", Low: "0.7", Dirs: []engine.TierDir{{HostPath: "/mnt/a", QuotaBytes: 3 * gib / 2}, {HostPath: "/mnt/b", QuotaBytes: 3 * gib / 2}}},
		},
		"a list of quotas is taken one by one": {
			datav1alpha1.Level{MediumType: datav1alpha1.HDD, Path: "/mnt/a,/mnt/b", QuotaList: "1Gi,2Gi", High: "0.9", Low: "0.5"},
			engine.Tier{Medium: contract.TierHDD, High: "0.9", Low: "0.5", Dirs: []engine.TierDir{{HostPath: "/mnt/a", QuotaBytes: gib}, {HostPath: "/mnt/b", QuotaBytes: 2 * gib}}},
		},
		"several paths of an emptyDir are one directory": {
			datav1alpha1.Level{MediumType: datav1alpha1.SSD, VolumeType: datav1alpha1.VolumeTypeEmptyDir, Path: "/a,/b", Quota: quantity("2Gi")},
			engine.Tier{Medium: contract.TierSSD, High: "0.95", Low: "0.7", Dirs: []engine.TierDir{{QuotaBytes: 2 * gib}}},
		},
		"memory at another path of the node stays there": {
			datav1alpha1.Level{MediumType: datav1alpha1.Memory, Path: "/mnt/ram", Quota: quantity("1Gi"), High: "0.9", Low: "0.8"},
			engine.Tier{Medium: contract.TierMEM, High: "0.9", Low: "0.8", Dirs: []engine.TierDir{{HostPath: "/mnt/ram", QuotaBytes: gib}}},
		},
	} {
		t.Run(sentence, func(t *testing.T) {
			got, problem := tiers([]datav1alpha1.Level{tc.level})
			if problem != nil {
				t.Fatal(problem)
			}
			if diff := cmp.Diff([]engine.Tier{tc.want}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBadTiersAreNamed(t *testing.T) {
	for sentence, tc := range map[string]struct {
		level datav1alpha1.Level
		words string
	}{
		"no quota":                  {datav1alpha1.Level{Path: "/a"}, "no quota"},
		"too few quotas":            {datav1alpha1.Level{Path: "/a,/b", QuotaList: "1Gi"}, "2 paths and 1 entries"},
		"a quota that is no number": {datav1alpha1.Level{Path: "/a", QuotaList: "1Zorkmid"}, "1Zorkmid"},
	} {
		t.Run(sentence, func(t *testing.T) {
			_, err := describe(&datav1alpha1.AlluxioRuntime{Spec: datav1alpha1.AlluxioRuntimeSpec{TieredStore: datav1alpha1.TieredStore{Levels: []datav1alpha1.Level{tc.level}}}}, Options{})
			var problem *engine.Problem
			if !errors.As(err, &problem) || problem.Reason != engine.ReasonInvalid || !strings.Contains(problem.Message, tc.words) {
				t.Errorf("got %v, want a problem with %q", err, tc.words)
			}
		})
	}
}

const manifest = `
spec:
  replicas: 3
  data: {replicas: 2, pin: true}
  alluxioVersion: {imageTag: "2.9"}
  jobMaster: {resources: {limits: {cpu: "1"}}}
  properties: {alluxio.a: b}
  jvmOptions: []
  podMetadata: {labels: {team: a, role: all}}
  master: {nodeSelector: {role: master}, jvmOptions: [-Xmx1g]}
  worker: {tolerations: [{key: cache, operator: Exists}], env: {B: "2", A: "1"}, podMetadata: {labels: {role: worker}}}
  fuse: {args: [fuse, --fuse-opts=ro], nodeSelector: {fuse: "yes"}, cleanPolicy: OnDemand}
  tieredstore: {levels: [{mediumtype: MEM, path: /dev/shm, quota: 1Gi}]}
`

func TestRuntimeIsTurnedIntoTheEnginesWords(t *testing.T) {
	rt := &datav1alpha1.AlluxioRuntime{}
	if err := yaml.Unmarshal([]byte(manifest), rt); err != nil {
		t.Fatal(err)
	}
	d, err := describe(rt, Options{NativeImage: "cache:dev"})
	if err != nil {
		t.Fatal(err)
	}
	if d.Worker.Replicas != 3 || d.Worker.Options[contract.OptionReplicas] != "2" || d.Master.Replicas != 1 {
		t.Errorf("replicas: %+v, master %d", d.Worker, d.Master.Replicas)
	}
	if diff := cmp.Diff(map[string]string{"team": "a", "role": "worker"}, d.Worker.Labels); diff != "" {
		t.Error(diff)
	}
	if d.Master.NodeSelector["role"] != "master" || d.Client.NodeSelector["fuse"] != "yes" || d.Worker.Tolerations[0].Key != "cache" {
		t.Error("selectors and tolerations are lost")
	}
	if d.Worker.Env[0].Name != "A" || d.Worker.Env[1].Name != "B" {
		t.Errorf("env %+v", d.Worker.Env)
	}
	want := map[string]bool{
		"spec.alluxioVersion": true, "spec.jobMaster": true, "spec.properties[alluxio.a]": true, "spec.data.pin": true,
		"spec.master.jvmOptions": true, "spec.fuse.args": true,
	}
	got := map[string]bool{}
	for _, field := range notServed(&rt.Spec) {
		got[field] = true
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields without meaning (-want +got):\n%s", diff)
	}
}

func TestEveryFieldOfAlluxioDoesSomethingOrIsNamed(t *testing.T) {
	spec := datav1alpha1.AlluxioRuntimeSpec{}
	fill(reflect.ValueOf(&spec).Elem())
	got := map[string]bool{}
	for _, field := range notServed(&spec) {
		got[strings.TrimPrefix(field, "spec.")] = true
	}
	for _, path := range paths(reflect.TypeFor[datav1alpha1.AlluxioRuntimeSpec](), "") {
		if got[path] == served[path] {
			t.Errorf("%s: named %v, served %v", path, got[path], served[path])
		}
	}
}

// fill sets every field.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i))
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		if isOurs(v.Type().Elem()) {
			fill(v.Elem())
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		if isOurs(v.Type().Elem()) {
			fill(v.Index(0))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("x").Convert(v.Type().Key()), reflect.Zero(v.Type().Elem()))
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(1)
	}
}

// paths are those of the fields of a type, as notServed names them.
func paths(t reflect.Type, path string) (out []string) {
	if t.Kind() == reflect.Slice && isOurs(t.Elem()) {
		t = t.Elem()
	}
	if !isOurs(t) || whole[path] || served[path] {
		return []string{path}
	}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		below := path
		if name != "" {
			below = strings.TrimPrefix(path+"."+name, ".")
		}
		out = append(out, paths(t.Field(i).Type, below)...)
	}
	return out
}

func TestPropertiesOfAlluxioAreTranslated(t *testing.T) {
	for sentence, tc := range map[string]struct {
		name, value string
		options     map[string]string
		rest        bool
	}{
		"a sync interval":                 {"alluxio.user.file.metadata.sync.interval", "5min", map[string]string{"metadata.ttl": "5m0s"}, false},
		"milliseconds without a unit":     {"alluxio.user.file.metadata.sync.interval", "90000", map[string]string{"metadata.ttl": "1m30s"}, false},
		"always":                          {"alluxio.user.file.metadata.sync.interval", "0", map[string]string{"metadata.ttl": "1s"}, false},
		"never":                           {"alluxio.user.file.metadata.sync.interval", "-1", map[string]string{"metadata.ttl": "87600h0m0s"}, false},
		"an interval that is none":        {"alluxio.user.file.metadata.sync.interval", "soon", map[string]string{}, true},
		"an interval beyond all bounds":   {"alluxio.user.file.metadata.sync.interval", "9223372036854775807d", map[string]string{}, true},
		"copies":                          {"alluxio.user.file.replication.min", "2", map[string]string{"data.replicas": "2"}, false},
		"Alluxio's default of no copies":  {"alluxio.user.file.replication.min", "0", map[string]string{"data.replicas": "1"}, false},
		"a lifetime":                      {"alluxio.user.file.create.ttl", "1d", map[string]string{"store.ttl": "24h0m0s"}, false},
		"no lifetime":                     {"alluxio.user.file.create.ttl", "-1", map[string]string{}, false},
		"what was read lately stays":      {"alluxio.worker.block.annotator.class", "alluxio.worker.block.annotator.LRUAnnotator", map[string]string{"store.policy": "tinylfu"}, false},
		"an annotator that nobody knows":  {"alluxio.worker.block.annotator.class", "com.example.Mine", map[string]string{}, true},
		"what has no meaning":             {"alluxio.user.metrics.collection.enabled", "true", map[string]string{}, true},
		"a credential in a plain setting": {"aws.secretKey", "hush", map[string]string{}, true},
	} {
		t.Run(sentence, func(t *testing.T) {
			options, sources, rest := translate(map[string]string{tc.name: tc.value, "alluxio.underfs.s3.endpoint": "http://s3"})
			if diff := cmp.Diff(tc.options, options); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(map[string]string{"alluxio.underfs.s3.endpoint": "http://s3"}, sources); diff != "" {
				t.Errorf("options of the sources (-want +got):\n%s", diff)
			}
			if slices.Contains(rest, tc.name) != tc.rest {
				t.Errorf("the rest is %v", rest)
			}
		})
	}
}

func TestThePageOnAlluxioListsWhatIsTranslated(t *testing.T) {
	page, err := os.ReadFile("../../docs/alluxio.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range properties {
		if row := "| `" + name + "` | `" + m.option + "` |"; !strings.Contains(string(page), row) {
			t.Errorf("docs/alluxio.md lacks a row that begins with %s", row)
		}
	}
	for _, name := range sourceProperties {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/alluxio.md lacks %s", name)
		}
	}
}
