package controllers_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

func (p *place) cacheRuntime(name string) client.Object {
	rt := &datav1alpha1.CacheRuntime{ObjectMeta: p.meta(name), Spec: datav1alpha1.CacheRuntimeSpec{RuntimeClassName: contract.NativeClass}}
	rt.Spec.Worker.Replicas = 1
	rt.Spec.Worker.TieredStore.Levels = []datav1alpha1.CacheLevel{{EmptyDir: &datav1alpha1.EmptyDirTier{Quota: resource.MustParse("1Gi")}}}
	return rt
}

func (p *place) alluxioRuntime(name string) client.Object {
	rt := &datav1alpha1.AlluxioRuntime{ObjectMeta: p.meta(name)}
	rt.Spec.Replicas = 1
	quota := resource.MustParse("2Gi")
	rt.Spec.TieredStore.Levels = []datav1alpha1.Level{{MediumType: datav1alpha1.Memory, Path: "/dev/shm", Quota: &quota, High: "0.95", Low: "0.7"}}
	return rt
}

// bind brings a Dataset with one bucket to Bound.
func (p *place) bind(name string, runtime client.Object) *datav1alpha1.Dataset {
	p.Helper()
	p.dataset(name)
	p.create(runtime)
	p.serves(name, "/")
	p.run(name, "")
	return p.becomes(name, datav1alpha1.BoundDatasetPhase)
}

func TestPain3DatasetAndRuntimeBindInEitherOrder(t *testing.T) {
	for sentence, tc := range map[string]struct {
		runtime      func(p *place, name string) client.Object
		runtimeFirst bool
		fluidPath    string
	}{
		"a Dataset, then a CacheRuntime":    {(*place).cacheRuntime, false, "/runtime-mnt/cache/%s/data/cache-fuse"},
		"a CacheRuntime, then a Dataset":    {(*place).cacheRuntime, true, "/runtime-mnt/cache/%s/data/cache-fuse"},
		"a Dataset, then an AlluxioRuntime": {(*place).alluxioRuntime, false, "/runtime-mnt/alluxio/%s/data/alluxio-fuse"},
		"an AlluxioRuntime, then a Dataset": {(*place).alluxioRuntime, true, "/runtime-mnt/alluxio/%s/data/alluxio-fuse"},
	} {
		t.Run(sentence, func(t *testing.T) {
			p := newPlace(t)
			runtime := tc.runtime(p, "data")
			if tc.runtimeFirst {
				p.create(runtime)
				p.runtimeSays(runtime, "DatasetNotFound", "data")
				p.dataset("data")
			} else {
				p.dataset("data")
				p.datasetSays("data", metav1.ConditionFalse, "RuntimeNotFound", "data")
				p.create(runtime)
			}
			p.startSet("data-master", "")
			p.datasetSays("data", metav1.ConditionFalse, "WorkersNotReady")
			p.startSet("data-worker", "")
			p.datasetSays("data", metav1.ConditionFalse, "Mounting")
			p.serves("data", "/")
			p.becomes("data", datav1alpha1.BoundDatasetPhase)
			p.datasetSays("data", metav1.ConditionTrue)
			p.volumeIs("data", fmt.Sprintf(tc.fluidPath, p.namespace))
			p.runtimeReady(runtime)
		})
	}
}

func (p *place) runtimeSays(runtime client.Object, words ...string) {
	p.Helper()
	p.runtimeCondition(runtime, datav1alpha1.RuntimeReady, metav1.ConditionFalse, words...)
}

func (p *place) runtimeReady(runtime client.Object) {
	p.Helper()
	p.runtimeCondition(runtime, datav1alpha1.RuntimeReady, metav1.ConditionTrue)
}

func (p *place) runtimeCondition(runtime client.Object, conditionType string, status metav1.ConditionStatus, words ...string) {
	p.Helper()
	says(p.T, func() []metav1.Condition {
		p.must(world.Get(p.Context(), client.ObjectKeyFromObject(runtime), runtime))
		if rt, ok := runtime.(*datav1alpha1.AlluxioRuntime); ok {
			return rt.Status.Conditions
		}
		return runtime.(*datav1alpha1.CacheRuntime).Status.Conditions
	}, conditionType, status, words...)
}

