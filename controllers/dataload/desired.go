package dataload

import (
	"encoding/json"
	"maps"
	"path"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// labelDataLoad on a Job and its pods names their DataLoad.
const labelDataLoad = "cache.millrace.io/dataload"

// retries of the Job. The loader itself is patient with sources and workers;
// these are for a loader that was lost with its node.
const retries = 3

// engineImage is what the loader's container is made from.
type engineImage struct {
	Image       string
	PullPolicy  corev1.PullPolicy
	PullSecrets []corev1.LocalObjectReference
}

// desiredJob is what a run of a DataLoad does; loadID names the load to the
// master.
func desiredJob(dl *datav1alpha1.DataLoad, loadID string, image engineImage) *batchv1.Job {
	own := map[string]string{labelDataLoad: dl.Name}
	pod := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: merged(dl.Spec.PodMetadata.Labels, own), Annotations: dl.Spec.PodMetadata.Annotations},
		Spec: corev1.PodSpec{
			RestartPolicy:                corev1.RestartPolicyNever,
			AutomountServiceAccountToken: ptr.To(false),
			EnableServiceLinks:           ptr.To(false),
			ImagePullSecrets:             image.PullSecrets,
			SchedulerName:                dl.Spec.SchedulerName,
			NodeSelector:                 dl.Spec.NodeSelector,
			Affinity:                     dl.Spec.Affinity,
			Tolerations:                  dl.Spec.Tolerations,
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To[int64](65532),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name: contract.LoaderContainer, Image: image.Image, ImagePullPolicy: image.PullPolicy, Args: []string{"load"},
				Env:       environment(dl, loadID),
				Resources: resources(dl),
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true),
					Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
				TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
				VolumeMounts:             []corev1.VolumeMount{{Name: "runtime-config", MountPath: contract.RuntimeConfigDir, ReadOnly: true}},
			}},
			Volumes: []corev1.Volume{{Name: "runtime-config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
				LocalObjectReference: corev1.LocalObjectReference{Name: contract.ConfigMapName(dl.Spec.Dataset.Name)},
			}}}},
		},
	}
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Labels: own},
		Spec: batchv1.JobSpec{
			BackoffLimit: ptr.To[int32](retries),
			PodFailurePolicy: &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{
				{
					Action: batchv1.PodFailurePolicyActionIgnore,
					OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{
						{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue},
					},
				},
				{
					Action: batchv1.PodFailurePolicyActionFailJob,
					OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{
						ContainerName: ptr.To(contract.LoaderContainer), Operator: batchv1.PodFailurePolicyOnExitCodesOpIn,
						Values: []int32{contract.LoadExitHopeless},
					},
				},
			}},
			Template: pod,
		},
	}
}

func environment(dl *datav1alpha1.DataLoad, loadID string) []corev1.EnvVar {
	paths, replicas := targets(dl)
	env := []corev1.EnvVar{
		{Name: contract.EnvDatasetName, Value: dl.Spec.Dataset.Name},
		{Name: contract.EnvDatasetNamespace, Value: dl.Namespace},
		{Name: contract.EnvRuntimeConfig, Value: contract.RuntimeConfigPath},
		{Name: contract.EnvDataLoadMetadata, Value: strconv.FormatBool(dl.Spec.LoadMetadata)},
		{Name: contract.EnvDataLoadPath, Value: strings.Join(paths, ":")},
		{Name: contract.EnvDataLoadReplicas, Value: strings.Join(replicas, ":")},
		{Name: contract.EnvLoadID, Value: loadID},
	}
	if len(dl.Spec.Options) > 0 {
		text, err := json.Marshal(dl.Spec.Options) // sorted by name
		if err != nil {
			panic(err) // strings always encode
		}
		env = append(env, corev1.EnvVar{Name: contract.EnvLoadOptions, Value: string(text)})
	}
	return env
}

// targets are the paths to load and, for each, how many copies.
func targets(dl *datav1alpha1.DataLoad) (paths, replicas []string) {
	if len(dl.Spec.Target) == 0 {
		return []string{"/"}, []string{"1"}
	}
	for _, t := range dl.Spec.Target {
		paths = append(paths, path.Clean("/"+t.Path))
		replicas = append(replicas, strconv.Itoa(int(max(t.Replicas, 1))))
	}
	return paths, replicas
}

func resources(dl *datav1alpha1.DataLoad) corev1.ResourceRequirements {
	r := *dl.Spec.Resources.DeepCopy()
	if len(r.Requests) == 0 && len(r.Limits) == 0 {
		r.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")}
	}
	return r
}

func merged(layers ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, layer := range layers {
		maps.Copy(out, layer)
	}
	return out
}
