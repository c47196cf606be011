package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// JuiceFSCompTemplateSpec describes one component.
type JuiceFSCompTemplateSpec struct {
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
	// options of the component.
	// +kubebuilder:validation:MaxProperties=512
	// +optional
	Options map[string]string `json:"options,omitempty"`
	// env of the component's container.
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	// +optional
	Env []corev1.EnvVar `json:"env,omitempty"`
	// enabled turns an optional component on.
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
	// networkMode of the pods: HostNetwork or ContainerNetwork.
	// +kubebuilder:validation:Enum=HostNetwork;"";ContainerNetwork
	// +optional
	NetworkMode string `json:"networkMode,omitempty"`
	// imagePullSecrets of the component's pods.
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`
}

// JuiceFSFuseSpec describes the FUSE clients.
type JuiceFSFuseSpec struct {
	// image of JuiceFS' FUSE.
	// +kubebuilder:validation:MaxLength=512
	// +optional
	Image string `json:"image,omitempty"`
	// imageTag of the image.
	// +kubebuilder:validation:MaxLength=128
	// +optional
	ImageTag string `json:"imageTag,omitempty"`
	// imagePullPolicy of the image.
	// +kubebuilder:validation:MaxLength=32
	// +optional
	ImagePullPolicy string `json:"imagePullPolicy,omitempty"`
	// imagePullSecrets of the FUSE pods.
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`
	// env of the FUSE container.
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	// +optional
	Env []corev1.EnvVar `json:"env,omitempty"`
	// resources of the FUSE container.
	// +optional
	Resources corev1.ResourceRequirements `json:"resources,omitempty"`
	// options of the mount.
	// +kubebuilder:validation:MaxProperties=512
	// +optional
	Options map[string]string `json:"options,omitempty"`
	// global starts FUSE on every node that nodeSelector admits; kept for old manifests.
	// +optional
	Global bool `json:"global,omitempty"`
	// nodeSelector of the FUSE pods.
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	// tolerations of the FUSE pods.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`
	// volumeMounts of the FUSE container.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	VolumeMounts []corev1.VolumeMount `json:"volumeMounts,omitempty"`
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
	// hostPID has the FUSE pods see the node's processes.
	// +optional
	HostPID bool `json:"hostPID,omitempty"`
}

// JuiceFSRuntimeSpec is what its user wants of a JuiceFSRuntime.
type JuiceFSRuntimeSpec struct {
	// juicefsVersion chooses JuiceFS' image.
	// +optional
	JuiceFSVersion VersionSpec `json:"juicefsVersion,omitempty"`
	// initUsers before the FUSE client starts.
	// +optional
	InitUsers InitUsersSpec `json:"initUsers,omitempty"`
	// master component.
	// +optional
	Master JuiceFSCompTemplateSpec `json:"master,omitempty"`
	// worker component.
	// +optional
	Worker JuiceFSCompTemplateSpec `json:"worker,omitempty"`
	// jobWorker component of JuiceFS.
	// +optional
	JobWorker JuiceFSCompTemplateSpec `json:"jobWorker,omitempty"`
	// fuse clients.
	// +optional
	Fuse JuiceFSFuseSpec `json:"fuse,omitempty"`
	// tieredstore of each worker.
	// +optional
	TieredStore TieredStore `json:"tieredstore,omitempty"`
	// configs of JuiceFS.
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	// +optional
	Configs []string `json:"configs,omitempty"`
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
	// podMetadata of all pods.
	// +optional
	PodMetadata PodMetadata `json:"podMetadata,omitempty"`
	// cleanCachePolicy of a deleted runtime; management has it now.
	// +optional
	CleanCachePolicy CleanCachePolicy `json:"cleanCachePolicy,omitempty"`
	// management of the runtime.
	// +optional
	RuntimeManagement RuntimeManagement `json:"management,omitempty"`
	// imagePullSecrets of all pods.
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`
}

// JuiceFSRuntime caches the Dataset of the same name with JuiceFS. It is taken
// and not served: a condition NotSupported says what to use.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:subresource:scale:specpath=.spec.replicas,statuspath=.status.currentWorkerNumberScheduled,selectorpath=.status.selector
// +kubebuilder:resource:scope=Namespaced,categories=fluid,shortName=juicefs
// +kubebuilder:printcolumn:name="Ready Workers",type="integer",JSONPath=`.status.workerNumberReady`,priority=10
// +kubebuilder:printcolumn:name="Desired Workers",type="integer",JSONPath=`.status.desiredWorkerNumberScheduled`,priority=10
// +kubebuilder:printcolumn:name="Worker Phase",type="string",JSONPath=`.status.workerPhase`,priority=0
// +kubebuilder:printcolumn:name="Ready Fuses",type="integer",JSONPath=`.status.fuseNumberReady`,priority=10
// +kubebuilder:printcolumn:name="Desired Fuses",type="integer",JSONPath=`.status.desiredFuseNumberScheduled`,priority=10
// +kubebuilder:printcolumn:name="Fuse Phase",type="string",JSONPath=`.status.fusePhase`,priority=0
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=`.metadata.creationTimestamp`,priority=0
type JuiceFSRuntime struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   JuiceFSRuntimeSpec `json:"spec,omitempty"`
	Status RuntimeStatus      `json:"status,omitempty"`
}

// JuiceFSRuntimeList is a list of JuiceFSRuntimes.
//
// +kubebuilder:object:root=true
type JuiceFSRuntimeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []JuiceFSRuntime `json:"items"`
}
