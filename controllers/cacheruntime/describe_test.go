package cacheruntime

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
)

const manifests = `
class:
  fileSystemType: millrace
  topology:
    master: {options: {a: class, b: class, c: class}}
    worker: {template: {spec: {containers: [{name: cache, image: "class/cache:1", imagePullPolicy: Always}]}}}
runtime:
  spec:
    runtimeClassName: millrace
    options: {b: runtime, c: runtime}
    podMetadata: {labels: {of: runtime, team: a}}
    master: {options: {c: component}}
    worker:
      replicas: 2
      podMetadata: {labels: {of: worker}}
      runtimeVersion: {imagePullPolicy: Never}
      tieredStore:
        levels:
          - {processMemory: {quota: 1Gi}, high: "0.9", low: "0.5"}
          - {emptyDir: {quota: 2Gi, medium: Memory}}
          - {emptyDir: {quota: 3Gi}}
          - {hostPath: {paths: [/a, /b], quotas: [4Gi, 5Gi]}}
    client: {runtimeVersion: {image: own/cache, imageTag: "2"}, cleanPolicy: OnDemand, tieredStore: {levels: [{processMemory: {quota: 1Gi}}]}}
`

func TestRuntimeAndClassAreTurnedIntoTheEnginesWords(t *testing.T) {
	var in struct {
		Class   datav1alpha1.CacheRuntimeClass
		Runtime datav1alpha1.CacheRuntime
	}
	if err := yaml.Unmarshal([]byte(manifests), &in); err != nil {
		t.Fatal(err)
	}
	d := describe(&in.Runtime, &in.Class, Options{NativeImage: "manager/cache:3", PullPolicy: corev1.PullIfNotPresent})
	if diff := cmp.Diff(map[string]string{"a": "class", "b": "runtime", "c": "component"}, d.Master.Options); diff != "" {
		t.Errorf("options: class < runtime < component (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"of": "worker", "team": "a"}, d.Worker.Labels); diff != "" {
		t.Error(diff)
	}
	for name, tc := range map[string]struct {
		component engine.Component
		image     string
		policy    corev1.PullPolicy
	}{
		"the manager's where nobody else names one": {d.Master, "manager/cache:3", corev1.PullIfNotPresent},
		"the class's, with the runtime's policy":    {d.Worker, "class/cache:1", corev1.PullNever},
		"the runtime's own":                         {d.Client, "own/cache:2", corev1.PullIfNotPresent},
	} {
		if tc.component.Image != tc.image || tc.component.PullPolicy != tc.policy {
			t.Errorf("%s: got %s, %s", name, tc.component.Image, tc.component.PullPolicy)
		}
	}
	const gib = 1 << 30
	want := []engine.Tier{
		{Medium: contract.TierMEM, High: "0.9", Low: "0.5", Dirs: []engine.TierDir{{ProcessMemory: true, QuotaBytes: gib}}},
		{Medium: contract.TierMEM, Dirs: []engine.TierDir{{Memory: true, QuotaBytes: 2 * gib}}},
		{Medium: contract.TierHDD, Dirs: []engine.TierDir{{QuotaBytes: 3 * gib}}},
		{Medium: contract.TierHDD, Dirs: []engine.TierDir{{HostPath: "/a", QuotaBytes: 4 * gib}, {HostPath: "/b", QuotaBytes: 5 * gib}}},
	}
	if diff := cmp.Diff(want, d.Worker.Tiers); diff != "" {
		t.Errorf("tiers (-want +got):\n%s", diff)
	}
	if d.Worker.Replicas != 2 || d.Master.Replicas != 1 {
		t.Errorf("replicas %d, %d", d.Worker.Replicas, d.Master.Replicas)
	}
	if diff := cmp.Diff([]string{"spec.client.tieredStore"}, notServed(&in.Runtime.Spec)); diff != "" {
		t.Error(diff)
	}
}

func TestWhatAClassSaysInVainIsNamed(t *testing.T) {
	class := &datav1alpha1.CacheRuntimeClass{}
	if err := yaml.Unmarshal([]byte(`
metadata: {name: mine}
fileSystemType: millrace
topology:
  master: {service: {headless: {}}, executionEntries: {mountUFS: {command: [mount]}}}
  client: {workloadType: {kind: DaemonSet}, dependencies: {secretMount: {enabled: true}, extraResources: {configMaps: [{name: a, mountPath: /a}]}}}
extraResources: {configMaps: [{name: a}]}
dataOperationSpecs: [{name: DataLoad}]
`), class); err != nil {
		t.Fatal(err)
	}
	got := slices.Sorted(slices.Values(describe(&datav1alpha1.CacheRuntime{}, class, Options{}).NotServed))
	var want []string
	for _, field := range []string{"dataOperationSpecs", "extraResources", "topology.client.dependencies.extraResources",
		"topology.client.dependencies.secretMount", "topology.client.workloadType", "topology.master.executionEntries"} {
		want = append(want, field+" of CacheRuntimeClass mine")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
