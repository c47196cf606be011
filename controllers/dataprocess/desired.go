package dataprocess

import (
	"fmt"
	"path"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

const (
	// datasetVolume is the volume of the Dataset in the processor's pod.
	datasetVolume = "fluid-dataset-vol"
	// scriptContainer runs a script, and has its text at scriptFile.
	scriptContainer = "script-processor"
	scriptVolume    = "fluid-script"
	scriptDir       = "/fluid-scripts"
	scriptFile      = "preprocess.sh"
	// annotationScript has the text of the script: the kubelet makes the file of it.
	annotationScript = "cache.millrace.io/script"
	// maxSource is less than an object's annotations may have, which is 256 KiB.
	maxSource = 200 << 10
	// retries of the Job, as many as Fluid's have.
	retries = 3
)

// desiredJob is what a DataProcess does.
func desiredJob(dp *datav1alpha1.DataProcess) *batchv1.Job {
	processor := &dp.Spec.Processor
	pod := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{
		Labels: processor.PodMetadata.Labels, Annotations: map[string]string{},
	}}
	for key, value := range processor.PodMetadata.Annotations {
		pod.Annotations[key] = value
	}
	if processor.Script != nil {
		pod.Spec = scriptPod(processor.Script)
		if processor.Script.Source != "" {
			pod.Annotations[annotationScript] = processor.Script.Source
		}
	} else {
		pod.Spec = *processor.Job.PodSpec.DeepCopy()
	}
	if pod.Spec.RestartPolicy == "" || pod.Spec.RestartPolicy == corev1.RestartPolicyAlways {
		pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	}
	if processor.ServiceAccountName != "" {
		pod.Spec.ServiceAccountName = processor.ServiceAccountName
	}
	mountDataset(&pod.Spec, &dp.Spec.Dataset)
	job := &batchv1.Job{Spec: batchv1.JobSpec{BackoffLimit: ptr.To[int32](retries), Template: pod}}
	if pod.Spec.RestartPolicy == corev1.RestartPolicyNever {
		// A pod that was lost with its node is no failure of the processor.
		job.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
			Action:          batchv1.PodFailurePolicyActionIgnore,
			OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
		}}}
	}
	return job
}

// scriptPod runs a command in an image. The text of a script is a file, whose
// path is the command's first argument.
func scriptPod(script *datav1alpha1.ScriptProcessor) corev1.PodSpec {
	image := script.Image
	if script.ImageTag != "" {
		image += ":" + script.ImageTag
	}
	spec := corev1.PodSpec{RestartPolicy: script.RestartPolicy, Volumes: slices.Clone(script.Volumes)}
	container := corev1.Container{
		Name: scriptContainer, Image: image, ImagePullPolicy: corev1.PullPolicy(script.ImagePullPolicy),
		Command: script.Command, Args: script.Args, Env: script.Env, Resources: script.Resources, VolumeMounts: slices.Clone(script.VolumeMounts),
	}
	if script.Source != "" {
		container.Args = append([]string{path.Join(scriptDir, scriptFile)}, script.Args...)
		container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: scriptVolume, MountPath: scriptDir, ReadOnly: true})
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: scriptVolume, VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{
			DefaultMode: ptr.To[int32](0o555),
			Items: []corev1.DownwardAPIVolumeFile{{
				Path: scriptFile, FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.annotations['" + annotationScript + "']"},
			}},
		}}})
	}
	spec.Containers = []corev1.Container{container}
	return spec
}

// mountDataset mounts the Dataset into every container.
func mountDataset(spec *corev1.PodSpec, dataset *datav1alpha1.TargetDatasetWithMountPath) {
	spec.Volumes = append(spec.Volumes, corev1.Volume{Name: datasetVolume, VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: dataset.Name},
	}})
	for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range containers {
			containers[i].VolumeMounts = append(containers[i].VolumeMounts, corev1.VolumeMount{
				Name: datasetVolume, MountPath: dataset.MountPath, SubPath: dataset.SubPath, MountPropagation: ptr.To(corev1.MountPropagationHostToContainer),
			})
		}
	}
}

// conflict names what is in the way of the Dataset's mount or of the script; "" if nothing is.
func conflict(spec *datav1alpha1.DataProcessSpec) string {
	var volumes []corev1.Volume
	var containers []corev1.Container
	taken := []string{datasetVolume}
	paths := []string{path.Clean(spec.Dataset.MountPath)}
	if script := spec.Processor.Script; script != nil {
		volumes = script.Volumes
		containers = []corev1.Container{{Name: scriptContainer, VolumeMounts: script.VolumeMounts}}
		if script.Source != "" {
			taken, paths = append(taken, scriptVolume), append(paths, scriptDir)
			if paths[0] == scriptDir {
				return fmt.Sprintf("spec.dataset.mountPath %s is where the script is put: use another", scriptDir)
			}
		}
	} else {
		pod := spec.Processor.Job.PodSpec
		volumes, containers = pod.Volumes, slices.Concat(pod.InitContainers, pod.Containers)
	}
	for _, v := range volumes {
		if slices.Contains(taken, v.Name) {
			return fmt.Sprintf("a volume is called %s, as one of Millrace's: give it another name", v.Name)
		}
	}
	for _, c := range containers {
		for _, m := range c.VolumeMounts {
			if slices.Contains(paths, path.Clean(m.MountPath)) {
				return fmt.Sprintf("container %s mounts %s at %s, where the Dataset or the script is put: use another path for one of them", c.Name, m.Name, m.MountPath)
			}
		}
	}
	return ""
}
