package index_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	cachev1alpha1 "github.com/millrace/millrace/apis/cache/v1alpha1"
	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/scheduler/index"
)

func slice(name, dataset string, total int64, nodes ...cachev1alpha1.NodeBytes) *cachev1alpha1.LocalitySlice {
	return &cachev1alpha1.LocalitySlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Dataset:    cachev1alpha1.DatasetReference{Name: dataset}, TotalBytes: total, Nodes: nodes,
	}
}

func held(node, zone string, size int64) cachev1alpha1.NodeBytes {
	return cachev1alpha1.NodeBytes{NodeName: node, Zone: zone, CachedBytes: size}
}

func dataset(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "ns", Name: name}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestLocalityFollowsTheSlices(t *testing.T) {
	var changed []string
	x := index.New(func(d types.NamespacedName) { changed = append(changed, d.Name) })
	if got := x.Locality(dataset("d")); got != nil {
		t.Fatalf("an empty index knows %+v", got)
	}
	must(t, x.Replace([]any{
		slice("d-0", "d", 100, held("n1", "z1", 60), held("n2", "", 0)),
		slice("d-1", "d", 100, held("n3", "z1", 30)),
		slice("e-0", "e", 0, held("n1", "z1", 7)),
	}, "1"))
	for name, want := range map[string]*index.Locality{
		"d": {TotalBytes: 100, NodeBytes: map[string]int64{"n1": 60, "n2": 0, "n3": 30}, ZoneBytes: map[string]int64{"z1": 90}},
		"e": {TotalBytes: 7, NodeBytes: map[string]int64{"n1": 7}, ZoneBytes: map[string]int64{"z1": 7}},
	} {
		if diff := cmp.Diff(want, x.Locality(dataset(name))); diff != "" {
			t.Errorf("after a list, %s: (-want +got)\n%s", name, diff)
		}
	}
	before := x.Locality(dataset("d"))
	must(t, x.Update(slice("d-0", "d", 200, held("n1", "z1", 70))))
	must(t, x.Delete(slice("d-1", "d", 200)))
	if diff := cmp.Diff(&index.Locality{TotalBytes: 200, NodeBytes: map[string]int64{"n1": 70}, ZoneBytes: map[string]int64{"z1": 70}}, x.Locality(dataset("d"))); diff != "" {
		t.Errorf("after an update and a deletion: (-want +got)\n%s", diff)
	}
	if before.NodeBytes["n1"] != 60 {
		t.Error("a Locality that was handed out has changed")
	}
	must(t, x.Delete(slice("d-0", "d", 200)))
	if got := x.Locality(dataset("d")); got != nil {
		t.Errorf("the last slice is gone and the index knows %+v", got)
	}
	changed = changed[:0]
	must(t, x.Replace(nil, "2"))
	if diff := cmp.Diff([]string{"e"}, changed); diff != "" || x.Locality(dataset("e")) != nil {
		t.Errorf("an empty list told of %v", changed)
	}
	if err := x.Add(&corev1.Pod{}); err == nil {
		t.Error("a Pod was taken for a slice")
	}
}

func TestDatasetsOfPods(t *testing.T) {
	claims := map[string]*corev1.PersistentVolumeClaim{
		"data":  {ObjectMeta: metav1.ObjectMeta{Name: "data", Labels: map[string]string{contract.LabelDatasetID: "ns-data"}}},
		"plain": {ObjectMeta: metav1.ObjectMeta{Name: "plain"}},
		"view": {ObjectMeta: metav1.ObjectMeta{Name: "view", Labels: map[string]string{
			contract.LabelDatasetID: "ns-view", contract.LabelReferringNamespace: "far", contract.LabelReferringName: "data"}}},
	}
	lister := func(_, name string) (*corev1.PersistentVolumeClaim, error) {
		if pvc := claims[name]; pvc != nil {
			return pvc, nil
		}
		return nil, apierrors.NewNotFound(schema.GroupResource{}, name)
	}
	pod := func(annotation string, labels map[string]string, volumes ...string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Labels: labels, Annotations: map[string]string{contract.AnnotationDatasetsInUse: annotation}}}
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "tmp"})
		for _, v := range volumes {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: v, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: v},
			}})
		}
		return p
	}
	for name, tc := range map[string]struct {
		pod  *corev1.Pod
		want []types.NamespacedName
	}{
		"a pod without claims reads none":                           {pod("", nil), nil},
		"a claim of a Dataset counts, others do not":                {pod("", nil, "plain", "data", "missing"), []types.NamespacedName{dataset("data")}},
		"a sidecar's annotation counts":                             {pod("a, b", nil), []types.NamespacedName{dataset("a"), dataset("b")}},
		"a Dataset that is named twice counts once":                 {pod("data,data", nil, "data"), []types.NamespacedName{dataset("data")}},
		"a claim of a Dataset that refers to another is that one's": {pod("", nil, "view"), []types.NamespacedName{{Namespace: "far", Name: "data"}}},
		"so is a sidecar's":                                         {pod("view", nil), []types.NamespacedName{{Namespace: "far", Name: "data"}}},
		"an annotation with nothing between commas is nobody":       {pod(",", nil), nil},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, index.DatasetsOf(tc.pod, lister)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
	got := index.RequiredBy(pod("", map[string]string{
		contract.DatasetSchedLabel("a"): contract.SchedRequired, contract.DatasetSchedLabel("b.c"): contract.SchedRequired,
		contract.DatasetSchedLabel("d"): "preferred", "app": "required",
		contract.DatasetSchedLabel("view"): contract.SchedRequired,
	}), lister)
	if diff := cmp.Diff([]types.NamespacedName{dataset("a"), dataset("b.c"), {Namespace: "far", Name: "data"}}, got, cmpopts.SortSlices(func(a, b types.NamespacedName) bool { return a.Name < b.Name })); diff != "" {
		t.Errorf("required: (-want +got)\n%s", diff)
	}
}
