package engine

import (
	"context"
	"fmt"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
)

// Foreign is what an engine that is not ours is run by, beside its components.
type Foreign struct {
	// FileSystem is the class's fileSystemType, such as fuse.rclone.
	FileSystem string
	// Helper is the image whose /bin/cache prepares the pods and speaks for them.
	Helper     string
	HelperPull corev1.PullPolicy
	// Commands are run beside the first master, and by data operations.
	Commands contract.EngineConfig
	// ConfigMaps are made for the runtime; components mount them.
	ConfigMaps []ExtraConfigMap
}

// ExtraConfigMap is one that a class has made for each runtime.
type ExtraConfigMap struct {
	Name string
	Data map[string]string
}

// ExtraMount mounts an ExtraConfigMap.
type ExtraMount struct {
	ConfigMap string
	MountPath string
}

// components in the order in which they start.
var components = []contract.ComponentType{contract.ComponentMaster, contract.ComponentWorker, contract.ComponentClient}

// has tells whether a runtime has a component.
func (d *Description) has(c contract.ComponentType) bool { return !d.component(c).Absent }

// bridged tells whether a bridge beside the master runs the engine's commands.
func (d *Description) bridged() bool {
	return d.Foreign != nil && d.has(contract.ComponentMaster) && (d.Foreign.Commands.MountUFS != nil || d.Foreign.Commands.ReportSummary != nil)
}

// mute tells whether nobody says how the engine is.
func (d *Description) mute() bool { return d.Foreign != nil && !d.bridged() }

// extraName is the name of a class's ConfigMap for this runtime.
func (d *Description) extraName(configMap string) string { return d.Name + "-" + configMap }

// extraConfigMaps are those that the class has made for each runtime.
func (d *Description) extraConfigMaps() []client.Object {
	if d.Foreign == nil {
		return nil
	}
	var out []client.Object
	for _, extra := range d.Foreign.ConfigMaps {
		meta := d.meta(d.extraName(extra.Name), contract.ComponentMaster)
		delete(meta.Labels, contract.LabelComponent)
		out = append(out, &corev1.ConfigMap{ObjectMeta: meta, Data: extra.Data})
	}
	return out
}

// prepareContainer puts the helper into the pod and makes the mount point of a
// client ready, whatever its predecessor left there.
func (d *Description) prepareContainer(c contract.ComponentType) corev1.Container {
	container := corev1.Container{
		Name: contract.PrepareContainer, Image: d.Foreign.Helper, ImagePullPolicy: d.Foreign.HelperPull,
		Command: []string{"/bin/cache", "prepare"}, Args: []string{"--to=" + contract.HelperDir},
		VolumeMounts:             []corev1.VolumeMount{{Name: helperVolume, MountPath: contract.HelperDir}},
		Resources:                helperResources(),
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		SecurityContext:          security(c),
	}
	if c == contract.ComponentClient {
		container.Args = append(container.Args, "--mount-path="+d.FuseMountPath())
		container.VolumeMounts = append(container.VolumeMounts, d.fuseMount())
		container.SecurityContext.RunAsUser, container.SecurityContext.RunAsNonRoot = ptr.To[int64](0), ptr.To(false)
	}
	return container
}

// helperVolume is the volume with the helper's program.
const helperVolume = "millrace-helper"

func helperMount() corev1.VolumeMount {
	return corev1.VolumeMount{Name: helperVolume, MountPath: contract.HelperDir, ReadOnly: true}
}

func helperResources() corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Requests: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi"),
	}}
}

// bridgeContainer runs the class's commands in the engine's image, with all that
// the engine's own container has.
func bridgeContainer(main *corev1.Container) corev1.Container {
	c := corev1.Container{
		Name: contract.BridgeContainer, Image: main.Image, ImagePullPolicy: main.ImagePullPolicy, WorkingDir: main.WorkingDir,
		Command: []string{contract.HelperBinary, "bridge"},
		Env:     main.Env, EnvFrom: main.EnvFrom,
		Ports:                    []corev1.ContainerPort{{Name: "summary", ContainerPort: contract.MasterHTTPPort, Protocol: corev1.ProtocolTCP}},
		Resources:                helperResources(),
		SecurityContext:          main.SecurityContext,
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}
	c.VolumeMounts = append(c.VolumeMounts, main.VolumeMounts...)
	c.VolumeMounts = append(c.VolumeMounts, helperMount())
	return c
}

// equip gives the pods of an engine that is not ours their helpers.
func (d *Description) equip(pod *corev1.PodTemplateSpec, c contract.ComponentType) {
	pod.Annotations[contract.AnnotationFileSystem] = d.Foreign.FileSystem
	bridged := c == contract.ComponentMaster && d.bridged()
	if c != contract.ComponentClient && !bridged {
		return
	}
	pod.Spec.InitContainers = append([]corev1.Container{d.prepareContainer(c)}, pod.Spec.InitContainers...)
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: helperVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	main := &pod.Spec.Containers[0]
	if bridged {
		pod.Spec.Containers = append(pod.Spec.Containers, bridgeContainer(main))
		return
	}
	main.VolumeMounts = append(main.VolumeMounts, helperMount())
	// Mounts that the node must see are for privileged containers alone.
	if main.SecurityContext == nil {
		main.SecurityContext = &corev1.SecurityContext{}
	}
	main.SecurityContext.Privileged = ptr.To(true)
	if main.ReadinessProbe == nil {
		main.ReadinessProbe = &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{contract.HelperBinary, "fuse-ready", "--mount-path=" + d.FuseMountPath()}}},
			PeriodSeconds: 10, TimeoutSeconds: 5, FailureThreshold: 3,
		}
	}
}

