package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ThinCompTemplateSpec describes the workers.
type ThinCompTemplateSpec struct {
	VersionSpec `json:",inline"`
	// imagePullSecrets of the component's pods.
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`
	// replicas of the component.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000
	// +optional
	Replicas int32 `json:"replicas,omitempty"`
	// ports of the component's container.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Ports []corev1.ContainerPort `json:"ports,omitempty"`
	// resources of the component's container.
	// +optional
	Resources corev1.ResourceRequirements `json:"resources,omitempty"`
	// env of the component's container.
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	// +optional
	Env []corev1.EnvVar `json:"env,omitempty"`
	// enabled turns the component on.
	// +optional
	Enabled bool `json:"enabled,omitempty"`
	// nodeSelector of the component's pods.
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	// tolerations of the component's pods.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`
	// volumeMounts of the component's container.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	VolumeMounts []corev1.VolumeMount `json:"volumeMounts,omitempty"`
	// podMetadata of the component's pods.
	// +optional
	PodMetadata PodMetadata `json:"podMetadata,omitempty"`
	// livenessProbe of the component's container.
	// +optional
	LivenessProbe *corev1.Probe `json:"livenessProbe,omitempty"`
	// readinessProbe of the component's container.
	// +optional
	ReadinessProbe *corev1.Probe `json:"readinessProbe,omitempty"`
	// lifecycle of the component's container.
	// +optional
	Lifecycle *corev1.Lifecycle `json:"lifecycle,omitempty"`
	// networkMode of the pods: HostNetwork or ContainerNetwork.
	// +kubebuilder:validation:Enum=HostNetwork;"";ContainerNetwork
	// +optional
	NetworkMode string `json:"networkMode,omitempty"`
}

// ThinFuseSpec describes the FUSE clients.
type ThinFuseSpec struct {
	VersionSpec `json:",inline"`
	// imagePullSecrets of the FUSE pods.
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`
	// ports of the FUSE container.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Ports []corev1.ContainerPort `json:"ports,omitempty"`
	// env of the FUSE container.
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	// +optional
	Env []corev1.EnvVar `json:"env,omitempty"`
	// command of the FUSE container.
	// +kubebuilder:validation:MaxItems=128
	// +listType=atomic
	// +optional
	Command []string `json:"command,omitempty"`
	// args of the FUSE container.
	// +kubebuilder:validation:MaxItems=128
	// +listType=atomic
	// +optional
	Args []string `json:"args,omitempty"`
	// options of the mount; they lie under the Dataset's own.
	// +kubebuilder:validation:MaxProperties=512
	// +optional
	Options map[string]string `json:"options,omitempty"`
	// resources of the FUSE container.
	// +optional
	Resources corev1.ResourceRequirements `json:"resources,omitempty"`
	// nodeSelector of the FUSE pods.
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	// tolerations of the FUSE pods.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`
	// cleanPolicy of FUSE pods: OnRuntimeDeleted or OnDemand.
	// +optional
	CleanPolicy FuseCleanPolicy `json:"cleanPolicy,omitempty"`
	// podMetadata of the FUSE pods.
	// +optional
	PodMetadata PodMetadata `json:"podMetadata,omitempty"`
	// networkMode of the pods: HostNetwork or ContainerNetwork.
	// +kubebuilder:validation:Enum=HostNetwork;"";ContainerNetwork
	// +optional
	NetworkMode string `json:"networkMode,omitempty"`
	// livenessProbe of the FUSE container.
	// +optional
	LivenessProbe *corev1.Probe `json:"livenessProbe,omitempty"`
	// readinessProbe of the FUSE container.
	// +optional
	ReadinessProbe *corev1.Probe `json:"readinessProbe,omitempty"`
	// volumeMounts of the FUSE container.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	VolumeMounts []corev1.VolumeMount `json:"volumeMounts,omitempty"`
	// lifecycle of the FUSE container.
	// +optional
	Lifecycle *corev1.Lifecycle `json:"lifecycle,omitempty"`
}

// ThinRuntimeSpec is what its user wants of a ThinRuntime.
type ThinRuntimeSpec struct {
	// profileName names the ThinRuntimeProfile; none for a reference to another Dataset.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	ThinRuntimeProfileName string `json:"profileName,omitempty"`
	// worker component.
	// +optional
	Worker ThinCompTemplateSpec `json:"worker,omitempty"`
	// fuse clients.
	// +optional
	Fuse ThinFuseSpec `json:"fuse,omitempty"`
	// tieredstore of each worker.
	// +optional
	TieredStore TieredStore `json:"tieredstore,omitempty"`
	// replicas of the worker.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000
	// +optional
	Replicas int32 `json:"replicas,omitempty"`
	// runAs owns the files.
	// +optional
	RunAs *User `json:"runAs,omitempty"`
	// disablePrometheus turns metrics off.
	// +optional
	DisablePrometheus bool `json:"disablePrometheus,omitempty"`
	// volumes that volumeMounts may name.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Volumes []corev1.Volume `json:"volumes,omitempty"`
	// management of the runtime.
	// +optional
	RuntimeManagement RuntimeManagement `json:"management,omitempty"`
	// imagePullSecrets of all pods.
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`
}

// ThinRuntime mounts the Dataset of the same name by a FUSE client that its
// profile describes. It is taken and not served: a condition NotSupported says
// what to use.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories=fluid
type ThinRuntime struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ThinRuntimeSpec `json:"spec,omitempty"`
	Status RuntimeStatus   `json:"status,omitempty"`
}

// ThinRuntimeList is a list of ThinRuntimes.
//
// +kubebuilder:object:root=true
type ThinRuntimeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ThinRuntime `json:"items"`
}

// NodePublishSecretPolicy says what becomes of the Secret of a mounted volume.
// +kubebuilder:validation:Enum=NotMountNodePublishSecret;MountNodePublishSecretIfExists;CopyNodePublishSecretAndMountIfNotExists
type NodePublishSecretPolicy string

// ThinRuntimeProfileSpec is common to the ThinRuntimes that name the profile.
type ThinRuntimeProfileSpec struct {
	// fileSystemType of the FUSE client, such as nfs.
	// +kubebuilder:validation:MaxLength=253
	FileSystemType string `json:"fileSystemType"`
	// worker component.
	// +optional
	Worker ThinCompTemplateSpec `json:"worker,omitempty"`
	// fuse clients.
	// +optional
	Fuse ThinFuseSpec `json:"fuse,omitempty"`
	// volumes that volumeMounts may name.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Volumes []corev1.Volume `json:"volumes,omitempty"`
	// nodePublishSecretPolicy of volumes that exist already.
	// +kubebuilder:default=MountNodePublishSecretIfExists
	// +optional
	NodePublishSecretPolicy NodePublishSecretPolicy `json:"nodePublishSecretPolicy,omitempty"`
}

// ThinRuntimeProfileStatus is what was seen of a ThinRuntimeProfile.
type ThinRuntimeProfileStatus struct {
	// conditions of the profile.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// observedGeneration of the spec that this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
}

// ThinRuntimeProfile is what ThinRuntimes have in common.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=fluid
type ThinRuntimeProfile struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ThinRuntimeProfileSpec   `json:"spec,omitempty"`
	Status ThinRuntimeProfileStatus `json:"status,omitempty"`
}

// ThinRuntimeProfileList is a list of ThinRuntimeProfiles.
//
// +kubebuilder:object:root=true
type ThinRuntimeProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ThinRuntimeProfile `json:"items"`
}
