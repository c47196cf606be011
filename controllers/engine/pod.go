package engine

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/millrace/millrace/apis/contract"
)

// ContainerName is the name of the engine's container unless a class names it.
const ContainerName = "cache"

// pod is the template of a component's pods: the class's template with our
// container filled in and everything mounted that the component reads.
func (d *Description) pod(c contract.ComponentType) corev1.PodTemplateSpec {
	spec := d.component(c)
	pod := *spec.Template.DeepCopy()
	pod.Labels = merged(pod.Labels, spec.Labels, d.objectLabels(c))
	pod.Annotations = merged(pod.Annotations, spec.Annotations)
	pod.Spec.NodeSelector = merged(pod.Spec.NodeSelector, spec.NodeSelector)
	pod.Spec.Tolerations = slices.Concat(pod.Spec.Tolerations, spec.Tolerations)
	pod.Spec.ImagePullSecrets = slices.Concat(pod.Spec.ImagePullSecrets, d.ImagePullSecrets)
	pod.Spec.AutomountServiceAccountToken = ptr.To(false)
	pod.Spec.EnableServiceLinks = ptr.To(false)
	if d.Foreign == nil || pod.Spec.TerminationGracePeriodSeconds == nil {
		pod.Spec.TerminationGracePeriodSeconds = ptr.To(gracePeriod(c))
	}

	volumes, mounts := d.volumes(c)
	if len(pod.Spec.Containers) == 0 {
		pod.Spec.Containers = []corev1.Container{{}}
	}
	d.fill(&pod.Spec.Containers[0], c, mounts)
	if len(pod.Spec.InitContainers) > 0 {
		init := &pod.Spec.InitContainers[0]
		init.Env = d.env(c, init.Env)
		for _, m := range mounts {
			if m.MountPropagation != nil && *m.MountPropagation == corev1.MountPropagationBidirectional {
				m.MountPropagation = ptr.To(corev1.MountPropagationHostToContainer) // it may have no privilege
			}
			init.VolumeMounts = append(init.VolumeMounts, m)
		}
	}
	pod.Spec.Volumes = append(pod.Spec.Volumes, volumes...)
	if d.Foreign != nil {
		d.equip(&pod, c)
	}
	return pod
}

func gracePeriod(c contract.ComponentType) int64 {
	if c == contract.ComponentClient {
		return 30
	}
	return 10
}

// fill makes the engine's container of what the class says of it.
func (d *Description) fill(container *corev1.Container, c contract.ComponentType, mounts []corev1.VolumeMount) {
	spec := d.component(c)
	if container.Name == "" {
		container.Name = ContainerName
	}
	if spec.Image != "" {
		container.Image = spec.Image
	}
	if spec.PullPolicy != "" {
		container.ImagePullPolicy = spec.PullPolicy
	}
	if d.Foreign == nil && len(container.Args) == 0 && len(container.Command) == 0 {
		container.Args = []string{subcommand(c)}
	}
	container.Args = slices.Concat(container.Args, spec.Args)
	container.Env = d.env(c, slices.Concat(container.Env, spec.Env))
	container.VolumeMounts = slices.Concat(container.VolumeMounts, mounts, spec.VolumeMounts)
	container.Resources = overlay(container.Resources, spec.Resources)
	reserveMemory(&container.Resources, spec.MemoryBytes())
	if container.TerminationMessagePolicy == "" {
		container.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	}
	if d.Foreign == nil {
		fillNative(container, c, d.ports(c))
	}
}

// fillNative gives a container of ours what its class leaves out.
func fillNative(container *corev1.Container, c contract.ComponentType, ports []corev1.ContainerPort) {
	if len(container.Ports) == 0 {
		container.Ports = ports
	}
	if container.ReadinessProbe == nil && container.StartupProbe == nil {
		// The start is watched closely, so that binding is quick; after that
		// the kubelet asks seldom.
		container.StartupProbe = probe(1, 120)
		container.ReadinessProbe = probe(10, 3)
	}
	if container.SecurityContext == nil {
		container.SecurityContext = security(c)
	}
}

func subcommand(c contract.ComponentType) string {
	if c == contract.ComponentClient {
		return "fuse"
	}
	return string(c)
}