// waitsItsTurn tells whether an object of an engine that is not ours is made
// later: workers when a master is ready, clients when a worker is. What was made
// once is kept as it should be whatever became of the others.
func (r *Reconciler) waitsItsTurn(ctx context.Context, s *round, obj client.Object) (bool, error) {
	var before []contract.ComponentType
	switch {
	case s.desc.Foreign == nil:
		return false, nil
	case obj.GetName() == s.desc.objectName(contract.ComponentWorker):
		before = components[:1]
	case obj.GetName() == s.desc.objectName(contract.ComponentClient):
		before = components[:2]
	default:
		return false, nil
	}
	err := r.Get(ctx, client.ObjectKeyFromObject(obj), obj.DeepCopyObject().(client.Object))
	if err == nil || client.IgnoreNotFound(err) != nil {
		return false, client.IgnoreNotFound(err)
	}
	for _, c := range before {
		if !s.desc.has(c) || s.desc.component(c).Replicas == 0 {
			continue
		}
		set := &appsv1.StatefulSet{}
		err := r.Get(ctx, types.NamespacedName{Namespace: s.key.Namespace, Name: s.desc.objectName(c)}, set)
		if client.IgnoreNotFound(err) != nil {
			return false, fmt.Errorf("read %s of %s: %w", c, s.key, err)
		}
		if set.Status.ReadyReplicas == 0 {
			return true, nil
		}
	}
	return false, nil
}

// dropAbsent removes what was made for components that the runtime has no more.
func (r *Reconciler) dropAbsent(ctx context.Context, s *round) error {
	if s.desc.Foreign == nil {
		return nil
	}
	named := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: s.key.Namespace, Name: name}
	}
	for _, c := range components {
		name := s.desc.objectName(c)
		var gone []client.Object
		if !s.desc.has(c) || s.desc.component(c).NoService {
			gone = append(gone, &corev1.Service{ObjectMeta: named(contract.ServiceName(name))})
		}
		switch {
		case s.desc.has(c):
		case c == contract.ComponentClient:
			gone = append(gone, &appsv1.DaemonSet{ObjectMeta: named(name)})
		default:
			gone = append(gone, &appsv1.StatefulSet{ObjectMeta: named(name)})
		}
		for _, obj := range gone {
			if _, err := r.applier.Delete(ctx, obj, func(live client.Object) bool { return metav1.IsControlledBy(live, s.runtime) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// deleteConfigMaps removes every ConfigMap that was made for a runtime.
func (r *Reconciler) deleteConfigMaps(ctx context.Context, s *round) error {
	list := &corev1.ConfigMapList{}
	if err := r.List(ctx, list, client.InNamespace(s.key.Namespace), client.MatchingLabels{contract.LabelCacheRuntime: s.key.Name}); err != nil {
		return fmt.Errorf("list ConfigMaps of %s: %w", s.key, err)
	}
	for i := range list.Items {
		if _, err := r.applier.Delete(ctx, &list.Items[i], func(live client.Object) bool { return metav1.IsControlledBy(live, s.runtime) }); err != nil {
			return err
		}
	}
	return nil
}

// engineAddress is where the Summary of a runtime's master is. A bridge is told
// which start of the engine is ready, and has the sources mounted at each.
func (r *Reconciler) engineAddress(d *Description, pod *corev1.Pod) string {
	address := r.options.MasterAddress(pod)
	if d.bridged() {
		address += contract.PathEngine + startOf(pod)
	}
	return address
}

// startOf names the present start of the engine's container in a pod.
func startOf(pod *corev1.Pod) string {
	var restarts int32
	for _, c := range pod.Status.ContainerStatuses {
		if c.Name != contract.BridgeContainer {
			restarts += c.RestartCount
		}
	}
	return string(pod.UID) + "-" + strconv.Itoa(int(restarts))
}

// isForeign tells of a pod whether its engine is not ours.
func isForeign(pod *corev1.Pod) bool { return pod.Annotations[contract.AnnotationFileSystem] != "" }

// Made is what the objects of a runtime say of what they were made for.
type Made struct {
	// Generation of the Dataset's spec that is served, once the pods are of that
	// make; 0 before.
	Generation int64
	// MountTable names the mounts that are to be served.
	MountTable string
	// Mute tells that the engine never says how it is.
	Mute bool
	// FileSystem is the type of its FUSE.
	FileSystem string
}

// MadeFor reads what the objects of a runtime were made for.
func MadeFor(ctx context.Context, c client.Reader, key types.NamespacedName) (Made, error) {
	config := &corev1.ConfigMap{}
	err := c.Get(ctx, types.NamespacedName{Namespace: key.Namespace, Name: contract.ConfigMapName(key.Name)}, config)
	if client.IgnoreNotFound(err) != nil {
		return Made{}, fmt.Errorf("read configuration of %s: %w", key, err)
	}
	made := Made{FileSystem: config.Annotations[contract.AnnotationFileSystem], Mute: config.Annotations[AnnotationMute] != ""}
	if made.FileSystem == "" {
		made.FileSystem = contract.FuseMountType
	}
	told := config.Annotations
	if !made.Mute {
		master := &appsv1.StatefulSet{}
		err := c.Get(ctx, types.NamespacedName{Namespace: key.Namespace, Name: contract.MasterName(key.Name)}, master)
		if client.IgnoreNotFound(err) != nil {
			return Made{}, fmt.Errorf("read master of %s: %w", key, err)
		}
		if err != nil || !RolledOut(master) {
			return made, nil
		}
		told = master.Annotations
	}
	// What is not a number is of another make: nothing is served yet.
	made.Generation, _ = strconv.ParseInt(told[AnnotationDatasetGeneration], 10, 64)
	made.MountTable = told[AnnotationMountTable]
	return made, nil
}
