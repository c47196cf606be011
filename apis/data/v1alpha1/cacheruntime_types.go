package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RuntimePhase is the state of one component of a runtime.
type RuntimePhase string

// Phases of a component.
const (
	RuntimePhaseNone         RuntimePhase = ""
	RuntimePhaseNotReady     RuntimePhase = "NotReady"
	RuntimePhasePartialReady RuntimePhase = "PartialReady"
	RuntimePhaseReady        RuntimePhase = "Ready"
)

// Condition types of a runtime.
const (
	RuntimeReady        = "Ready"
	RuntimeNotSupported = "NotSupported"
	RuntimeCaching      = "Caching"
	// RuntimeFuseUpToDate is False while FUSE pods are older than their template.
	RuntimeFuseUpToDate = "FuseUpToDate"
	// RuntimeDrained is False while what workers alone have that are to go is
	// moved to the others, and True when they went.
	RuntimeDrained = "Drained"
)

// FuseCleanPolicy says when FUSE pods go.
// +kubebuilder:validation:Enum=OnRuntimeDeleted;OnDemand;OnFuseChanged;""
type FuseCleanPolicy string

// FUSE clean policies.
const (
	NoneCleanPolicy             FuseCleanPolicy = ""
	OnDemandCleanPolicy         FuseCleanPolicy = "OnDemand"
	OnRuntimeDeletedCleanPolicy FuseCleanPolicy = "OnRuntimeDeleted"
	OnFuseChangedCleanPolicy    FuseCleanPolicy = "OnFuseChanged"
)

// PodMetadata is added to pods.
type PodMetadata struct {
	// labels of the pods.
	// +kubebuilder:validation:MaxProperties=128
	// +optional
	Labels map[string]string `json:"labels,omitempty"`
	// annotations of the pods.
	// +kubebuilder:validation:MaxProperties=128
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
}

// VersionSpec chooses an image.
type VersionSpec struct {
	// image without tag.
	// +kubebuilder:validation:MaxLength=512
	// +optional
	Image string `json:"image,omitempty"`
	// imageTag of the image.
	// +kubebuilder:validation:MaxLength=128
	// +optional
	ImageTag string `json:"imageTag,omitempty"`
	// imagePullPolicy: Always, Never or IfNotPresent.
	// +kubebuilder:validation:MaxLength=32
	// +optional
	ImagePullPolicy string `json:"imagePullPolicy,omitempty"`
}

// ProcessMemoryTier keeps bytes in memory of the worker.
type ProcessMemoryTier struct {
	// quota in bytes, as a quantity.
	// +kubebuilder:validation:XValidation:rule="isQuantity(string(self)) && (type(self) == int ? self >= 0 : !self.startsWith('-'))",message="quota must be a quantity of bytes, such as 2Gi"
	Quota resource.Quantity `json:"quota"`
}

// EmptyDirTier keeps bytes in an emptyDir of the worker's pod.
type EmptyDirTier struct {
	// quota in bytes, as a quantity.
	// +kubebuilder:validation:XValidation:rule="isQuantity(string(self)) && (type(self) == int ? self >= 0 : !self.startsWith('-'))",message="quota must be a quantity of bytes, such as 2Gi"
	Quota resource.Quantity `json:"quota"`
	// medium is "" for the node's disk or Memory.
	// +kubebuilder:validation:Enum="";Memory
	// +optional
	Medium corev1.StorageMedium `json:"medium,omitempty"`
}

// HostPathTier keeps bytes in directories of the node.
// +kubebuilder:validation:XValidation:rule="self.paths.size() == self.quotas.size()",message="hostPath needs one entry of quotas for each of paths"
type HostPathTier struct {
	// paths on the node; each runtime gets a directory of its own below.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=1024
	// +kubebuilder:validation:items:Pattern=`^/.+`
	// +listType=atomic
	Paths []string `json:"paths"`
	// quotas in bytes, one for each path.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +kubebuilder:validation:XValidation:rule="self.all(q, type(q) == int ? q >= 0 : q.size() > 0 && q.charAt(0) in ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '.', '+'])",message="quotas must be quantities of bytes, such as 100Gi, one for each of paths"
	Quotas []resource.Quantity `json:"quotas"`
	// type of the host path.
	// +optional
	Type *corev1.HostPathType `json:"type,omitempty"`
}