// security: only the client mounts, and for that the kernel wants CAP_SYS_ADMIN
// and Kubernetes wants privilege (docs/adr/0001).
func security(c contract.ComponentType) *corev1.SecurityContext {
	if c == contract.ComponentClient {
		return &corev1.SecurityContext{Privileged: ptr.To(true)}
	}
	return &corev1.SecurityContext{AllowPrivilegeEscalation: ptr.To(false)}
}

func probe(periodSeconds, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: contract.PathHealthy, Port: intstr.FromString("http")}},
		PeriodSeconds: periodSeconds, FailureThreshold: failures, TimeoutSeconds: 2,
	}
}

// env puts the contract's variables first; of two others with one name the
// later one stays, and none replaces ours.
func (d *Description) env(c contract.ComponentType, others []corev1.EnvVar) []corev1.EnvVar {
	value := func(name, value string) corev1.EnvVar { return corev1.EnvVar{Name: name, Value: value} }
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}}
	}
	env := []corev1.EnvVar{
		value(contract.EnvDatasetName, d.Name),
		value(contract.EnvDatasetNamespace, d.Namespace),
		value(contract.EnvRuntimeConfig, contract.RuntimeConfigPath),
		value(contract.EnvRuntimeMountPath, d.FuseMountPath()),
		value(contract.EnvComponentType, string(c)),
		value(contract.EnvComponentService, d.serviceName(c)),
		field(contract.EnvNodeName, "spec.nodeName"),
		field(contract.EnvPodName, "metadata.name"),
		field(contract.EnvPodIP, "status.podIP"),
	}
	if c == contract.ComponentMaster && d.Foreign == nil {
		env = append(env, value(contract.EnvStateDir, contract.MasterStateDir))
	}
	ours := len(env)
	for _, e := range others {
		i := slices.IndexFunc(env, func(have corev1.EnvVar) bool { return have.Name == e.Name })
		switch {
		case i < 0:
			env = append(env, e)
		case i >= ours:
			env[i] = e
		}
	}
	return env
}

// volumes are what a component's container mounts: its configuration, the
// secrets and directories of the sources, its tiers, and the directory in which
// worker and client of a node meet.
func (d *Description) volumes(c contract.ComponentType) (volumes []corev1.Volume, mounts []corev1.VolumeMount) {
	add := func(name string, source corev1.VolumeSource, mount corev1.VolumeMount) {
		mount.Name = name
		volumes = append(volumes, corev1.Volume{Name: name, VolumeSource: source})
		mounts = append(mounts, mount)
	}
	add("runtime-config", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: contract.ConfigMapName(d.Name)},
	}}, corev1.VolumeMount{MountPath: contract.RuntimeConfigDir, ReadOnly: true})
	for i, secret := range d.secretsOf(c) {
		add(fmt.Sprintf("secret-%d", i), d.secretVolume(secret), corev1.VolumeMount{MountPath: contract.SecretPath(secret, ""), ReadOnly: true})
	}
	for i, name := range d.Sources.HadoopConfigs {
		add(fmt.Sprintf("hadoop-%d", i), corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: name},
		}}, corev1.VolumeMount{MountPath: contract.HadoopConfigPath(name), ReadOnly: true})
	}
	// A source that is mounted again on the node must be seen in the pod.
	fromHost := ptr.To(corev1.MountPropagationHostToContainer)
	for i, claim := range d.Sources.Claims {
		add(fmt.Sprintf("claim-%d", i), corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{
			ClaimName: claim, ReadOnly: true,
		}}, corev1.VolumeMount{MountPath: contract.PVCDir(claim), ReadOnly: true, MountPropagation: fromHost})
	}
	for i, dir := range d.Sources.HostPaths {
		add(fmt.Sprintf("host-%d", i), hostPath(dir, corev1.HostPathDirectory),
			corev1.VolumeMount{MountPath: contract.LocalDir(dir), ReadOnly: true, MountPropagation: fromHost})
	}
	if d.Foreign != nil {
		for i, extra := range d.component(c).ExtraMounts {
			add(fmt.Sprintf("extra-%d", i), corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
				LocalObjectReference: corev1.LocalObjectReference{Name: d.extraName(extra.ConfigMap)}, DefaultMode: ptr.To[int32](0o555),
			}}, corev1.VolumeMount{MountPath: extra.MountPath, ReadOnly: true})
		}
	} else if c == contract.ComponentMaster {
		// What it keeps survives its container; the user may mount what
		// survives the pod as well.
		own := func(m corev1.VolumeMount) bool { return m.MountPath == contract.MasterStateDir }
		if !slices.ContainsFunc(d.Master.VolumeMounts, own) {
			add("state", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}, corev1.VolumeMount{MountPath: contract.MasterStateDir})
		}
	} else {
		add("run", hostPath(contract.HostRunDir(d.MountRoot, d.Type, d.Namespace, d.Name), corev1.HostPathDirectoryOrCreate),
			corev1.VolumeMount{MountPath: contract.RunDir})
	}
	if c == contract.ComponentClient {
		mount := d.fuseMount()
		add(mount.Name, hostPath(mount.MountPath, corev1.HostPathDirectoryOrCreate), mount)
	}
	for i, tier := range d.component(c).Tiers {
		for j, dir := range tier.Dirs {
			add(fmt.Sprintf("tier-%d-%d", i, j), d.tierVolume(dir), corev1.VolumeMount{MountPath: dir.mountPath(i, j)})
		}
	}
	return append(volumes, d.named(c)...), mounts
}

