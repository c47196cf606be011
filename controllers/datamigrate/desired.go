package datamigrate

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// retries of the Job. What was copied stays copied, so each goes on where the one
// before it ended.
const retries = 3

func hostPort(ip string) string {
	return "http://" + net.JoinHostPort(ip, strconv.Itoa(contract.MasterHTTPPort))
}

// desiredJob is what a run of a DataMigrate does.
func desiredJob(dm *datav1alpha1.DataMigrate, p *plan, image string, pull corev1.PullPolicy) (*batchv1.Job, error) {
	migration, err := json.Marshal(p.migration)
	if err != nil {
		return nil, fmt.Errorf("write down what datamigrate %s copies: %w", dm.Name, err)
	}
	spec := &dm.Spec
	pod := corev1.PodSpec{
		RestartPolicy:                corev1.RestartPolicyNever,
		AutomountServiceAccountToken: ptr.To(false),
		EnableServiceLinks:           ptr.To(false),
		SchedulerName:                spec.SchedulerName,
		NodeSelector:                 spec.NodeSelector,
		Affinity:                     spec.Affinity,
		Tolerations:                  spec.Tolerations,
		SecurityContext:              &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Containers: []corev1.Container{{
			Name: contract.MigrateContainer, Image: image, ImagePullPolicy: pull, Args: []string{"migrate"},
			Env:       []corev1.EnvVar{{Name: contract.EnvMigration, Value: string(migration)}},
			Resources: resources(spec),
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true),
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			},
			TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		}},
	}
	container := &pod.Containers[0]
	if len(p.claims) == 0 {
		pod.SecurityContext.RunAsNonRoot, pod.SecurityContext.RunAsUser = ptr.To(true), ptr.To[int64](65532)
	} else {
		// The files of a claim may be anybody's.
		container.SecurityContext.RunAsUser = ptr.To[int64](0)
		container.SecurityContext.Capabilities.Add = []corev1.Capability{"DAC_OVERRIDE", "FOWNER"}
	}
	for i, secret := range p.secretNames() {
		var items []corev1.KeyToPath
		for _, key := range slices.Compact(slices.Sorted(slices.Values(p.secrets[secret]))) {
			items = append(items, corev1.KeyToPath{Key: key, Path: key})
		}
		mount(&pod, fmt.Sprintf("secret-%d", i), corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret, Items: items}},
			corev1.VolumeMount{MountPath: contract.SecretPath(secret, ""), ReadOnly: true})
	}
	for i, claim := range slices.Sorted(maps.Keys(p.claims)) {
		readOnly := !p.claims[claim]
		mount(&pod, fmt.Sprintf("claim-%d", i), corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim, ReadOnly: readOnly}},
			corev1.VolumeMount{MountPath: contract.PVCDir(claim), ReadOnly: readOnly, MountPropagation: ptr.To(corev1.MountPropagationHostToContainer)})
	}
	return &batchv1.Job{Spec: batchv1.JobSpec{
		BackoffLimit: ptr.To[int32](retries),
		PodFailurePolicy: &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{
			{
				Action:          batchv1.PodFailurePolicyActionIgnore,
				OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
			},
			{
				Action: batchv1.PodFailurePolicyActionFailJob,
				OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{
					ContainerName: ptr.To(contract.MigrateContainer), Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{contract.LoadExitHopeless},
				},
			},
		}},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: spec.PodMetadata.Labels, Annotations: spec.PodMetadata.Annotations}, Spec: pod,
		},
	}}, nil
}

func mount(pod *corev1.PodSpec, name string, source corev1.VolumeSource, m corev1.VolumeMount) {
	m.Name = name
	pod.Volumes = append(pod.Volumes, corev1.Volume{Name: name, VolumeSource: source})
	pod.Containers[0].VolumeMounts = append(pod.Containers[0].VolumeMounts, m)
}

func resources(spec *datav1alpha1.DataMigrateSpec) corev1.ResourceRequirements {
	r := *spec.Resources.DeepCopy()
	if len(r.Requests) == 0 && len(r.Limits) == 0 {
		r.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("256Mi")}
	}
	return r
}