// volumeIs compares PV and PVC with what Fluid's users see.
func (p *place) volumeIs(name, fluidPath string) {
	p.Helper()
	pvc, pv := &corev1.PersistentVolumeClaim{}, &corev1.PersistentVolume{}
	p.must(world.Get(p.Context(), p.key(name), pvc))
	id := p.namespace + "-" + name
	p.must(world.Get(p.Context(), types.NamespacedName{Name: id}, pv))
	labels := map[string]string{"fluid.io/s-" + id: "true", "fluid.io/dataset-id": id}
	for kind, meta := range map[string]metav1.ObjectMeta{"PV": pv.ObjectMeta, "PVC": pvc.ObjectMeta} {
		if diff := cmp.Diff(labels, meta.Labels); diff != "" {
			p.Errorf("labels of the %s (-want +got):\n%s", kind, diff)
		}
		if diff := cmp.Diff(map[string]string{"CreatedBy": "fluid"}, meta.Annotations); diff != "" {
			p.Errorf("annotations of the %s (-want +got):\n%s", kind, diff)
		}
	}
	if pvc.Spec.VolumeName != id || *pvc.Spec.StorageClassName != "fluid" || pvc.Spec.AccessModes[0] != corev1.ReadOnlyMany || pvc.Spec.Resources.Requests.Storage().String() != "100Pi" {
		p.Errorf("claim %+v", pvc.Spec)
	}
	want := map[string]string{
		"fluid_path": fluidPath, "mount_type": "fuse.millrace", "runtime_namespace": p.namespace, "runtime_name": name,
		"mount_pod_node_selector_key": "fluid.io/f-" + id,
	}
	if diff := cmp.Diff(want, pv.Spec.CSI.VolumeAttributes); diff != "" {
		p.Errorf("volume attributes (-want +got):\n%s", diff)
	}
	if pv.Spec.CSI.Driver != "fuse.csi.fluid.io" || pv.Spec.CSI.VolumeHandle != id || pv.Spec.StorageClassName != "fluid" || pv.Spec.ClaimRef.Name != name {
		p.Errorf("volume %+v", pv.Spec)
	}
}

func TestPain4StatusFollowsTheEngine(t *testing.T) {
	p := newPlace(t)
	ds := p.bind("data", p.cacheRuntime("data"))
	if ds.Status.UfsTotal != "[Calculating]" {
		t.Errorf("ufsTotal %q before the sources are walked", ds.Status.UfsTotal)
	}
	numbers := func(total, cached int64) func(s *contract.Summary) {
		return func(s *contract.Summary) {
			s.MetadataComplete, s.UFSTotalBytes, s.FileNum, s.CachedBytes, s.CapacityBytes = true, total, 3, cached, 1<<30
			s.Reads = contract.ReadSummary{LocalBytes: 50, RemoteBytes: 25, SourceBytes: 25}
		}
	}
	reads := func(cached, percentage string) {
		t.Helper()
		eventually(t, func() error {
			ds := p.get("data")
			c := ds.Status.CacheStates
			if ds.Status.UfsTotal != "443.89MiB" || ds.Status.FileNum != "3" || c["cached"] != cached || c["cachedPercentage"] != percentage ||
				c["cacheCapacity"] != "1.00GiB" || c["cacheHitRatio"] != "75.0%" || c["localHitRatio"] != "50.0%" || c["remoteHitRatio"] != "25.0%" {
				return fmt.Errorf("status %+v", ds.Status)
			}
			return nil
		})
	}
	const total = 465452401
	masters.change(p.key("data"), numbers(total, total-1))
	reads("443.89MiB", "99.9%")
	masters.change(p.key("data"), numbers(total, total))
	reads("443.89MiB", "100.0%")
}

func TestAnIdleDatasetWritesNothing(t *testing.T) {
	p := newPlace(t)
	p.bind("data", p.cacheRuntime("data"))
	p.runtimeReady(&datav1alpha1.CacheRuntime{ObjectMeta: p.meta("data")})
	before := p.settled()
	// A master repeats itself; that is no news.
	for range 20 {
		masters.change(p.key("data"), func(*contract.Summary) {})
	}
	p.stays(before, 500*time.Millisecond)
}

func TestTroubleAtTheSourceIsToldAndHealsByItself(t *testing.T) {
	p := newPlace(t)
	p.dataset("data")
	p.create(p.cacheRuntime("data"))
	masters.change(p.key("data"), func(s *contract.Summary) {
		s.Mounts = []contract.MountSummary{{Path: "/", Reason: contract.MountDenied, Message: "s3://bucket: the key is refused"}}
	})
	p.run("data", "")
	p.datasetSays("data", metav1.ConditionFalse, "SourceDenied", "s3://bucket: the key is refused")
	p.becomes("data", datav1alpha1.FailedDatasetPhase)
	p.warned("data", contract.EventErrorProcessDataset, "refused")
	p.serves("data", "/")
	p.becomes("data", datav1alpha1.BoundDatasetPhase)
}

