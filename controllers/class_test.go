package controllers_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// class makes a CacheRuntimeClass of the namespace's name.
func (p *place) class(manifest string) {
	p.Helper()
	class := &datav1alpha1.CacheRuntimeClass{}
	p.must(yaml.UnmarshalStrict([]byte(manifest), class))
	class.Name = p.namespace
	p.create(class)
	p.Cleanup(func() { _ = world.Delete(p.Context(), class) })
}

// ofClass makes a runtime of the namespace's class.
func (p *place) ofClass(name, spec string) *datav1alpha1.CacheRuntime {
	p.Helper()
	rt := &datav1alpha1.CacheRuntime{ObjectMeta: p.meta(name)}
	p.must(yaml.UnmarshalStrict([]byte(spec), &rt.Spec))
	rt.Spec.RuntimeClassName = p.namespace
	p.create(rt)
	return rt
}

const clientClass = `
fileSystemType: fuse.other
topology:
  client:
    dependencies: {secretMount: {enabled: true}}
    template: {spec: {containers: [{name: client, image: "other/client:1"}]}}
`

func TestAnEngineOfClientsAloneIsBoundServesAndGoes(t *testing.T) {
	p := newPlace(t)
	p.class(clientClass)
	p.dataset("data")
	rt := p.ofClass("data", "{}")
	ds := p.becomes("data", datav1alpha1.BoundDatasetPhase)
	if ds.Status.UfsTotal != "N/A" || ds.Status.FileNum != "N/A" || ds.Status.CacheStates[datav1alpha1.CachedPercentage] != "N/A" {
		t.Errorf("numbers that nobody counts: %q, %q, %v", ds.Status.UfsTotal, ds.Status.FileNum, ds.Status.CacheStates)
	}
	pv := &corev1.PersistentVolume{}
	p.must(world.Get(t.Context(), client.ObjectKey{Name: contract.PVName(p.namespace, "data")}, pv))
	if got := pv.Spec.CSI.VolumeAttributes[contract.AttrMountType]; got != "fuse.other" {
		t.Errorf("mount type %q", got)
	}
	set := &appsv1.DaemonSet{}
	p.must(world.Get(t.Context(), p.key("data-client"), set))
	for _, absent := range []client.Object{
		&appsv1.StatefulSet{ObjectMeta: p.meta("data-master")}, &appsv1.StatefulSet{ObjectMeta: p.meta("data-worker")},
		&corev1.Service{ObjectMeta: p.meta("svc-data-client")},
	} {
		if err := world.Get(t.Context(), client.ObjectKeyFromObject(absent), absent); !apierrors.IsNotFound(err) {
			t.Errorf("%T %s: %v", absent, absent.GetName(), err)
		}
	}
	p.must(world.Get(t.Context(), p.key("data"), rt))
	if rt.Status.Master.Phase != "" || rt.Status.Worker.Phase != "" || rt.Status.Phase != datav1alpha1.RuntimePhaseReady {
		t.Errorf("status %+v", rt.Status)
	}
	for _, c := range rt.Status.Conditions {
		if c.Type == datav1alpha1.RuntimeNotSupported {
			t.Errorf("%s", c.Message)
		}
	}

	// Its configuration follows the Dataset.
	ds.Spec.Mounts = append(ds.Spec.Mounts, datav1alpha1.Mount{MountPoint: "s3://more", Name: "more"})
	first := p.table("data")
	p.must(world.Update(t.Context(), ds))
	eventually(t, func() error {
		if p.table("data") == first {
			return errors.New("runtime.json has the former mounts")
		}
		if ds := p.get("data"); len(ds.Status.Mounts) != 2 || ds.Status.Phase != datav1alpha1.BoundDatasetPhase {
			return fmt.Errorf("status %+v", ds.Status)
		}
		return nil
	})

	p.must(world.Delete(t.Context(), ds))
	p.gone(rt)
	p.gone(&appsv1.DaemonSet{ObjectMeta: p.meta("data-client")})
	p.gone(&corev1.ConfigMap{ObjectMeta: p.meta(contract.ConfigMapName("data"))})
}

const wholeClass = `
fileSystemType: alluxio
topology:
  master:
    workloadType: {apiVersion: apps/v1, kind: StatefulSet}
    service: {headless: {}}
    dependencies: {encryptOption: {}, extraResources: {configMaps: [{name: conf, mountPath: /etc/engine}]}}
    executionEntries: {mountUFS: {command: [/mount], timeout: 20}, reportSummary: {command: [/report]}}
    template: {spec: {containers: [{name: master, image: "other/engine:1", ports: [{name: rpc, containerPort: 9000}]}]}}
  worker:
    workloadType: {apiVersion: apps/v1, kind: Deployment}
    service: {headless: {}}
    executionEntries: {reportSummary: {command: [/report]}}
    template: {spec: {containers: [{name: worker, image: "other/engine:1"}]}}
  client:
    template: {spec: {containers: [{name: client, image: "other/engine:1"}]}}
extraResources: {configMaps: [{name: conf, data: {engine.conf: "a=b"}}]}
dataOperationSpecs: [{name: DataLoad, command: [/load]}, {name: DataMigrate, command: [/migrate]}]
`