// CacheLevel is one level of a tiered store.
// +kubebuilder:validation:XValidation:rule="[has(self.processMemory), has(self.emptyDir), has(self.hostPath)].filter(x, x).size() == 1",message="a level of tieredStore needs exactly one of processMemory, emptyDir and hostPath"
// +kubebuilder:validation:XValidation:rule="!has(self.high) || !has(self.low) || self.high.size() == 0 || self.low.size() == 0 || !self.high.matches('^[0-9.]+$') || !self.low.matches('^[0-9.]+$') || double(self.high) > double(self.low)",message="high must be larger than low: eviction starts at high and stops at low"
type CacheLevel struct {
	// processMemory tier.
	// +optional
	ProcessMemory *ProcessMemoryTier `json:"processMemory,omitempty"`
	// emptyDir tier.
	// +optional
	EmptyDir *EmptyDirTier `json:"emptyDir,omitempty"`
	// hostPath tier.
	// +optional
	HostPath *HostPathTier `json:"hostPath,omitempty"`
	// high is the fraction of the quota where eviction starts, such as 0.95.
	// +kubebuilder:validation:Pattern=`^((0?\.[0-9]+|0|1|1\.0+)?)$`
	// +kubebuilder:validation:MaxLength=16
	// +optional
	High string `json:"high,omitempty"`
	// low is the fraction of the quota where eviction stops, such as 0.7.
	// +kubebuilder:validation:Pattern=`^((0?\.[0-9]+|0|1|1\.0+)?)$`
	// +kubebuilder:validation:MaxLength=16
	// +optional
	Low string `json:"low,omitempty"`
}

// RuntimeTieredStore lists the levels of a cache from fast to slow.
type RuntimeTieredStore struct {
	// levels from fast to slow.
	// +kubebuilder:validation:MaxItems=8
	// +listType=atomic
	// +optional
	Levels []CacheLevel `json:"levels,omitempty"`
}

// RuntimeComponentSpec is common to the components of a CacheRuntime.
type RuntimeComponentSpec struct {
	// disabled leaves the component out.
	// +optional
	Disabled bool `json:"disabled,omitempty"`
	// runtimeVersion chooses the image.
	// +optional
	RuntimeVersion VersionSpec `json:"runtimeVersion,omitempty"`
	// options of the component.
	// +kubebuilder:validation:MaxProperties=256
	// +optional
	Options map[string]string `json:"options,omitempty"`
	// podMetadata of the component's pods.
	// +optional
	PodMetadata PodMetadata `json:"podMetadata,omitempty"`
	// resources of the component's container.
	// +optional
	Resources corev1.ResourceRequirements `json:"resources,omitempty"`
	// env of the component's container.
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	// +optional
	Env []corev1.EnvVar `json:"env,omitempty"`
	// volumeMounts of the component's container.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	VolumeMounts []corev1.VolumeMount `json:"volumeMounts,omitempty"`
	// args of the component's container.
	// +kubebuilder:validation:MaxItems=128
	// +listType=atomic
	// +optional
	Args []string `json:"args,omitempty"`
	// nodeSelector of the component's pods.
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	// tolerations of the component's pods.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`
}

// CacheRuntimeMasterSpec describes the masters.
type CacheRuntimeMasterSpec struct {
	RuntimeComponentSpec `json:",inline"`
	// replicas of the master; 1 if left out.
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000
	// +optional
	Replicas int32 `json:"replicas,omitempty"`
}

// CacheRuntimeWorkerSpec describes the workers.
type CacheRuntimeWorkerSpec struct {
	RuntimeComponentSpec `json:",inline"`
	// replicas of the worker; 1 if left out.
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000
	// +optional
	Replicas int32 `json:"replicas,omitempty"`
	// tieredStore of each worker.
	// +optional
	TieredStore RuntimeTieredStore `json:"tieredStore,omitempty"`
}

// CacheRuntimeClientSpec describes the FUSE clients.
type CacheRuntimeClientSpec struct {
	RuntimeComponentSpec `json:",inline"`
	// replicas of the client; it runs wherever it is wanted, so they are not counted.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000
	// +optional
	Replicas int32 `json:"replicas,omitempty"`
	// tieredStore of each client.
	// +optional
	TieredStore RuntimeTieredStore `json:"tieredStore,omitempty"`
	// cleanPolicy of FUSE pods: OnRuntimeDeleted (the default) leaves them where
	// they were wanted; OnDemand takes those away that no pod reads through any
	// more; OnFuseChanged those of them that are older than the runtime's last change.
	// +optional
	CleanPolicy FuseCleanPolicy `json:"cleanPolicy,omitempty"`
}

