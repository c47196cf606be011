package podinject

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/millrace/millrace/apis/contract"
)

// sidecar is the FUSE client of one Dataset within one pod.
type sidecar struct {
	name  string
	claim Claim
	// runtimeDir is where the template mounts its FUSE; hostDir takes its place.
	runtimeDir string
	hostDir    string
	// fuseDir is the mount point: the same path in the sidecar and on the host.
	fuseDir string
}

// build makes the container and its volumes from the template of the Dataset's
// FUSE pods. What serves one pod per node there serves one pod here: another
// mount point, no port, no name of its own.
func (s *sidecar) build() (corev1.Container, []corev1.Volume, error) {
	template := s.claim.Client.Spec.DeepCopy()
	c := template.Containers[0]
	c.Name = s.name
	c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	c.Ports = nil
	c.LivenessProbe, c.ReadinessProbe = nil, nil
	c.StartupProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{binary, "fuse-ready", "--mount-path", s.fuseDir}}},
		PeriodSeconds: 1, TimeoutSeconds: 5, FailureThreshold: startSeconds,
	}
	c.Args = append(c.Args, "--http-address=")
	c.Env = replaceEnv(c.Env, contract.EnvRuntimeMountPath, s.fuseDir)
	if c.SecurityContext == nil {
		c.SecurityContext = &corev1.SecurityContext{}
	}
	// The app's pod may have another user; the sidecar keeps its own.
	c.SecurityContext.RunAsUser, c.SecurityContext.RunAsGroup, c.SecurityContext.RunAsNonRoot = ptr.To[int64](0), ptr.To[int64](0), ptr.To(false)

	var volumes []corev1.Volume
	names := map[string]string{}
	for _, v := range template.Volumes {
		if !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name }) {
			continue
		}
		// Names are numbers, so that they are neither too long nor the app's.
		names[v.Name] = fmt.Sprintf("%s-%d", s.name, len(volumes))
		if v.HostPath != nil && v.HostPath.Path == s.runtimeDir {
			v.VolumeSource = hostPath(s.hostDir)
		}
		v.Name = names[v.Name]
		volumes = append(volumes, v)
	}
	mounted := false
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		name, ok := names[m.Name]
		if !ok {
			return corev1.Container{}, nil, fmt.Errorf("the FUSE template of Dataset %s mounts volume %s, which it does not have", s.claim.Dataset.Name, m.Name)
		}
		m.Name = name
		if m.MountPath == s.runtimeDir {
			m.MountPath, mounted = s.hostDir, true
		}
	}
	if !mounted {
		return corev1.Container{}, nil, fmt.Errorf("the FUSE template of Dataset %s does not mount %s", s.claim.Dataset.Name, s.runtimeDir)
	}
	return c, volumes, nil
}

func replaceEnv(env []corev1.EnvVar, name, value string) []corev1.EnvVar {
	for i := range env {
		if env[i].Name == name {
			env[i] = corev1.EnvVar{Name: name, Value: value}
			return env
		}
	}
	return append(env, corev1.EnvVar{Name: name, Value: value})
}