func TestMissingSecretAndKeyAreNamedBeforeAnyPodStarts(t *testing.T) {
	p := newPlace(t)
	p.dataset("data", datav1alpha1.Mount{MountPoint: "s3://bucket", Name: "bucket", Path: "/", EncryptOptions: []datav1alpha1.EncryptOption{
		{Name: "aws.secretKey", ValueFrom: datav1alpha1.EncryptOptionSource{SecretKeyRef: datav1alpha1.SecretKeySelector{Name: "keys", Key: "secret"}}}}})
	rt := p.cacheRuntime("data")
	p.create(rt)
	p.datasetSays("data", metav1.ConditionFalse, "SecretNotFound", "keys")
	p.runtimeSays(rt, "SecretNotFound", "keys")
	secret := &corev1.Secret{ObjectMeta: p.meta("keys"), Data: map[string][]byte{"other": []byte("x")}}
	p.create(secret)
	p.datasetSays("data", metav1.ConditionFalse, "SecretKeyNotFound", "keys", "secret")
	secret.Data["secret"] = []byte("hidden")
	p.must(world.Update(p.Context(), secret))
	p.serves("data", "/")
	p.run("data", "")
	p.becomes("data", datav1alpha1.BoundDatasetPhase)
}

func TestMissingHadoopConfigIsNamed(t *testing.T) {
	p := newPlace(t)
	p.dataset("data", datav1alpha1.Mount{MountPoint: "hdfs://nameservice/data", Name: "data", Path: "/"})
	rt := p.alluxioRuntime("data")
	rt.(*datav1alpha1.AlluxioRuntime).Spec.HadoopConfig = "hadoop-site"
	p.create(rt)
	p.datasetSays("data", metav1.ConditionFalse, "ConfigMapNotFound", "hadoop-site", "core-site.xml")
	p.create(&corev1.ConfigMap{ObjectMeta: p.meta("hadoop-site"), Data: map[string]string{"core-site.xml": "<configuration/>"}})
	p.serves("data", "/")
	p.run("data", "")
	p.becomes("data", datav1alpha1.BoundDatasetPhase)
}

func TestMissingClaimIsNamed(t *testing.T) {
	p := newPlace(t)
	p.dataset("data", datav1alpha1.Mount{MountPoint: "pvc://store/sub", Name: "store", Path: "/"})
	p.create(p.cacheRuntime("data"))
	p.datasetSays("data", metav1.ConditionFalse, "PersistentVolumeClaimNotFound", "store")
	p.becomes("data", datav1alpha1.FailedDatasetPhase)
	p.create(&corev1.PersistentVolumeClaim{ObjectMeta: p.meta("store"), Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}})
	p.serves("data", "/")
	p.run("data", "")
	p.becomes("data", datav1alpha1.BoundDatasetPhase)
}

func TestForeignClaimIsNeitherAdoptedNorDeleted(t *testing.T) {
	p := newPlace(t)
	foreign := &corev1.PersistentVolumeClaim{ObjectMeta: p.meta("data"), Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}
	p.create(foreign)
	p.dataset("data")
	p.create(p.cacheRuntime("data"))
	p.serves("data", "/")
	p.run("data", "")
	p.datasetSays("data", metav1.ConditionFalse, "NameTaken", "PersistentVolumeClaim data")
	p.becomes("data", datav1alpha1.FailedDatasetPhase)
	p.warned("data", contract.EventErrorProcessDataset, "PersistentVolumeClaim data")
	p.must(world.Delete(p.Context(), p.get("data")))
	p.gone(&datav1alpha1.Dataset{ObjectMeta: p.meta("data")})
	p.must(world.Get(p.Context(), p.key("data"), foreign))
	if foreign.Annotations["CreatedBy"] != "" || foreign.DeletionTimestamp != nil || len(foreign.Labels) != 0 {
		t.Errorf("the foreign claim was touched: %+v", foreign.ObjectMeta)
	}
}

func TestVolumeNameOfAnotherDatasetIsLeftToIt(t *testing.T) {
	p := newPlace(t)
	taken := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: p.namespace + "-data"}, Spec: corev1.PersistentVolumeSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}, Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/tmp"}},
	}}
	p.create(taken)
	ds := p.bind("data", p.cacheRuntime("data"))
	pvc, pv := &corev1.PersistentVolumeClaim{}, &corev1.PersistentVolume{}
	p.must(world.Get(p.Context(), p.key("data"), pvc))
	if want := p.namespace + "-data-" + string(ds.UID)[:8]; pvc.Spec.VolumeName != want {
		t.Fatalf("the claim names volume %s, want %s", pvc.Spec.VolumeName, want)
	}
	p.must(world.Get(p.Context(), types.NamespacedName{Name: pvc.Spec.VolumeName}, pv))
	if pv.Spec.CSI.VolumeHandle != pv.Name {
		t.Errorf("volume handle %s of volume %s", pv.Spec.CSI.VolumeHandle, pv.Name)
	}
	p.must(world.Delete(p.Context(), ds))
	p.gone(ds)
	p.gone(pv)
	p.must(world.Get(p.Context(), client.ObjectKeyFromObject(taken), taken))
}

