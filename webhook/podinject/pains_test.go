package podinject_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/webhook/podinject"
)

// threeDatasets adds to the facts: models is bound as well, pending is not.
func threeDatasets(t *testing.T) podinject.Facts {
	f := facts(t)
	for _, name := range []string{"models", "pending"} {
		c := f.Claims["training"]
		c.Dataset = c.Dataset.DeepCopy()
		c.Dataset.Name = name
		c.Client = c.Client.DeepCopy()
		container := &c.Client.Spec.Containers[0]
		for i := range c.Client.Spec.Volumes {
			if v := &c.Client.Spec.Volumes[i]; v.Name == "fuse" {
				v.HostPath.Path = "/runtime-mnt/cache/default/" + name
				container.VolumeMounts[i].MountPath = v.HostPath.Path
			}
		}
		if name == "pending" {
			c.Dataset.Status.Phase = datav1alpha1.NotBoundDatasetPhase
		}
		f.Claims[name] = c
	}
	return f
}

// randomPod is a pod of any shape that a seed gives.
func randomPod(seed uint64) *corev1.Pod {
	r := rand.New(rand.NewPCG(seed, 1))
	some := func() bool { return r.IntN(3) == 0 }
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "p-", Labels: map[string]string{}, Annotations: map[string]string{}}}
	for _, label := range []string{
		contract.LabelServerlessFuse, contract.LabelServerlessFuse, contract.LabelServerfulFuse, contract.LabelUnprivilegedSidecar,
		contract.LabelCacheDirSidecar, contract.LabelAppPostStart, contract.LabelFusePostStart,
	} {
		if some() {
			pod.Labels[label] = "true"
		}
	}
	if r.IntN(10) == 0 {
		pod.Labels[contract.LabelEnableInjection] = "false"
	}
	if some() {
		pod.Labels[contract.DatasetSchedLabel("training")] = contract.SchedRequired
	}
	for _, annotation := range []string{contract.AnnotationSkipPrecheck, contract.AnnotationPrefetch} {
		if some() {
			pod.Annotations[annotation] = "true"
		}
	}
	if some() {
		pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
				{}, {MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpExists}}},
			}},
		}}
	}
	pod.Spec.HostNetwork = some()
	claims := []string{"training", "models", "plain"}
	if r.IntN(6) == 0 {
		claims = append(claims, "pending")
	}
	for i := range r.IntN(5) {
		v := corev1.Volume{Name: fmt.Sprintf("v%d", i)}
		switch r.IntN(5) {
		case 0:
			v.Name = fmt.Sprintf("%s%d-0", contract.SidecarName, i)
			v.EmptyDir = &corev1.EmptyDirVolumeSource{}
		case 1:
			v.Ephemeral = &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{}}
		default:
			v.PersistentVolumeClaim = &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claims[r.IntN(len(claims))], ReadOnly: some()}
		}
		pod.Spec.Volumes = append(pod.Spec.Volumes, v)
	}
	containers := func(kind string, n int) (out []corev1.Container) {
		for i := range n {
			c := corev1.Container{Name: fmt.Sprintf("%s%d", kind, i), Image: "app"}
			if some() {
				c.Name = fmt.Sprintf("%s%d", contract.SidecarName, i+len(kind))
			}
			for j, v := range pod.Spec.Volumes {
				if some() {
					continue
				}
				m := corev1.VolumeMount{Name: v.Name, MountPath: fmt.Sprintf("/m%d", j), ReadOnly: some()}
				if some() {
					m.SubPathExpr = "$(POD)/x"
				} else if some() {
					m.SubPath = "a/b"
				}
				c.VolumeMounts = append(c.VolumeMounts, m)
			}
			out = append(out, c)
		}
		return out
	}
	pod.Spec.InitContainers = containers("i", r.IntN(3))
	if some() && len(pod.Spec.InitContainers) > 0 {
		pod.Spec.InitContainers[0].RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	}
	pod.Spec.Containers = containers("app", 1+r.IntN(2))
	return pod
}

