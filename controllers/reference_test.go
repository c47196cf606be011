package controllers_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// beside is another namespace of the same test.
func (p *place) beside() *place {
	p.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}
	p.must(world.Create(p.Context(), ns))
	return &place{T: p.T, namespace: ns.Name}
}

// refer makes a Dataset that refers to what a path names.
func (p *place) refer(name, to string) {
	p.Helper()
	p.dataset(name, datav1alpha1.Mount{MountPoint: contract.SchemeDataset + to})
}

// leads compares where the volume of a Dataset leads.
func (p *place) leads(name string, want map[string]string) {
	p.Helper()
	eventually(p.T, func() error {
		pv := &corev1.PersistentVolume{}
		if err := world.Get(p.Context(), types.NamespacedName{Name: contract.PVName(p.namespace, name)}, pv); err != nil {
			return err
		}
		if diff := cmp.Diff(want, pv.Spec.CSI.VolumeAttributes); diff != "" || !pv.Spec.CSI.ReadOnly || !pv.DeletionTimestamp.IsZero() {
			return fmt.Errorf("read-only %v, deleted %v, attributes (-want +got):\n%s", pv.Spec.CSI.ReadOnly, pv.DeletionTimestamp, diff)
		}
		return nil
	})
}

func attributes(p *place, name, sub string) map[string]string {
	id := p.namespace + "-" + name
	out := map[string]string{
		"fluid_path": "/runtime-mnt/cache/" + p.namespace + "/" + name + "/cache-fuse", "mount_type": "fuse.millrace",
		"runtime_namespace": p.namespace, "runtime_name": name, "mount_pod_node_selector_key": "fluid.io/f-" + id,
	}
	if sub != "" {
		out["fluid_sub_path"] = sub
	}
	return out
}

func TestADatasetThatRefersToAnotherIsReadThroughItsCache(t *testing.T) {
	p := newPlace(t)
	far := p.beside()
	far.refer("view", p.namespace+"/data/train/2024/")
	far.datasetSays("view", metav1.ConditionFalse, "ReferencedDatasetNotFound", p.namespace, "data")
	p.dataset("data")
	far.datasetSays("view", metav1.ConditionFalse, "ReferencedDatasetNotReady", p.namespace+"/data is not bound", "RuntimeNotFound")
	if message := far.get("view").Status.Conditions[0].Message; !containsAll(message, []string{"is bound when that one is"}) || containsAll(message, []string{"there is no runtime"}) {
		t.Errorf("another namespace's words are told: %s", message)
	}
	p.create(p.cacheRuntime("data"))
	p.serves("data", "/")
	p.run("data", "")
	p.becomes("data", datav1alpha1.BoundDatasetPhase)

	ds := far.becomes("view", datav1alpha1.BoundDatasetPhase)
	far.datasetSays("view", metav1.ConditionTrue, "train/2024 of Dataset "+p.namespace+"/data", "numbers", "whole")
	far.leads("view", attributes(p, "data", "train/2024"))
	claim := &corev1.PersistentVolumeClaim{}
	far.must(world.Get(far.Context(), far.key("view"), claim))
	id := far.namespace + "-view"
	want := map[string]string{"fluid.io/s-" + id: "true", "fluid.io/dataset-id": id, "fluid.io/dataset.referring-name": "data", "fluid.io/dataset.referring-namespace": p.namespace}
	if diff := cmp.Diff(want, claim.Labels); diff != "" {
		t.Errorf("labels of the claim (-want +got):\n%s", diff)
	}
	if len(ds.Status.Runtimes) != 1 || ds.Status.Runtimes[0].Namespace != p.namespace || ds.Status.Runtimes[0].Name != "data" {
		t.Errorf("runtimes %+v", ds.Status.Runtimes)
	}
	config := &corev1.ConfigMap{}
	if err := world.Get(far.Context(), far.key(contract.ConfigMapName("view")), config); err == nil {
		t.Error("a second cache was made")
	}

	masters.change(p.key("data"), func(s *contract.Summary) {
		s.MetadataComplete, s.UFSTotalBytes, s.FileNum, s.CachedBytes, s.CapacityBytes, s.Snapshot = true, 1000, 3, 500, 1<<30, "one"
		s.Reads = contract.ReadSummary{LocalBytes: 75, SourceBytes: 25}
	})
	eventually(t, func() error {
		st, of := far.get("view").Status, p.get("data").Status
		if st.UfsTotal != "1000.00B" || st.FileNum != "3" || st.CacheStates["cachedPercentage"] != "50.0%" || st.CacheStates["cacheHitRatio"] != "75.0%" || st.Source == nil || st.Source.Snapshot != "one" {
			return fmt.Errorf("status %+v", st)
		}
		if diff := cmp.Diff(of.CacheStates, st.CacheStates); diff != "" {
			return errors.New(diff)
		}
		if !slices.Equal(of.DatasetRef, []string{far.namespace + "/view"}) {
			return fmt.Errorf("referrers %v", of.DatasetRef)
		}
		return nil
	})
	far.annotate("view", "now")
	said := far.source("view", func(s *datav1alpha1.SourceState) bool { return s.Refresh != nil })
	if said.Refresh.Succeeded || !containsAll(said.Refresh.Message, []string{"annotate Dataset " + p.namespace + "/data"}) {
		t.Errorf("answer %+v", said.Refresh)
	}
}