// fuseMount is of the parent of the mount point, so that a restarted container
// never finds a dead FUSE as the source of its own mount.
func (d *Description) fuseMount() corev1.VolumeMount {
	return corev1.VolumeMount{
		Name: "fuse", MountPath: contract.RuntimeDir(d.MountRoot, d.Type, d.Namespace, d.Name),
		MountPropagation: ptr.To(corev1.MountPropagationBidirectional),
	}
}

// secretsOf are the names of the Secrets that a component's pods mount, sorted.
func (d *Description) secretsOf(c contract.ComponentType) []string {
	if d.component(c).NoSecrets {
		return nil
	}
	return d.Sources.SecretNames()
}

// named are the user's volumes that a component's mounts name.
func (d *Description) named(c contract.ComponentType) []corev1.Volume {
	var out []corev1.Volume
	for _, v := range d.Volumes {
		if slices.ContainsFunc(d.component(c).VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name }) {
			out = append(out, v)
		}
	}
	return out
}

func (d *Description) tierVolume(dir TierDir) corev1.VolumeSource {
	if dir.HostPath != "" {
		return hostPath(contract.TierHostDir(dir.HostPath, d.Namespace, d.Name), corev1.HostPathDirectoryOrCreate)
	}
	// The files of a cache are a little more than the bytes that it counts.
	limit := quantity(dir.QuotaBytes + dir.QuotaBytes/16)
	source := &corev1.EmptyDirVolumeSource{SizeLimit: &limit}
	if dir.inMemory() {
		source.Medium = corev1.StorageMediumMemory
	}
	return corev1.VolumeSource{EmptyDir: source}
}

func (d *Description) secretVolume(name string) corev1.VolumeSource {
	source := &corev1.SecretVolumeSource{SecretName: name, DefaultMode: ptr.To[int32](0o400)}
	if d.Foreign != nil {
		source.DefaultMode = ptr.To[int32](0o444) // who the engine runs as is its image's affair
	}
	for _, key := range d.Sources.Secrets[name] {
		source.Items = append(source.Items, corev1.KeyToPath{Key: key, Path: key})
	}
	return corev1.VolumeSource{Secret: source}
}

func hostPath(path string, t corev1.HostPathType) corev1.VolumeSource {
	return corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: ptr.To(t)}}
}

// reserveMemory asks the scheduler for the memory that the tiers will take,
// unless what is asked for already covers it.
func reserveMemory(r *corev1.ResourceRequirements, tierBytes int64) {
	have := r.Requests[corev1.ResourceMemory]
	if tierBytes <= have.Value() {
		return
	}
	r.Requests = merged(r.Requests, corev1.ResourceList{corev1.ResourceMemory: quantity(tierBytes + have.Value())})
}

// overlay puts the resources that are said over those of the class.
func overlay(under, over corev1.ResourceRequirements) corev1.ResourceRequirements {
	under.Limits = merged(under.Limits, over.Limits)
	under.Requests = merged(under.Requests, over.Requests)
	under.Claims = slices.Concat(under.Claims, over.Claims)
	return under
}

// merged is a new map with later values over earlier ones; nil when all are
// empty, but for labels and annotations, which builders add to.
func merged[M ~map[K]V, K comparable, V any](layers ...M) M {
	out := M{}
	for _, layer := range layers {
		maps.Copy(out, layer)
	}
	return out
}

func quantity(bytes int64) resource.Quantity { return *resource.NewQuantity(bytes, resource.BinarySI) }