// CacheRuntimeSpec is what its user wants of a CacheRuntime.
type CacheRuntimeSpec struct {
	// runtimeClassName names the CacheRuntimeClass; millrace is the native engine.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="runtimeClassName cannot change: delete the runtime and create it with the other class; the Dataset stays"
	RuntimeClassName string `json:"runtimeClassName"`
	// master component.
	// +optional
	Master CacheRuntimeMasterSpec `json:"master,omitempty"`
	// worker component.
	// +optional
	Worker CacheRuntimeWorkerSpec `json:"worker,omitempty"`
	// client component.
	// +optional
	Client CacheRuntimeClientSpec `json:"client,omitempty"`
	// options of all components.
	// +kubebuilder:validation:MaxProperties=256
	// +optional
	Options map[string]string `json:"options,omitempty"`
	// podMetadata of all components' pods.
	// +optional
	PodMetadata PodMetadata `json:"podMetadata,omitempty"`
	// imagePullSecrets of all pods.
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`
	// volumes that volumeMounts may name.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Volumes []corev1.Volume `json:"volumes,omitempty"`
}

// RuntimeComponentStatus is what was seen of one component.
type RuntimeComponentStatus struct {
	// phase of the component.
	// +optional
	Phase RuntimePhase `json:"phase,omitempty"`
	// reason of the phase.
	// +optional
	Reason string `json:"reason,omitempty"`
	// message of the phase.
	// +optional
	Message string `json:"message,omitempty"`
	// readyReplicas that are ready.
	// +optional
	ReadyReplicas int32 `json:"readyReplicas,omitempty"`
	// currentReplicas that exist.
	// +optional
	CurrentReplicas int32 `json:"currentReplicas,omitempty"`
	// desiredReplicas that are wanted.
	// +optional
	DesiredReplicas int32 `json:"desiredReplicas,omitempty"`
	// unavailableReplicas that are missing.
	// +optional
	UnavailableReplicas int32 `json:"unavailableReplicas,omitempty"`
	// availableReplicas that are available.
	// +optional
	AvailableReplicas int32 `json:"availableReplicas,omitempty"`
}

// CacheRuntimeStatus is what was seen of a CacheRuntime.
type CacheRuntimeStatus struct {
	// phase of the whole runtime.
	// +optional
	Phase RuntimePhase `json:"phase,omitempty"`
	// master component.
	// +optional
	Master RuntimeComponentStatus `json:"master,omitempty"`
	// worker component.
	// +optional
	Worker RuntimeComponentStatus `json:"worker,omitempty"`
	// client component.
	// +optional
	Client RuntimeComponentStatus `json:"client,omitempty"`
	// setupDuration from creation to ready, as text.
	// +optional
	SetupDuration string `json:"setupDuration,omitempty"`
	// selector of the worker pods, for the scale subresource.
	// +optional
	Selector string `json:"selector,omitempty"`
	// cacheStates is what people read of the cache.
	// +optional
	CacheStates CacheStateList `json:"cacheStates,omitempty"`
	// mounts that are served.
	// +kubebuilder:validation:MaxItems=100
	// +listType=atomic
	// +optional
	Mounts []Mount `json:"mounts,omitempty"`
	// conditions of the runtime.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// observedGeneration of the spec that this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
}

// CacheRuntime runs a cache engine for the Dataset of the same name.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:subresource:scale:specpath=.spec.worker.replicas,statuspath=.status.worker.currentReplicas,selectorpath=.status.selector
// +kubebuilder:resource:scope=Namespaced,categories=fluid
// +kubebuilder:printcolumn:name="Status",type="string",JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Master Phase",type="string",JSONPath=`.status.master.phase`
// +kubebuilder:printcolumn:name="Worker Phase",type="string",JSONPath=`.status.worker.phase`
// +kubebuilder:printcolumn:name="Fuse Phase",type="string",JSONPath=`.status.client.phase`
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:optionalOldSelf=true,rule="oldSelf.hasValue() || self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name.size() <= 45",message="metadata.name names Services and StatefulSets too: use at most 45 lower-case letters, digits and '-', starting with a letter"
type CacheRuntime struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   CacheRuntimeSpec   `json:"spec,omitempty"`
	Status CacheRuntimeStatus `json:"status,omitempty"`
}

// CacheRuntimeList is a list of CacheRuntimes.
//
// +kubebuilder:object:root=true
type CacheRuntimeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []CacheRuntime `json:"items"`
}
