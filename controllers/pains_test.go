package controllers_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// Pain 2 of Fluid's users: deletion hangs. Whatever is dead, missing or half
// made, a Dataset and its runtime go, and nothing of somebody else's goes along.
func TestPain2DeletionAlwaysEnds(t *testing.T) {
	for sentence, arrange := range map[string]func(p *place){
		"a Dataset that never had a runtime": func(p *place) { p.dataset("data") },
		"a runtime whose master never started": func(p *place) {
			p.dataset("data")
			p.create(p.cacheRuntime("data"))
			p.startSet("data-master")
		},
		"a runtime whose sources lack their Secret": func(p *place) {
			p.dataset("data", datav1alpha1.Mount{MountPoint: "s3://bucket", Name: "b", EncryptOptions: []datav1alpha1.EncryptOption{
				{Name: "k", ValueFrom: datav1alpha1.EncryptOptionSource{SecretKeyRef: datav1alpha1.SecretKeySelector{Name: "none", Key: "k"}}}}})
			p.create(p.alluxioRuntime("data"))
			p.datasetSays("data", metav1.ConditionFalse, "SecretNotFound")
		},
		"a runtime of a class that does not exist": func(p *place) {
			p.dataset("data")
			rt := p.cacheRuntime("data").(*datav1alpha1.CacheRuntime)
			rt.Spec.RuntimeClassName = "no-such-class"
			p.create(rt)
		},
		"a bound Dataset whose nodes are gone": func(p *place) {
			p.bind("data", p.cacheRuntime("data"))
			masters.silence(p.key("data"))
			for _, pod := range []string{"data-master-0", "data-worker-0"} {
				p.must(client.IgnoreNotFound(world.Delete(p.Context(), &corev1.Pod{ObjectMeta: p.meta(pod)}, client.GracePeriodSeconds(0))))
			}
		},
		"a bound Dataset whose objects were deleted under it": func(p *place) {
			p.bind("data", p.alluxioRuntime("data"))
			p.must(world.Delete(p.Context(), &corev1.PersistentVolumeClaim{ObjectMeta: p.meta("data")}))
			p.must(world.Delete(p.Context(), &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: p.namespace + "-data"}}))
			p.must(world.Delete(p.Context(), &corev1.ConfigMap{ObjectMeta: p.meta(contract.ConfigMapName("data"))}))
		},
		"a Dataset that names referrers which are long gone": func(p *place) {
			ds := p.bind("data", p.cacheRuntime("data"))
			before := ds.DeepCopy()
			ds.Status.DatasetRef = []string{"elsewhere/long-gone", "not a reference"}
			p.must(world.Status().Patch(p.Context(), ds, client.MergeFrom(before)))
		},
		"two runtimes of different kinds": func(p *place) {
			p.dataset("data")
			p.create(p.cacheRuntime("data"))
			p.create(p.alluxioRuntime("data"))
		},
	} {
		t.Run(sentence, func(t *testing.T) {
			p := newPlace(t)
			arrange(p)
			ds := p.get("data")
			p.must(world.Delete(p.Context(), ds))
			p.gone(ds)
			p.gone(&datav1alpha1.CacheRuntime{ObjectMeta: p.meta("data")})
			p.gone(&datav1alpha1.AlluxioRuntime{ObjectMeta: p.meta("data")})
			p.volumeGone("data")
		})
	}
}

// A claim that somebody else's finalizer holds is named, waited for with a
// bound, and left to him.
func TestPain2AHeldClaimKeepsNoDatasetForEver(t *testing.T) {
	p := newPlace(t)
	ds := p.bind("data", p.cacheRuntime("data"))
	claim := &corev1.PersistentVolumeClaim{}
	p.must(world.Get(p.Context(), p.key("data"), claim))
	p.must(world.Patch(p.Context(), claim, client.RawPatch("application/merge-patch+json", []byte(`{"metadata": {"finalizers": ["example.org/held"]}}`))))
	t.Cleanup(func() {
		_ = world.Patch(context.Background(), claim, client.RawPatch("application/merge-patch+json", []byte(`{"metadata": {"finalizers": null}}`)))
	})
	p.must(world.Delete(p.Context(), ds))
	p.datasetSays("data", metav1.ConditionFalse, "Deleting", "PersistentVolumeClaim data", "example.org/held", "at most")
	p.goneWithin(ds, 3*patience)
	p.must(world.Get(p.Context(), p.key("data"), claim))
	if claim.DeletionTimestamp.IsZero() || len(claim.Finalizers) != 1 {
		t.Errorf("claim %+v", claim.ObjectMeta)
	}
}

