package podinject_test

import (
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	cachev1alpha1 "github.com/millrace/millrace/apis/cache/v1alpha1"
	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/webhook/podinject"
)

var update = flag.Bool("update", false, "write the golden files")

func load[T any](t *testing.T, name string) *T {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	out := new(T)
	if err := yaml.UnmarshalStrict(text, out); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return out
}

// facts: a bound Dataset training with most of its bytes on node b.
func facts(t *testing.T) podinject.Facts {
	return podinject.Facts{
		MountRoot: contract.DefaultMountRoot, Suffix: "abc123",
		Claims: map[string]podinject.Claim{"training": {
			Exists: true, Type: contract.RuntimeCache,
			Dataset: &datav1alpha1.Dataset{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "training", UID: "11111111-2222"},
				Status:     datav1alpha1.DatasetStatus{Phase: datav1alpha1.BoundDatasetPhase},
			},
			Client: load[corev1.PodTemplateSpec](t, "client.yaml"),
			Slices: []cachev1alpha1.LocalitySlice{{TotalBytes: 1000, Nodes: []cachev1alpha1.NodeBytes{
				{NodeName: "a", CachedBytes: 250}, {NodeName: "b", CachedBytes: 1000}, {NodeName: "c", CachedBytes: 9},
			}}},
		}},
	}
}

func TestSidecarPodIsAsInTheGoldenFile(t *testing.T) {
	in := load[corev1.Pod](t, "pod.yaml")
	before := in.DeepCopy()
	out, err := podinject.Mutate(in, facts(t))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, in); diff != "" {
		t.Errorf("Mutate changed its argument: (-want +got)\n%s", diff)
	}
	got, err := yaml.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("testdata/sidecar.golden.yaml", got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/sidecar.golden.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("run go test -update if this is meant: (-want +got)\n%s", diff)
	}
}

func TestMutateIsAFixedPoint(t *testing.T) {
	once, err := podinject.Mutate(load[corev1.Pod](t, "pod.yaml"), facts(t))
	if err != nil {
		t.Fatal(err)
	}
	again := facts(t)
	again.Suffix = "other"
	twice, err := podinject.Mutate(once, again)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(once, twice); diff != "" {
		t.Errorf("a second call changed the pod: (-once +twice)\n%s", diff)
	}
	// What another webhook adds in between sees the mount as well.
	once.Spec.Containers = append(once.Spec.Containers, corev1.Container{Name: "late", VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/d"}}})
	third, err := podinject.Mutate(once, again)
	if err != nil {
		t.Fatal(err)
	}
	if p := third.Spec.Containers[1].VolumeMounts[0].MountPropagation; p == nil || *p != corev1.MountPropagationHostToContainer {
		t.Errorf("a container that was added later does not see the mount: %v", p)
	}
}

func TestSeveralDatasetsHaveASidecarEach(t *testing.T) {
	f := facts(t)
	other := f.Claims["training"]
	other.Dataset = other.Dataset.DeepCopy()
	other.Dataset.Name = "models"
	other.Type = contract.RuntimeAlluxio
	other.Client = other.Client.DeepCopy()
	for i := range other.Client.Spec.Volumes {
		if v := &other.Client.Spec.Volumes[i]; v.Name == "fuse" {
			v.HostPath.Path = "/runtime-mnt/alluxio/default/models"
			other.Client.Spec.Containers[0].VolumeMounts[i].MountPath = v.HostPath.Path
		}
	}
	f.Claims["models"] = other
	pod := load[corev1.Pod](t, "pod.yaml")
	pod.Spec.Volumes = append(pod.Spec.Volumes,
		corev1.Volume{Name: "m", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "models"}}},
		corev1.Volume{Name: "again", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "training"}}})
	out, err := podinject.Mutate(pod, f)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range out.Spec.InitContainers {
		names = append(names, c.Name)
	}
	if diff := cmp.Diff([]string{"fluid-fuse-0", "fluid-fuse-1", "prepare"}, names); diff != "" {
		t.Errorf("init containers: (-want +got)\n%s", diff)
	}
	if got := out.Annotations[contract.AnnotationDatasetsInUse]; got != "training,models" {
		t.Errorf("datasets in use: %q", got)
	}
	if a, b := out.Spec.Volumes[0].HostPath.Path, out.Spec.Volumes[3].HostPath.Path; a != b || a != "/runtime-mnt/cache/default/training/pods/abc123/cache-fuse" {
		t.Errorf("two volumes of one Dataset show %s and %s", a, b)
	}
	if got := out.Spec.Volumes[2].HostPath.Path; got != "/runtime-mnt/alluxio/default/models/pods/abc123/alluxio-fuse" {
		t.Errorf("the other Dataset's volume shows %s", got)
	}
}