func TestAnEngineOfMastersAndWorkersStartsInOrderAndSaysHowItIs(t *testing.T) {
	p := newPlace(t)
	p.class(wholeClass)
	p.dataset("data")
	rt := p.ofClass("data", `{master: {replicas: 1}, worker: {replicas: 2, tieredStore: {levels: [{emptyDir: {quota: 1Gi, medium: Memory}}]}}}`)
	worker, clients := &appsv1.StatefulSet{ObjectMeta: p.meta("data-worker")}, &appsv1.DaemonSet{ObjectMeta: p.meta("data-client")}
	p.startSet("data-master", "master-node")
	eventually(t, func() error { return world.Get(t.Context(), p.key("data-worker"), worker) })
	if err := world.Get(t.Context(), p.key("data-client"), clients); !apierrors.IsNotFound(err) {
		t.Errorf("clients are made before a worker is ready: %v", err)
	}
	p.startSet("data-worker", "n1", "n2")
	eventually(t, func() error { return world.Get(t.Context(), p.key("data-client"), clients) })
	extra := &corev1.ConfigMap{}
	p.must(world.Get(t.Context(), p.key("data-conf"), extra))
	if diff := cmp.Diff(map[string]string{"engine.conf": "a=b"}, extra.Data); diff != "" {
		t.Error(diff)
	}

	p.datasetSays("data", metav1.ConditionFalse, "it is being opened")
	masters.change(p.key("data"), func(s *contract.Summary) {
		s.MountTable, s.Engine = p.table("data"), &contract.EngineSummary{}
		s.Mounts = []contract.MountSummary{{Path: "/", Ready: true, Reason: contract.MountReady}}
	})
	if ds := p.becomes("data", datav1alpha1.BoundDatasetPhase); ds.Status.UfsTotal != datav1alpha1.MetadataSyncCalculating {
		t.Errorf("sources that are not counted yet have %q", ds.Status.UfsTotal)
	}
	masters.change(p.key("data"), func(s *contract.Summary) {
		s.CachedBytes, s.CapacityBytes = 3<<29, 4<<30
		s.Engine = &contract.EngineSummary{Reported: true, CachedPercentage: "75.0%", CacheHitRatio: "12.5%", NoTotal: true, NoFiles: true}
	})
	eventually(t, func() error {
		ds := p.get("data")
		want := datav1alpha1.CacheStateList{
			datav1alpha1.Cached: "1.50GiB", datav1alpha1.CacheCapacity: "4.00GiB", datav1alpha1.CachedPercentage: "75.0%", datav1alpha1.CacheHitRatio: "12.5%",
		}
		if diff := cmp.Diff(want, ds.Status.CacheStates); diff != "" || ds.Status.UfsTotal != "N/A" {
			return fmt.Errorf("ufsTotal %q, states (-want +got):\n%s", ds.Status.UfsTotal, diff)
		}
		return nil
	})
	says(t, func() []metav1.Condition {
		p.must(world.Get(t.Context(), p.key("data"), rt))
		return rt.Status.Conditions
	}, datav1alpha1.RuntimeNotSupported, metav1.ConditionTrue,
		"topology.worker.workloadType Deployment (a StatefulSet is run)", "topology.worker.executionEntries", "dataOperationSpecs DataMigrate")

	// A component that is switched off goes; the others stay.
	eventually(t, func() error { // its controller writes as well
		p.must(world.Get(t.Context(), p.key("data"), rt))
		rt.Spec.Client.Disabled = true
		return world.Update(t.Context(), rt)
	})
	p.gone(clients)
	p.must(world.Delete(t.Context(), p.get("data")))
	p.gone(rt)
	p.gone(worker)
	p.gone(extra)
}

func TestAClassThatForgetsSomethingIsNotRun(t *testing.T) {
	for name, tc := range map[string]struct{ class, words string }{
		"an image":    {"{fileSystemType: fuse.other, topology: {client: {}}}", "topology.client.template.spec.containers[0]"},
		"a component": {"{fileSystemType: fuse.other}", "has no component"},
		"a ConfigMap": {`{fileSystemType: fuse.other, topology: {client: {template: {spec: {containers: [{name: c, image: i}]}}, dependencies: {extraResources: {configMaps: [{name: conf, mountPath: /c}]}}}}}`, "mounts ConfigMap conf"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			p.class(tc.class)
			p.dataset("data")
			p.ofClass("data", "{}")
			p.datasetSays("data", metav1.ConditionFalse, tc.words)
		})
	}
}
