package controllers_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

func TestEveryFieldOfADatasetReachesItsCacheAndItsVolume(t *testing.T) {
	p := newPlace(t)
	secret := func(option, key string) datav1alpha1.EncryptOption {
		return datav1alpha1.EncryptOption{Name: option, ValueFrom: datav1alpha1.EncryptOptionSource{SecretKeyRef: datav1alpha1.SecretKeySelector{Name: "keys", Key: key}}}
	}
	p.create(&corev1.Secret{ObjectMeta: p.meta("keys"), StringData: map[string]string{"shared": "a", "own": "b"}})
	nodes := &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
		{Key: "disk", Operator: corev1.NodeSelectorOpIn, Values: []string{"fast"}}}}}}
	taint := corev1.Toleration{Key: "cache", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}
	meta := p.meta("data")
	meta.Annotations = map[string]string{contract.AnnotationStorageRequest: "5Ti"}
	p.create(&datav1alpha1.Dataset{ObjectMeta: meta, Spec: datav1alpha1.DatasetSpec{
		Mounts: []datav1alpha1.Mount{
			{MountPoint: "s3://plain", Name: "plain"},
			{MountPoint: "s3://own", Name: "own", Options: map[string]string{"region": "us", "token": "in the clear"}, EncryptOptions: []datav1alpha1.EncryptOption{secret("key", "own")}},
		},
		SharedOptions: map[string]string{"region": "eu", "key": "shared in the clear"}, SharedEncryptOptions: []datav1alpha1.EncryptOption{secret("token", "shared")},
		NodeAffinity: &datav1alpha1.CacheableNodeAffinity{Required: nodes}, Tolerations: []corev1.Toleration{taint},
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany, corev1.ReadWriteMany},
		Owner:       &datav1alpha1.User{UID: new(int64), GID: new(int64)}, Runtimes: []datav1alpha1.Runtime{{Name: "other"}},
		DataRestoreLocation: &datav1alpha1.DataRestoreLocation{Path: "local:///backup"},
	}})
	p.create(p.cacheRuntime("data"))
	p.serves("data", "/plain", "/own")
	p.run("data", "")
	p.becomes("data", datav1alpha1.BoundDatasetPhase)

	config := &corev1.ConfigMap{}
	p.must(world.Get(p.Context(), p.key(contract.ConfigMapName("data")), config))
	decoded, err := contract.DecodeRuntimeConfig([]byte(config.Data[contract.RuntimeConfigKey]))
	p.must(err)
	path := "/etc/fluid/secrets/keys/"
	want := []contract.MountConfig{
		{MountPoint: "s3://plain", Name: "plain", Options: map[string]string{"region": "eu", "key": "shared in the clear"}, EncryptOptions: map[string]string{"token": path + "shared"}},
		{MountPoint: "s3://own", Name: "own", Options: map[string]string{"region": "us", "token": "in the clear"}, EncryptOptions: map[string]string{"key": path + "own"}},
	}
	if diff := cmp.Diff(want, decoded.Mounts); diff != "" {
		t.Errorf("mounts of runtime.json (-want +got):\n%s", diff)
	}
	worker := &appsv1.StatefulSet{}
	p.must(world.Get(p.Context(), p.key("data-worker"), worker))
	spec := worker.Spec.Template.Spec
	if diff := cmp.Diff(nodes, spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution); diff != "" {
		t.Errorf("where workers may run (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]corev1.Toleration{taint}, spec.Tolerations); diff != "" {
		t.Errorf("what workers tolerate (-want +got):\n%s", diff)
	}
	claim := &corev1.PersistentVolumeClaim{}
	p.must(world.Get(p.Context(), p.key("data"), claim))
	if claim.Spec.Resources.Requests.Storage().String() != "5Ti" || len(claim.Spec.AccessModes) != 2 {
		t.Errorf("claim %+v", claim.Spec)
	}
	says(t, func() []metav1.Condition { return p.get("data").Status.Conditions }, datav1alpha1.DatasetNotSupported, metav1.ConditionTrue,
		"spec.owner", "spec.runtimes", "spec.dataRestoreLocation", "spec.accessModes that write")
}

