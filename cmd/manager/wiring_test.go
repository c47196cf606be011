package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestACachedPodKeepsWhatSomebodyReads(t *testing.T) {
	kept := func() *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "app", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}},
			Spec: corev1.PodSpec{
				NodeName:       "node-1",
				InitContainers: []corev1.Container{{Name: "first"}},
				Containers:     []corev1.Container{{Name: "app"}},
				Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
					PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}},
			},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"},
		}
	}
	pod := kept()
	pod.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}
	pod.Spec.Tolerations = []corev1.Toleration{{Key: "gpu"}}
	pod.Spec.Affinity = &corev1.Affinity{}
	pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "TOKEN", Value: "a secret of the app"}}
	pod.Spec.InitContainers[0].Image = "image"
	got, err := slimPod(pod)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(kept(), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhoManagesAnObjectIsKept(t *testing.T) {
	obj := &corev1.Service{ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "millrace", FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:spec":{}}`)}}}}}
	if _, err := forgetFields(obj); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]metav1.ManagedFieldsEntry{{Manager: "millrace"}}, obj.ManagedFields); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
