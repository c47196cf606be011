package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TargetDatasetWithMountPath names a Dataset and where its data appears.
type TargetDatasetWithMountPath struct {
	TargetDataset `json:",inline"`
	// mountPath of the data in the processor's containers.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	MountPath string `json:"mountPath"`
	// subPath of the Dataset to mount.
	// +kubebuilder:validation:MaxLength=4096
	// +optional
	SubPath string `json:"subPath,omitempty"`
}

// JobProcessor runs a pod of the user's own.
type JobProcessor struct {
	// podSpec of the pod.
	// +optional
	PodSpec *corev1.PodSpec `json:"podSpec,omitempty"`
}

// ScriptProcessor runs a command in an image.
type ScriptProcessor struct {
	VersionSpec `json:",inline"`
	// restartPolicy of the pod: Never (the default) or OnFailure.
	// +kubebuilder:default=Never
	// +kubebuilder:validation:Enum=Never;OnFailure
	// +optional
	RestartPolicy corev1.RestartPolicy `json:"restartPolicy,omitempty"`
	// command of the container; that of the image if empty.
	// +kubebuilder:validation:MaxItems=128
	// +listType=atomic
	// +optional
	Command []string `json:"command,omitempty"`
	// source is the text of a script: a file whose path is the command's first
	// argument, up to 200 KiB.
	// +kubebuilder:validation:MaxLength=262144
	// +optional
	Source string `json:"source,omitempty"`
	// args of the container, after the script's path if there is a source.
	// +kubebuilder:validation:MaxItems=128
	// +listType=atomic
	// +optional
	Args []string `json:"args,omitempty"`
	// env of the container.
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	// +optional
	Env []corev1.EnvVar `json:"env,omitempty"`
	// volumes that volumeMounts may name.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Volumes []corev1.Volume `json:"volumes,omitempty"`
	// volumeMounts of the container.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	VolumeMounts []corev1.VolumeMount `json:"volumeMounts,omitempty"`
	// resources of the container.
	// +optional
	Resources corev1.ResourceRequirements `json:"resources,omitempty"`
}

// Processor is what works on the data: one of job and script.
type Processor struct {
	// serviceAccountName of the pod.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	ServiceAccountName string `json:"serviceAccountName,omitempty"`
	// podMetadata of the pod.
	// +optional
	PodMetadata PodMetadata `json:"podMetadata,omitempty"`
	// job runs a pod of the user's own.
	// +optional
	Job *JobProcessor `json:"job,omitempty"`
	// script runs a command in an image.
	// +optional
	Script *ScriptProcessor `json:"script,omitempty"`
}

// DataProcessSpec is what to run on which data.
type DataProcessSpec struct {
	// dataset to work on.
	Dataset TargetDatasetWithMountPath `json:"dataset"`
	// processor that works on it.
	Processor Processor `json:"processor"`
	// runAfter another operation.
	// +optional
	RunAfter *OperationRef `json:"runAfter,omitempty"`
	// ttlSecondsAfterFinished removes the finished operation.
	// +kubebuilder:validation:Minimum=0
	// +optional
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`
}

// DataProcess runs a pod on the data of a Dataset.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories=fluid
// +kubebuilder:printcolumn:name="Dataset",type="string",JSONPath=`.spec.dataset.name`
// +kubebuilder:printcolumn:name="Phase",type="string",JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Duration",type="string",JSONPath=`.status.duration`
type DataProcess struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   DataProcessSpec `json:"spec,omitempty"`
	Status OperationStatus `json:"status,omitempty"`
}

// DataProcessList is a list of DataProcesses.
//
// +kubebuilder:object:root=true
type DataProcessList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []DataProcess `json:"items"`
}