func TestADatasetThatIsReferredToStays(t *testing.T) {
	p := newPlace(t)
	far := p.beside()
	rt := p.cacheRuntime("data")
	ds := p.bind("data", rt)
	far.refer("view", p.namespace+"/data")
	far.becomes("view", datav1alpha1.BoundDatasetPhase)
	pod := far.reader("holder", "view")

	// The runtime stays for readers of another namespace.
	p.must(world.Delete(p.Context(), rt))
	p.runtimeSays(rt, "InUse", far.namespace+"/holder")
	p.must(world.Delete(p.Context(), ds))
	p.datasetSays("data", metav1.ConditionFalse, "Referenced", far.namespace+"/view")
	p.warned("data", contract.EventErrorDeleteDataset, far.namespace+"/view")
	far.datasetSays("view", metav1.ConditionFalse, "ReferencedDatasetDeleting", p.namespace+"/data")

	view := far.get("view")
	p.must(world.Delete(p.Context(), view))
	far.datasetSays("view", metav1.ConditionFalse, "InUse", "holder")
	far.ended(pod)
	far.gone(view)
	far.volumeGone("view")
	p.gone(ds)
	p.gone(rt)
	p.volumeGone("data")
}

func TestADatasetThatRefersFollowsTheRuntimeOfTheOther(t *testing.T) {
	p := newPlace(t)
	far := p.beside()
	rt := p.cacheRuntime("data")
	p.bind("data", rt)
	far.refer("view", p.namespace+"/data")
	far.becomes("view", datav1alpha1.BoundDatasetPhase)
	p.must(world.Delete(p.Context(), rt))
	p.gone(rt)
	far.becomes("view", datav1alpha1.NotBoundDatasetPhase)
	far.volumeGone("view")
	for _, name := range []string{"data-master-0", "data-worker-0"} {
		p.must(world.Delete(p.Context(), &corev1.Pod{ObjectMeta: p.meta(name)}, client.GracePeriodSeconds(0)))
	}
	p.create(p.alluxioRuntime("data"))
	masters.change(p.key("data"), func(s *contract.Summary) { s.Retired = false })
	p.run("data", "")
	p.becomes("data", datav1alpha1.BoundDatasetPhase)
	far.becomes("view", datav1alpha1.BoundDatasetPhase)
	want := attributes(p, "data", "")
	want["fluid_path"] = "/runtime-mnt/alluxio/" + p.namespace + "/data/alluxio-fuse"
	far.leads("view", want)

	// It may come to refer to another, once no pod has the former volume.
	p.bind("other", p.cacheRuntime("other"))
	pod := far.reader("holder", "view")
	eventually(t, func() error {
		ds := far.get("view")
		ds.Spec.Mounts[0].MountPoint = contract.SchemeDataset + p.namespace + "/other/sub"
		return world.Update(far.Context(), ds)
	})
	far.datasetSays("view", metav1.ConditionFalse, "InUse", "holder", "made anew when they are gone")
	far.ended(pod)
	far.leads("view", attributes(p, "other", "sub"))
	far.becomes("view", datav1alpha1.BoundDatasetPhase)
	eventually(t, func() error {
		if refs := p.get("data").Status.DatasetRef; len(refs) > 0 {
			return fmt.Errorf("still referred to by %v", refs)
		}
		return nil
	})
}

