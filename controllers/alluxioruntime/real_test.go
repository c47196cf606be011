package alluxioruntime

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/yaml"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
)

const realClass = `
metadata: {name: alluxio}
fileSystemType: fuse.alluxio-fuse
topology:
  master:
    options: {java.options: -Xmx512m}
    executionEntries: {mountUFS: {command: [alluxio, mount-ufs]}}
    template: {spec: {containers: [{name: alluxio, image: "alluxio:dev"}]}}
  worker:
    options: {java.options: -Xmx512m, job.java.options: -Xmx256m}
    template: {spec: {containers: [{name: alluxio, image: "alluxio:dev"}]}}
  client:
    options: {java.options: -Xmx512m}
    template: {spec: {containers: [{name: alluxio, image: "alluxio:dev"}]}}
`

const realManifest = `
metadata: {name: data, namespace: ns, annotations: {cache.millrace.io/engine: alluxio}}
spec:
  replicas: 3
  alluxioVersion: {image: other/alluxio, imageTag: "2.8"}
  data: {replicas: 2}
  jvmOptions: [-XX:+UseG1GC]
  properties: {alluxio.user.block.size.bytes.default: 64MB, aws.secretKey: hush}
  master: {jvmOptions: [-Xmx2g], properties: {alluxio.master.x: "1"}, nodeSelector: {role: master}}
  jobWorker: {jvmOptions: [-Xmx1g], resources: {limits: {cpu: "1"}}}
  worker: {env: {B: "2", A: "1"}}
  fuse: {args: [fuse, "--fuse-opts=kernel_cache, rw,attr_timeout=7", --debug], nodeSelector: {fuse: "yes"}}
  tieredstore: {levels: [{mediumtype: MEM, path: /dev/shm, quota: 1Gi, high: "0.9", low: "0.8"}]}
`

func realKind(t *testing.T, manifests ...string) *kind {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := datav1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	classes := fake.NewClientBuilder().WithScheme(scheme)
	for _, m := range manifests {
		class := &datav1alpha1.CacheRuntimeClass{}
		if err := yaml.UnmarshalStrict([]byte(m), class); err != nil {
			t.Fatal(err)
		}
		classes.WithObjects(class)
	}
	return &kind{classes: classes.Build(), options: Options{NativeImage: "cache:dev"}}
}

func realRuntime(t *testing.T) *datav1alpha1.AlluxioRuntime {
	t.Helper()
	rt := &datav1alpha1.AlluxioRuntime{}
	if err := yaml.UnmarshalStrict([]byte(realManifest), rt); err != nil {
		t.Fatal(err)
	}
	return rt
}

func TestTheAnnotationChoosesARealAlluxio(t *testing.T) {
	rt := realRuntime(t)
	d, err := realKind(t, realClass).Describe(t.Context(), rt)
	if err != nil {
		t.Fatal(err)
	}
	if d.Foreign == nil || d.Foreign.FileSystem != "fuse.alluxio-fuse" || d.Foreign.Helper != "cache:dev" || d.Foreign.Commands.MountUFS == nil {
		t.Fatalf("the engine is %+v", d.Foreign)
	}
	common := map[string]string{"alluxio.user.block.size.bytes.default": "64MB"}
	for name, tc := range map[string]struct {
		got, want map[string]string
	}{
		"master": {d.Master.Options, map[string]string{"java.options": "-Xmx512m -XX:+UseG1GC -Xmx2g", "alluxio.master.x": "1"}},
		"worker": {d.Worker.Options, map[string]string{"java.options": "-Xmx512m -XX:+UseG1GC", "job.java.options": "-Xmx256m -Xmx1g"}},
		"client": {d.Client.Options, map[string]string{"java.options": "-Xmx512m -XX:+UseG1GC", "alluxio.fuse.mount.options": "ro,allow_other,kernel_cache,attr_timeout=7"}},
	} {
		maps.Copy(tc.want, common)
		if diff := cmp.Diff(tc.want, tc.got); diff != "" {
			t.Errorf("options of the %s (-want +got):\n%s", name, diff)
		}
	}
	if d.Master.Image != "alluxio:dev" || d.Master.Replicas != 1 || d.Worker.Replicas != 3 {
		t.Errorf("image %s, %d masters, %d workers", d.Master.Image, d.Master.Replicas, d.Worker.Replicas)
	}
	if d.Master.NodeSelector["role"] != "master" || d.Client.NodeSelector["fuse"] != "yes" || d.Worker.Env[0].Name != "A" {
		t.Error("selectors or env are lost")
	}
	want := []engine.Tier{{Medium: contract.TierMEM, High: "0.9", Low: "0.8", Dirs: []engine.TierDir{{ProcessMemory: true, QuotaBytes: 1 << 30}}}}
	if diff := cmp.Diff(want, d.Worker.Tiers); diff != "" {
		t.Errorf("tiers (-want +got):\n%s", diff)
	}
	fields := realKind(t).NotServed(rt)
	slices.Sort(fields)
	if diff := cmp.Diff([]string{
		"spec.alluxioVersion" + hintImage, "spec.data.replicas" + hintLoadsReplicas, "spec.fuse.args --debug", "spec.jobWorker.resources",
		"spec.properties[aws.secretKey]" + hintCredentials,
	}, fields); diff != "" {
		t.Errorf("fields without meaning (-want +got):\n%s", diff)
	}
}

func TestWithoutTheAnnotationTheNativeEngineServes(t *testing.T) {
	for sentence, name := range map[string]string{"none": "", "its own": contract.NativeClass} {
		t.Run(sentence, func(t *testing.T) {
			rt := realRuntime(t)
			rt.Annotations[contract.AnnotationEngine] = name
			d, err := realKind(t, realClass).Describe(t.Context(), rt)
			if err != nil || d.Foreign != nil {
				t.Errorf("described as %+v, %v", d, err)
			}
		})
	}
}

func TestARealAlluxioThatCannotBeSaysWhy(t *testing.T) {
	for sentence, tc := range map[string]struct {
		name  string
		words string
	}{
		"no class":          {contract.EngineAlluxio, "classes.alluxio.enabled=true"},
		"no engine of ours": {"ignite", "names no engine"},
	} {
		t.Run(sentence, func(t *testing.T) {
			rt := realRuntime(t)
			rt.Annotations[contract.AnnotationEngine] = tc.name
			_, err := realKind(t).Describe(t.Context(), rt)
			var problem *engine.Problem
			if !errors.As(err, &problem) || !strings.Contains(problem.Message, tc.words) {
				t.Errorf("got %v, want a problem with %q", err, tc.words)
			}
		})
	}
}

func TestEveryFieldOfARealAlluxioDoesSomethingOrIsNamed(t *testing.T) {
	spec := datav1alpha1.AlluxioRuntimeSpec{}
	fill(reflect.ValueOf(&spec).Elem())
	parts := maps.Clone(whole)
	delete(parts, "jobMaster")
	delete(parts, "jobWorker")
	named := map[string]bool{}
	for _, field := range unservedFields(&spec, servedByReal, parts) {
		named[strings.TrimPrefix(field, "spec.")] = true
	}
	for field := range servedByReal {
		if named[field] {
			t.Errorf("%s is served and named", field)
		}
	}
	for _, field := range []string{"hadoopConfig", "apiGateway", "runAs", "master.networkMode", "jobMaster.replicas", "tieredstore.levels.volumeSource"} {
		if !named[field] {
			t.Errorf("%s is passed over in silence", field)
		}
	}
}
