package podinject_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/webhook/podinject"
)

// referring are facts of a Dataset view that shows train of Dataset training.
func referring(t *testing.T, namespace string) podinject.Facts {
	t.Helper()
	f := facts(t)
	claim := f.Claims["training"]
	claim.Source, claim.Sub = claim.Dataset, "train"
	claim.Dataset = &datav1alpha1.Dataset{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "view", UID: "3333"}, Status: claim.Source.Status}
	f.Claims = map[string]podinject.Claim{"view": claim}
	return f
}

func TestPodsOfADatasetThatRefersGoToTheBytesOfTheOther(t *testing.T) {
	pod := labelled("app", contract.LabelServerfulFuse, "view")
	pod.Labels[contract.DatasetSchedLabel("view")] = contract.SchedRequired
	out, err := podinject.Mutate(pod, referring(t, "elsewhere"))
	if err != nil {
		t.Fatal(err)
	}
	affinity := out.Spec.Affinity.NodeAffinity
	if len(affinity.PreferredDuringSchedulingIgnoredDuringExecution) != 2 {
		t.Errorf("prefers %+v", affinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if got := affinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchExpressions[0].Key; got != "fluid.io/s-default-training" {
		t.Errorf("requires nodes with label %s", got)
	}
	if len(out.Spec.InitContainers) != 0 || out.Spec.Volumes[0].PersistentVolumeClaim == nil {
		t.Error("the pod got a sidecar")
	}
}

func TestASidecarServesADatasetThatRefersWithinItsNamespace(t *testing.T) {
	pod := labelled("app", contract.LabelServerlessFuse, "view")
	c := &pod.Spec.Containers[0]
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "data", MountPath: "/a", SubPath: "a"}, corev1.VolumeMount{Name: "data", MountPath: "/b", SubPathExpr: "$(POD)/b"})
	out, err := podinject.Mutate(pod, referring(t, "default"))
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Spec.InitContainers) != 1 || out.Labels[contract.LabelSidecarDatasetName+"fluid-fuse-0"] != "view" {
		t.Fatalf("sidecars %+v, labels %v", out.Spec.InitContainers, out.Labels)
	}
	if dir := out.Spec.Volumes[0].HostPath.Path; dir != "/runtime-mnt/cache/default/view/pods/abc123/cache-fuse" {
		t.Errorf("the app sees %s", dir)
	}
	mounts := out.Spec.Containers[0].VolumeMounts
	if mounts[0].SubPath != "train" || mounts[1].SubPath != "train/a" || mounts[2].SubPathExpr != "train/$(POD)/b" || mounts[2].SubPath != "" {
		t.Errorf("mounts %+v", mounts)
	}
}

func TestASidecarOfAnotherNamespacesDatasetIsRefused(t *testing.T) {
	f := referring(t, "elsewhere")
	_, err := podinject.Mutate(labelled("app", contract.LabelServerlessFuse, "view"), f)
	if err == nil || !strings.Contains(err.Error(), "Secrets of that namespace") || !strings.Contains(err.Error(), contract.LabelServerfulFuse) {
		t.Errorf("refused with %v", err)
	}
}

// references has the webhook find the Dataset that another refers to by itself.
func (d *door) references(t *testing.T) {
	for _, ns := range []string{"origin", "viewers"} {
		d.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "default"}})
	}
	d.dataset("origin", "training", contract.RuntimeCache, datav1alpha1.BoundDatasetPhase)
	for _, ns := range []string{"origin", "viewers"} {
		view := &datav1alpha1.Dataset{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "view"}, Spec: datav1alpha1.DatasetSpec{
			Mounts: []datav1alpha1.Mount{{MountPoint: "dataset://origin/training/train"}}}, Status: datav1alpha1.DatasetStatus{Phase: datav1alpha1.BoundDatasetPhase}}
		d.create(view)
		claim := claimOf(ns, "view")
		claim.Labels = map[string]string{contract.LabelDatasetID: ns + "-view"}
		d.create(claim)
	}
	ask := func(namespace, label string, ok func(answer) bool) {
		t.Helper()
		var got answer
		until(t, func() error {
			pod := labelled("app", label, "view")
			pod.Namespace = namespace
			if got = d.ask(t, pod, client.DryRunAll); !ok(got) {
				return fmt.Errorf("pod of %s with %s: %+v", namespace, label, got)
			}
			return nil
		})
	}
	ask("origin", contract.LabelServerlessFuse, func(a answer) bool {
		return a.Pod != nil && len(a.Pod.Spec.InitContainers) == 1 && a.Pod.Spec.Containers[0].VolumeMounts[0].SubPath == "train"
	})
	ask("viewers", contract.LabelServerlessFuse, func(a answer) bool { return strings.Contains(a.Refused, "Secrets of that namespace") })
	ask("viewers", contract.LabelServerfulFuse, func(a answer) bool {
		return a.Pod != nil && a.Pod.Spec.Affinity != nil && len(a.Pod.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0
	})
}