func TestADatasetIsReferredToByWhomItIsSharedWith(t *testing.T) {
	p := newPlace(t)
	near, far := p.beside(), p.beside()
	p.bind("data", p.cacheRuntime("data"))
	share := func(with string) {
		t.Helper()
		eventually(t, func() error {
			ds := p.get("data")
			ds.Annotations = map[string]string{contract.AnnotationSharedWith: with}
			return world.Update(p.Context(), ds)
		})
	}
	share("elsewhere, " + near.namespace)
	for _, at := range []*place{p, near, far} {
		at.refer("view", p.namespace+"/data")
	}
	p.becomes("view", datav1alpha1.BoundDatasetPhase)
	near.becomes("view", datav1alpha1.BoundDatasetPhase)
	far.datasetSays("view", metav1.ConditionFalse, "ReferencedDatasetNotShared", far.namespace, contract.AnnotationSharedWith)
	far.becomes("view", datav1alpha1.FailedDatasetPhase)
	refs := p.get("data").Status.DatasetRef
	if len(refs) != 2 || slices.Contains(refs, far.namespace+"/view") {
		t.Errorf("referrers %v", refs)
	}
	share("*")
	far.becomes("view", datav1alpha1.BoundDatasetPhase)
	share("")
	near.becomes("view", datav1alpha1.FailedDatasetPhase)
	near.volumeGone("view")
	p.becomes("view", datav1alpha1.BoundDatasetPhase)
}

func TestReferencesThatCannotBeAreTold(t *testing.T) {
	for sentence, tc := range map[string]struct {
		mounts func(p *place) []datav1alpha1.Mount
		words  []string
	}{
		"to itself": {func(p *place) []datav1alpha1.Mount {
			return []datav1alpha1.Mount{{MountPoint: "dataset://" + p.namespace + "/view"}}
		}, []string{"refers to itself"}},
		"to one that refers itself": {func(p *place) []datav1alpha1.Mount {
			p.refer("between", "far/data")
			return []datav1alpha1.Mount{{MountPoint: "dataset://" + p.namespace + "/between"}}
		}, []string{"refer to far/data directly"}},
		"with options of its own": {func(p *place) []datav1alpha1.Mount {
			return []datav1alpha1.Mount{{MountPoint: "dataset://" + p.namespace + "/data", Options: map[string]string{"a": "b"}, Path: "/x"}}
		}, []string{"there is no Dataset data"}},
		"beside other mounts": {func(p *place) []datav1alpha1.Mount {
			p.create(p.cacheRuntime("view"))
			return []datav1alpha1.Mount{{MountPoint: "dataset://" + p.namespace + "/data", Name: "a"}, {MountPoint: "s3://bucket", Name: "b"}}
		}, []string{"stands beside others"}},
	} {
		t.Run(sentence, func(t *testing.T) {
			p := newPlace(t)
			p.dataset("view", tc.mounts(p)...)
			p.datasetSays("view", metav1.ConditionFalse, tc.words...)
		})
	}
}

func TestARuntimeOfADatasetThatRefersIsTurnedAway(t *testing.T) {
	p := newPlace(t)
	p.refer("view", p.namespace+"/data")
	rt := p.cacheRuntime("view")
	p.create(rt)
	p.runtimeSays(rt, "RuntimeConflict", "refers to Dataset data")
}