func TestPodsAreLeftAloneOrTurnedAway(t *testing.T) {
	unbound := func(f *podinject.Facts) {
		c := f.Claims["training"]
		c.Dataset = c.Dataset.DeepCopy()
		c.Dataset.Status.Phase = datav1alpha1.NotBoundDatasetPhase
		f.Claims["training"] = c
	}
	for name, tc := range map[string]struct {
		pod     func(*corev1.Pod)
		facts   func(*podinject.Facts)
		refused string // words of the refusal; "" means unchanged
	}{
		"a pod without a label is left alone, even if its Dataset is not bound": {
			pod: func(p *corev1.Pod) { delete(p.Labels, contract.LabelServerlessFuse) }, facts: unbound,
		},
		"a pod that forbids injection is left alone": {
			pod: func(p *corev1.Pod) { p.Labels[contract.LabelEnableInjection] = "false" },
		},
		"a labelled pod without any Dataset is left alone": {
			pod: func(p *corev1.Pod) { p.Spec.Volumes = p.Spec.Volumes[1:] },
		},
		"an unbound Dataset is refused": {facts: unbound, refused: "Dataset training is not bound"},
		"an unbound Dataset may pass on demand": {
			pod:   func(p *corev1.Pod) { p.Annotations = map[string]string{contract.AnnotationSkipPrecheck: "true"} },
			facts: unbound,
		},
		"a claim that is nobody's is refused": {
			facts:   func(f *podinject.Facts) { f.Claims["training"] = podinject.Claim{} },
			refused: "claim training does not exist",
		},
		"a Dataset that is being deleted is refused": {
			facts: func(f *podinject.Facts) {
				now := metav1.Now()
				f.Claims["training"].Dataset.DeletionTimestamp = &now
			},
			refused: "is being deleted",
		},
		"a Dataset without FUSE pods is refused": {
			facts: func(f *podinject.Facts) {
				c := f.Claims["training"]
				c.Client = nil
				f.Claims["training"] = c
			},
			refused: "has no FUSE client yet",
		},
	} {
		t.Run(name, func(t *testing.T) {
			pod, f := load[corev1.Pod](t, "pod.yaml"), facts(t)
			if tc.pod != nil {
				tc.pod(pod)
			}
			if tc.facts != nil {
				tc.facts(&f)
			}
			out, err := podinject.Mutate(pod, f)
			if tc.refused != "" {
				var r *podinject.Rejection
				if !errors.As(err, &r) || !strings.Contains(err.Error(), tc.refused) || out != nil {
					t.Fatalf("got pod %v and error %v, want a refusal with %q", out != nil, err, tc.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(pod, out); diff != "" {
				t.Errorf("the pod was changed: (-want +got)\n%s", diff)
			}
		})
	}
}

func TestLocalityLabelPrefersTheNodesWithBytes(t *testing.T) {
	pod := load[corev1.Pod](t, "pod.yaml")
	pod.Labels = map[string]string{contract.LabelServerfulFuse: "true"}
	out, err := podinject.Mutate(pod, facts(t))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int32{}
	for _, term := range out.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
		got[term.Preference.MatchFields[0].Values[0]] = term.Weight
	}
	if diff := cmp.Diff(map[string]int32{"b": 100, "a": 25}, got); diff != "" {
		t.Errorf("weights: (-want +got)\n%s", diff)
	}
	if len(out.Spec.InitContainers) != 1 || out.Spec.Volumes[0].PersistentVolumeClaim == nil {
		t.Error("a pod that asked for locality only got a sidecar")
	}
}