// A runtime that somebody else holds is named.
func TestPain2AHeldRuntimeIsNamed(t *testing.T) {
	p := newPlace(t)
	rt := p.cacheRuntime("data")
	rt.SetFinalizers([]string{"example.org/held"})
	ds := p.bind("data", rt)
	p.must(world.Delete(p.Context(), ds))
	p.datasetSays("data", metav1.ConditionFalse, "Deleting", "cache runtime data", "example.org/held")
	p.must(world.Patch(p.Context(), rt, client.RawPatch("application/merge-patch+json", []byte(`{"metadata": {"finalizers": null}}`))))
	p.gone(ds)
}

// What is somebody else's stays, whatever its name is.
func TestPain2DeletionTouchesNothingForeign(t *testing.T) {
	p := newPlace(t)
	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: p.namespace + "-data"}, Spec: corev1.PersistentVolumeSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}, Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/tmp"}},
	}}
	pod := &corev1.Pod{ObjectMeta: p.meta("data-master-0"), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	config := &corev1.ConfigMap{ObjectMeta: p.meta(contract.ConfigMapName("data"))}
	for _, obj := range []client.Object{volume, pod, config} {
		p.create(obj)
		versions := obj.GetResourceVersion()
		defer func() {
			p.must(world.Get(p.Context(), client.ObjectKeyFromObject(obj), obj))
			if obj.GetResourceVersion() != versions {
				t.Errorf("%T %s was touched", obj, obj.GetName())
			}
		}()
	}
	p.dataset("data")
	p.create(p.cacheRuntime("data"))
	p.datasetSays("data", metav1.ConditionFalse, "NameTaken", contract.ConfigMapName("data"))
	ds := p.get("data")
	p.must(world.Delete(p.Context(), ds))
	p.gone(ds)
	p.gone(&datav1alpha1.CacheRuntime{ObjectMeta: p.meta("data")})
}

// The claim of a Dataset that runs on an engine of Fluid's is its pods' claim.
func TestPain2ARuntimeThatIsNotServedCostsNoClaim(t *testing.T) {
	p := newPlace(t)
	rt := p.cacheRuntime("data")
	p.bind("data", rt)
	p.create(&datav1alpha1.JuiceFSRuntime{ObjectMeta: p.meta("data")})
	p.must(world.Delete(p.Context(), rt))
	p.gone(rt)
	p.datasetSays("data", metav1.ConditionFalse, "RuntimeNotSupported", "JuiceFSRuntime", "CacheRuntime of class millrace")
	claim := &corev1.PersistentVolumeClaim{}
	p.must(world.Get(p.Context(), p.key("data"), claim))
	if !claim.DeletionTimestamp.IsZero() {
		t.Error("the claim is being deleted")
	}
	ds := p.get("data")
	p.must(world.Delete(p.Context(), ds))
	p.gone(ds)
	p.volumeGone("data")
}

// A field that does nothing says so.
func TestDatasetFieldsWithoutMeaningAreNamed(t *testing.T) {
	p := newPlace(t)
	p.create(&datav1alpha1.Dataset{ObjectMeta: p.meta("data"), Spec: datav1alpha1.DatasetSpec{
		AccessModes:         []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
		DataRestoreLocation: &datav1alpha1.DataRestoreLocation{Path: "pvc://backups"},
	}})
	said := func() []metav1.Condition { return p.get("data").Status.Conditions }
	says(t, said, datav1alpha1.DatasetNotSupported, metav1.ConditionTrue, "spec.accessModes", "spec.dataRestoreLocation")
}