func TestChangedMountsAreServedBeforeTheyAreShown(t *testing.T) {
	p := newPlace(t)
	ds := p.bind("data", p.cacheRuntime("data"))
	ds.Spec.Mounts = append(ds.Spec.Mounts, datav1alpha1.Mount{MountPoint: "s3://other", Name: "other"})
	p.must(world.Update(p.Context(), ds))
	ds = p.becomes("data", datav1alpha1.UpdatingDatasetPhase)
	if len(ds.Status.Mounts) != 1 {
		t.Errorf("mounts are shown too early: %+v", ds.Status.Mounts)
	}
	eventually(t, func() error {
		config := &corev1.ConfigMap{}
		if err := world.Get(p.Context(), p.key("fluid-runtime-config-data"), config); err != nil {
			return err
		}
		if got, err := contract.DecodeRuntimeConfig([]byte(config.Data[contract.RuntimeConfigKey])); err != nil || len(got.Mounts) != 2 {
			return fmt.Errorf("runtime.json %s: %w", config.Data[contract.RuntimeConfigKey], err)
		}
		return nil
	})
	p.serves("data", "/", "/other")
	eventually(t, func() error {
		// The workload controller keeps up with the set's changes.
		p.rollOut("data-master", 1)
		if ds := p.get("data"); ds.Status.Phase != datav1alpha1.BoundDatasetPhase || len(ds.Status.Mounts) != 2 {
			return fmt.Errorf("phase %s, mounts %+v", ds.Status.Phase, ds.Status.Mounts)
		}
		return nil
	})
}

func TestFieldsWithoutMeaningAreNamed(t *testing.T) {
	p := newPlace(t)
	rt := p.alluxioRuntime("data").(*datav1alpha1.AlluxioRuntime)
	rt.Spec.Properties = map[string]string{"alluxio.user.block.size.bytes.default": "256MB"}
	rt.Spec.Fuse.Args = []string{"fuse", "--fuse-opts=kernel_cache,ro"}
	p.dataset("data")
	p.create(rt)
	p.runtimeCondition(rt, datav1alpha1.RuntimeNotSupported, metav1.ConditionTrue, "spec.fuse.args", "spec.properties[alluxio.user.block.size.bytes.default]")
}

func TestFullDiskIsToldOnTheRuntime(t *testing.T) {
	p := newPlace(t)
	rt := p.cacheRuntime("data")
	p.bind("data", rt)
	masters.change(p.key("data"), func(s *contract.Summary) {
		s.Workers = []contract.WorkerSummary{{Name: "data-worker-0", Node: "n1", Message: "quota 100Ti is cut to the 10Gi of the disk"}}
	})
	p.runtimeCondition(rt, datav1alpha1.RuntimeCaching, metav1.ConditionFalse, "quota 100Ti", "n1")
}

// What keeps pods from being made, or from running, is told in the words of who
// knows it, or where these words are.
func TestWhatKeepsPodsFromRunningIsTold(t *testing.T) {
	p := newPlace(t)
	p.dataset("data")
	p.create(p.cacheRuntime("data"))
	p.datasetSays("data", metav1.ConditionFalse, "MasterNotReady", "no pod of StatefulSet data-master was made yet", "kubectl describe statefulset data-master", "quota")

	master := &corev1.Pod{ObjectMeta: p.meta("data-master-0"), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "master", Image: "cache:typo"}}}}
	master.Labels = map[string]string{contract.LabelCacheRuntime: "data", contract.LabelComponent: "data-master"}
	p.create(master)
	master.Status = corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes are available: 3 Insufficient memory."}}}
	p.must(world.Status().Update(p.Context(), master))
	p.datasetSays("data", metav1.ConditionFalse, "MasterNotReady", "data-master-0", "Insufficient memory")

	master.Status = corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{Name: "master", State: corev1.ContainerState{
		Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "cache:typo: not found"}}}}}
	p.must(world.Status().Update(p.Context(), master))
	p.datasetSays("data", metav1.ConditionFalse, "MasterNotReady", "data-master-0", "ErrImagePull: cache:typo: not found")
}