func TestASizeThatIsNoneIsTold(t *testing.T) {
	for _, size := range []string{"plenty", "-1Gi", "0"} {
		t.Run(size, func(t *testing.T) {
			p := newPlace(t)
			meta := p.meta("data")
			meta.Annotations = map[string]string{contract.AnnotationStorageRequest: size}
			p.create(&datav1alpha1.Dataset{ObjectMeta: meta, Spec: datav1alpha1.DatasetSpec{Mounts: []datav1alpha1.Mount{{MountPoint: "s3://bucket", Path: "/"}}}})
			says(t, func() []metav1.Condition { return p.get("data").Status.Conditions }, datav1alpha1.DatasetNotSupported, metav1.ConditionTrue,
				contract.AnnotationStorageRequest, size, "5Ti")
		})
	}
}

// Placement reaches across namespaces: exclusive workers keep off every node
// with a worker of another Dataset, shared ones off those of exclusive Datasets.
func TestPlacementReachesAcrossNamespaces(t *testing.T) {
	for placement, others := range map[datav1alpha1.PlacementMode]metav1.LabelSelectorRequirement{
		datav1alpha1.DefaultMode:   {Key: contract.LabelDataset, Operator: metav1.LabelSelectorOpExists},
		datav1alpha1.ExclusiveMode: {Key: contract.LabelDataset, Operator: metav1.LabelSelectorOpExists},
		datav1alpha1.ShareMode:     {Key: contract.LabelDatasetPlace, Operator: metav1.LabelSelectorOpIn, Values: []string{"Exclusive"}},
	} {
		t.Run("placement "+string(placement), func(t *testing.T) {
			p := newPlace(t)
			p.create(&datav1alpha1.Dataset{ObjectMeta: p.meta("data"), Spec: datav1alpha1.DatasetSpec{
				Mounts: []datav1alpha1.Mount{{MountPoint: "s3://bucket", Path: "/"}}, PlacementMode: placement}})
			p.create(p.cacheRuntime("data"))
			worker := &appsv1.StatefulSet{}
			eventually(t, func() error { return world.Get(p.Context(), p.key("data-worker"), worker) })
			terms := worker.Spec.Template.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
			last := terms[len(terms)-1]
			if diff := cmp.Diff([]metav1.LabelSelectorRequirement{others}, last.LabelSelector.MatchExpressions); diff != "" || last.NamespaceSelector == nil ||
				len(last.NamespaceSelector.MatchLabels)+len(last.NamespaceSelector.MatchExpressions) != 0 {
				t.Errorf("namespaces %v, keeps off (-want +got):\n%s", last.NamespaceSelector, diff)
			}
		})
	}
}

// The other runtime is there before the first has gone: the Dataset never is
// without one, and its volume must lead to the other's file system all the same.
func TestARuntimeOfAnotherKindTakesOverWithAVolumeOfItsOwn(t *testing.T) {
	p := newPlace(t)
	first := p.cacheRuntime("data")
	p.bind("data", first)
	pod := p.reader("holder", "data")
	second := p.alluxioRuntime("data")
	p.create(second)
	p.runtimeSays(second, "RuntimeConflict")
	p.must(world.Delete(p.Context(), first))
	p.runtimeSays(first, "InUse", "holder")
	p.becomes("data", datav1alpha1.BoundDatasetPhase)
	p.ended(pod)
	p.gone(first)
	for _, name := range []string{"data-master-0", "data-worker-0"} {
		p.must(client.IgnoreNotFound(world.Delete(p.Context(), &corev1.Pod{ObjectMeta: p.meta(name)}, client.GracePeriodSeconds(0))))
	}
	masters.change(p.key("data"), func(s *contract.Summary) { s.Retired = false })
	eventually(t, func() error {
		set := &appsv1.StatefulSet{}
		if err := world.Get(p.Context(), p.key("data-master"), set); err != nil {
			return err
		}
		if set.Labels["app"] != "alluxio" {
			return errors.New("the master is still the first runtime's")
		}
		return nil
	})
	p.run("data", "")
	eventually(t, func() error {
		pv := &corev1.PersistentVolume{}
		if err := world.Get(p.Context(), types.NamespacedName{Name: p.namespace + "-data"}, pv); err != nil {
			return err
		}
		if got, want := pv.Spec.CSI.VolumeAttributes["fluid_path"], "/runtime-mnt/alluxio/"+p.namespace+"/data/alluxio-fuse"; got != want {
			return fmt.Errorf("the volume leads to %s, want %s", got, want)
		}
		return nil
	})
	p.becomes("data", datav1alpha1.BoundDatasetPhase)
	p.datasetSays("data", metav1.ConditionTrue, "alluxio runtime")
}