// checkMutation fails unless a pod is changed completely or not at all.
func checkMutation(t *testing.T, seed uint64, f podinject.Facts) {
	in := randomPod(seed)
	before := in.DeepCopy()
	out, err := podinject.Mutate(in, f)
	if diff := cmp.Diff(before, in); diff != "" {
		t.Fatalf("seed %d: Mutate changed its argument: (-want +got)\n%s", seed, diff)
	}
	if err != nil {
		if out != nil {
			t.Fatalf("seed %d: a refusal comes with a pod", seed)
		}
		for _, words := range []string{"Dataset pending is not bound", "kubectl wait --for=condition=Ready dataset/pending", contract.AnnotationSkipPrecheck} {
			if !strings.Contains(err.Error(), words) {
				t.Fatalf("seed %d: the refusal %q does not say %q", seed, err, words)
			}
		}
		return
	}
	other := f
	other.Suffix = "other"
	twice, err := podinject.Mutate(out, other)
	if err != nil {
		t.Fatalf("seed %d: the second call: %v", seed, err)
	}
	if diff := cmp.Diff(out, twice); diff != "" {
		t.Fatalf("seed %d: the second call changed the pod: (-once +twice)\n%s", seed, diff)
	}
	checkNames(t, seed, out)
	checkUntouched(t, seed, before, out)
	if out.Labels[contract.LabelInjectDone] != "true" {
		return
	}
	added := len(out.Spec.InitContainers) - len(before.Spec.InitContainers)
	if n := len(strings.Split(out.Annotations[contract.AnnotationDatasetsInUse], ",")); added != n {
		t.Fatalf("seed %d: %d sidecars for %d Datasets", seed, added, n)
	}
	for _, v := range out.Spec.Volumes[:len(before.Spec.Volumes)] {
		if v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName != "plain" {
			t.Fatalf("seed %d: volume %s is still claim %s: half mutated", seed, v.Name, v.PersistentVolumeClaim.ClaimName)
		}
	}
	for _, c := range out.Spec.InitContainers[:added] {
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways || c.StartupProbe == nil {
			t.Fatalf("seed %d: sidecar %s is no native one that is waited for", seed, c.Name)
		}
	}
}

func checkNames(t *testing.T, seed uint64, pod *corev1.Pod) {
	// Names of the random pod itself may be there twice; those that were added may not.
	seen := map[string]int{}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		seen[c.Name]++
		if _, own := pod.Labels[contract.LabelSidecarDatasetName+c.Name]; own && seen[c.Name] > 1 {
			t.Fatalf("seed %d: two containers %s", seed, c.Name)
		}
	}
	volumes := map[string]bool{}
	for _, v := range pod.Spec.Volumes {
		if volumes[v.Name] {
			t.Fatalf("seed %d: two volumes %s", seed, v.Name)
		}
		volumes[v.Name] = true
	}
}

// checkUntouched: mounts of a Dataset may become read-only and see later
// mounts, volumes of a Dataset's claim show a directory; the rest stays.
func checkUntouched(t *testing.T, seed uint64, before, after *corev1.Pod) {
	added := len(after.Spec.InitContainers) - len(before.Spec.InitContainers)
	rest := after.DeepCopy()
	rest.Spec.InitContainers = rest.Spec.InitContainers[added:]
	rest.Spec.Volumes = rest.Spec.Volumes[:len(before.Spec.Volumes)]
	of := map[string]bool{}
	for i, v := range before.Spec.Volumes {
		if v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName != "plain" && after.Labels[contract.LabelInjectDone] == "true" {
			of[v.Name] = true
			rest.Spec.Volumes[i].VolumeSource = v.VolumeSource
		}
	}
	ignore := cmp.FilterPath(func(p cmp.Path) bool {
		last, ok := p.Last().(cmp.StructField)
		return ok && (last.Name() == "MountPropagation" || last.Name() == "ReadOnly")
	}, cmp.Ignore())
	if diff := cmp.Diff(before.Spec, rest.Spec, ignore, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(corev1.PodSpec{}, "Affinity", "ImagePullSecrets")); diff != "" {
		t.Fatalf("seed %d: something else was changed: (-want +got)\n%s", seed, diff)
	}
	compare := func(old, now []corev1.Container) {
		for i := range old {
			for j, m := range old[i].VolumeMounts {
				got := now[i].VolumeMounts[j]
				if !of[m.Name] && !cmp.Equal(m, got) {
					t.Fatalf("seed %d: mount %s of another volume was changed", seed, m.Name)
				}
				if of[m.Name] && (got.MountPropagation == nil || m.ReadOnly && !got.ReadOnly) {
					t.Fatalf("seed %d: mount %s does not see its Dataset as it should: %+v", seed, m.Name, got)
				}
			}
		}
	}
	compare(before.Spec.InitContainers, rest.Spec.InitContainers)
	compare(before.Spec.Containers, rest.Spec.Containers)
	for key, value := range before.Labels {
		if after.Labels[key] != value {
			t.Fatalf("seed %d: label %s was changed", seed, key)
		}
	}
}

