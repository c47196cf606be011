package podinject

import (
	"fmt"
	"path"
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

// foreign tells that the engine is not ours.
func (s *sidecar) foreign() bool {
	return s.claim.Client.Annotations[contract.AnnotationFileSystem] != ""
}

// build makes the containers and their volumes from the template of the Dataset's
// FUSE pods, in the order in which they start. What serves one pod per node there
// serves one pod here: another mount point, no port, no name of its own.
func (s *sidecar) build() ([]corev1.Container, []corev1.Volume, error) {
	template := s.claim.Client.Spec.DeepCopy()
	containers := []corev1.Container{s.container(template.Containers[0])}
	if s.foreign() {
		for i, init := range slices.Backward(template.InitContainers) {
			init.Name = fmt.Sprintf("%s-init-%d", s.name, i)
			containers = append([]corev1.Container{init}, containers...)
		}
	}
	volumes, err := s.volumes(template.Volumes, containers)
	return containers, volumes, err
}

// container is the one that serves the FUSE.
func (s *sidecar) container(c corev1.Container) corev1.Container {
	c.Name = s.name
	c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	c.Ports = nil
	c.LivenessProbe, c.ReadinessProbe = nil, nil
	program, mountPath := binary, s.fuseDir
	if s.foreign() {
		// The engine mounts where its own configuration says; the host has that
		// directory elsewhere for each pod.
		program, mountPath = contract.HelperBinary, path.Join(s.runtimeDir, path.Base(s.fuseDir))
	} else {
		c.Args = append(c.Args, "--http-address=")
	}
	c.StartupProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{program, "fuse-ready", "--mount-path", mountPath}}},
		PeriodSeconds: 1, TimeoutSeconds: 5, FailureThreshold: startSeconds,
	}
	c.Env = replaceEnv(c.Env, contract.EnvRuntimeMountPath, mountPath)
	if c.SecurityContext == nil {
		c.SecurityContext = &corev1.SecurityContext{}
	}
	// The app's pod may have another user; the sidecar keeps its own.
	if c.SecurityContext.RunAsUser == nil || !s.foreign() {
		c.SecurityContext.RunAsUser, c.SecurityContext.RunAsGroup, c.SecurityContext.RunAsNonRoot = ptr.To[int64](0), ptr.To[int64](0), ptr.To(false)
	}
	return c
}

// volumes are those of the template that the containers mount, under names of
// their own, which the containers are told.
func (s *sidecar) volumes(all []corev1.Volume, containers []corev1.Container) ([]corev1.Volume, error) {
	var volumes []corev1.Volume
	names := map[string]string{}
	for _, v := range all {
		mounts := func(c corev1.Container) bool {
			return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name })
		}
		if !slices.ContainsFunc(containers, mounts) {
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
	for _, c := range containers {
		for i := range c.VolumeMounts {
			m := &c.VolumeMounts[i]
			name, ok := names[m.Name]
			if !ok {
				return nil, fmt.Errorf("the FUSE template of Dataset %s mounts volume %s, which it does not have", s.claim.Dataset.Name, m.Name)
			}
			m.Name = name
			if m.MountPath != s.runtimeDir {
				continue
			}
			mounted = true
			if !s.foreign() {
				m.MountPath = s.hostDir
			}
		}
	}
	if !mounted {
		return nil, fmt.Errorf("the FUSE template of Dataset %s does not mount %s", s.claim.Dataset.Name, s.runtimeDir)
	}
	return volumes, nil
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
