package csi_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/sys/mountinfo"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/csi"
)

// pod runs on the station's node and has host paths.
func (s *station) pod(name string, hostPaths ...string) *corev1.Pod {
	s.t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: s.name + "-" + name, Namespace: "default"},
		Spec: corev1.PodSpec{
			NodeName:   s.name,
			Containers: []corev1.Container{{Name: "app", Image: "none"}},
		},
	}
	for i, p := range hostPaths {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{
			Name:         string(rune('a' + i)),
			VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: p}},
		})
	}
	created, err := admin.CoreV1().Pods("default").Create(s.t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return created
}

func (s *station) remove(pod *corev1.Pod) {
	s.t.Helper()
	zero := int64(0)
	if err := admin.CoreV1().Pods("default").Delete(s.t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *station) sidecarDir(suffix string) string {
	return contract.SidecarMountDir(s.root, contract.RuntimeCache, "ns", "data", suffix)
}

func isMount(t *testing.T, path string) bool {
	t.Helper()
	found, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(path))
	if err != nil {
		t.Fatal(err)
	}
	return len(found) > 0
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, os.ErrNotExist) // a dead mount is there
}

func TestTheMountsOfAPodAreSweptWhenItIsGoneAndNoneElse(t *testing.T) {
	s := start(t)
	gone, stays := s.sidecarDir("gone"), s.sidecarDir("stays")
	podGone, podStays := s.pod("gone", gone), s.pod("stays", filepath.Join(stays, "cache-fuse"))
	s.mountDead(filepath.Join(gone, "cache-fuse"))
	s.mountDead(filepath.Join(stays, "cache-fuse"))
	s.remove(podGone)
	s.eventually("the directory is gone", func() bool { return !exists(gone) })
	if !isMount(t, filepath.Join(stays, "cache-fuse")) {
		t.Error("the mount of a pod that is there was taken away")
	}
	s.remove(podStays)
	s.eventually("the other directory is gone", func() bool { return !exists(stays) })
}

func TestAPodThatHasEndedClaimsNothing(t *testing.T) {
	s := start(t)
	dir := s.sidecarDir("job")
	pod := s.pod("job", dir)
	s.mountDead(dir) // on the directory itself
	pod.Status.Phase = corev1.PodSucceeded
	if _, err := admin.CoreV1().Pods("default").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.eventually("the directory is gone", func() bool { return !exists(dir) })
}

func TestWhatWasLeftWhileThePluginWasDownIsSweptAtStart(t *testing.T) {
	s := start(t, func(c *csi.Config) {
		early := &station{t: t, root: c.MountRoot}
		early.mountDead(filepath.Join(early.sidecarDir("old"), "cache-fuse"))
		early.mountDead(early.fusePath())
		early.mountDead(early.fusePath())
	})
	s.eventually("the sidecar's directory is gone", func() bool { return !exists(s.sidecarDir("old")) })
	s.eventually("the FUSE of the runtime is gone", func() bool { return !isMount(t, s.fusePath()) })
}

func TestAFUSEThatLivesIsLeftAlone(t *testing.T) {
	s := start(t)
	live := s.sidecarDir("live")
	server := s.mountFUSE(filepath.Join(live, "cache-fuse"), content)
	dead := s.sidecarDir("dead")
	pod := s.pod("dead", dead)
	s.mountDead(dead)
	s.remove(pod)
	s.eventually("the dead one is gone", func() bool { return !exists(dead) })
	s.wantFile(filepath.Join(live, "cache-fuse", "hello"), "world")
	// Its server ends later than its pod was deleted: the sweep comes again.
	if err := server.Unmount(); err != nil {
		t.Fatal(err)
	}
	s.eventually("the directory is gone", func() bool { return !exists(live) })
}