func TestPain9NoPodIsHalfMutated(t *testing.T) {
	f := threeDatasets(t)
	for seed := range uint64(500) {
		checkMutation(t, seed, f)
	}
}

func FuzzMutate(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { checkMutation(t, seed, threeDatasets(t)) })
}

// Kubernetes ends native sidecars when the other containers have ended, and
// starts what follows them when their start-up probe has passed.
func TestPain14JobsEndAsTheirSidecarIsANativeOneAheadOfAllThatReads(t *testing.T) {
	pod := load[corev1.Pod](t, "pod.yaml")
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	out, err := podinject.Mutate(pod, facts(t))
	if err != nil {
		t.Fatal(err)
	}
	first := out.Spec.InitContainers[0]
	if first.RestartPolicy == nil || *first.RestartPolicy != corev1.ContainerRestartPolicyAlways || first.StartupProbe == nil || first.StartupProbe.Exec == nil {
		t.Errorf("the first init container is no sidecar that is waited for: %+v", first)
	}
	if len(out.Spec.Containers) != len(pod.Spec.Containers) {
		t.Error("a container was added that a Job would wait for")
	}
}

func TestNamesThatAreTakenAreLeftToThePod(t *testing.T) {
	f, pod := threeDatasets(t), load[corev1.Pod](t, "pod.yaml")
	pod.Spec.Containers[0].Name = "fluid-fuse-0"
	pod.Spec.Volumes = append(pod.Spec.Volumes,
		corev1.Volume{Name: "m", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "models"}}},
		corev1.Volume{Name: "fluid-fuse-2-0"})
	out, err := podinject.Mutate(pod, f)
	if err != nil {
		t.Fatal(err)
	}
	if got := []string{out.Spec.InitContainers[0].Name, out.Spec.InitContainers[1].Name}; !slices.Equal(got, []string{"fluid-fuse-1", "fluid-fuse-3"}) {
		t.Errorf("sidecars are named %v", got)
	}
	if p := out.Spec.Containers[0].VolumeMounts[0].MountPropagation; p == nil {
		t.Error("the app's container of a sidecar's name does not see the mount")
	}
}

func TestWhatIsNotServedIsSaid(t *testing.T) {
	for sentence, tc := range map[string]struct {
		label, annotation, value string
		words                    string // "" means that it is served
	}{
		"an unprivileged sidecar":        {label: contract.LabelUnprivilegedSidecar, value: "true", words: "privileged all the same"},
		"a cache directory":              {label: contract.LabelCacheDirSidecar, value: "true", words: "the workers keep the cache"},
		"an unknown platform":            {annotation: contract.AnnotationPlatform, value: "moon", words: `platform "moon" is not known`},
		"the default platform":           {annotation: contract.AnnotationPlatform, value: "Default"},
		"files that are read ahead":      {annotation: contract.AnnotationPrefetch, value: "true", words: "create a DataLoad"},
		"a requirement without a claim":  {label: contract.DatasetSchedLabel("other"), value: contract.SchedRequired, words: "mounts no claim other"},
		"a requirement of another value": {label: contract.DatasetSchedLabel("training"), value: "maybe", words: `"maybe" is not known`},
		"an app that waits":              {label: contract.LabelAppPostStart, value: "true"},
		"a sidecar that is waited for":   {label: contract.LabelFusePostStart, value: "true"},
	} {
		t.Run(sentence, func(t *testing.T) {
			pod := load[corev1.Pod](t, "pod.yaml")
			pod.Annotations = map[string]string{}
			if tc.label != "" {
				pod.Labels[tc.label] = tc.value
			} else {
				pod.Annotations[tc.annotation] = tc.value
			}
			out, err := podinject.Mutate(pod, facts(t))
			if err != nil {
				t.Fatal(err)
			}
			warnings := podinject.NotServed(pod)
			if got := out.Annotations[contract.AnnotationNotServed]; got != strings.Join(warnings, "; ") {
				t.Errorf("annotation %q, warnings %q", got, warnings)
			}
			if tc.words == "" && len(warnings) > 0 || tc.words != "" && (len(warnings) != 1 || !strings.Contains(warnings[0], tc.words)) {
				t.Errorf("warnings %q, want %q", warnings, tc.words)
			}
		})
	}
}
