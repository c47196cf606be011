package podinject_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/webhook/podinject"
)

// foreignClient is the FUSE pod of an engine that is not ours, as the controllers
// make it.
func foreignClient() *corev1.PodTemplateSpec {
	dir := contract.RuntimeDir(contract.DefaultMountRoot, contract.RuntimeCache, "default", "training")
	fuse := corev1.VolumeMount{Name: "fuse", MountPath: dir, MountPropagation: ptr.To(corev1.MountPropagationBidirectional)}
	helper := corev1.VolumeMount{Name: "helper", MountPath: contract.HelperDir}
	out := &corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{
			{Name: contract.PrepareContainer, Image: "cache:1", VolumeMounts: []corev1.VolumeMount{helper, fuse}},
			{Name: "init", Image: "engine:1"},
		},
		Containers: []corev1.Container{{
			Name: "client", Image: "engine:1", Command: []string{"/engine"}, Args: []string{"mount"}, VolumeMounts: []corev1.VolumeMount{fuse, helper},
			Env:             []corev1.EnvVar{{Name: contract.EnvRuntimeMountPath, Value: dir + "/cache-fuse"}},
			SecurityContext: &corev1.SecurityContext{Privileged: ptr.To(true)},
		}},
		Volumes: []corev1.Volume{
			{Name: "fuse", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}},
			{Name: "helper", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "unused", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		},
	}}
	out.Annotations = map[string]string{contract.AnnotationFileSystem: "fuse.other"}
	return out
}

func TestSidecarOfAnotherEngineMountsWhereItsConfigurationSays(t *testing.T) {
	f := facts(t)
	claim := f.Claims["training"]
	claim.Client = foreignClient()
	f.Claims["training"] = claim
	out, err := podinject.Mutate(load[corev1.Pod](t, "pod.yaml"), f)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range out.Spec.InitContainers[:3] {
		names = append(names, c.Name)
	}
	if diff := cmp.Diff([]string{"fluid-fuse-0-init-0", "fluid-fuse-0-init-1", "fluid-fuse-0"}, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	dir := claim.Client.Spec.Volumes[0].HostPath.Path
	sidecar := out.Spec.InitContainers[2]
	if diff := cmp.Diff([]string{"mount"}, sidecar.Args); diff != "" {
		t.Errorf("arguments that the engine does not know: %s", diff)
	}
	if sidecar.VolumeMounts[0].MountPath != dir || sidecar.Env[0].Value != dir+"/cache-fuse" {
		t.Errorf("mounts at %s, told %s", sidecar.VolumeMounts[0].MountPath, sidecar.Env[0].Value)
	}
	want := []string{contract.HelperBinary, "fuse-ready", "--mount-path", dir + "/cache-fuse"}
	if diff := cmp.Diff(want, sidecar.StartupProbe.Exec.Command); diff != "" {
		t.Errorf("probe (-want +got):\n%s", diff)
	}
	// On the host the pod has a directory of its own, and the app sees the FUSE there.
	hosts := map[string]string{}
	for _, v := range out.Spec.Volumes {
		if v.HostPath != nil {
			hosts[v.Name] = v.HostPath.Path
		}
	}
	own := contract.SidecarMountDir(contract.DefaultMountRoot, contract.RuntimeCache, "default", "training", "abc123")
	if hosts[sidecar.VolumeMounts[0].Name] != own || hosts["data"] != own+"/cache-fuse" {
		t.Errorf("host paths %v", hosts)
	}
	for _, v := range out.Spec.Volumes {
		if strings.HasPrefix(v.Name, "fluid-fuse-0-2") {
			t.Errorf("a volume that nobody mounts: %+v", v)
		}
	}
	again, err := podinject.Mutate(out, f)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(out, again); diff != "" {
		t.Errorf("a second call changed the pod: (-once +twice)\n%s", diff)
	}
}
