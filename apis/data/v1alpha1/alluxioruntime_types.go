package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// MediumType of a tier.
// +kubebuilder:validation:Enum=MEM;SSD;HDD
type MediumType string

// Media of a tier.
const (
	Memory MediumType = "MEM"
	SSD    MediumType = "SSD"
	HDD    MediumType = "HDD"
)

// VolumeType of a tier.
// +kubebuilder:validation:Enum=hostPath;emptyDir;volumeTemplate;""
type VolumeType string

// Volume types of a tier; empty means hostPath.
const (
	VolumeTypeDefault  VolumeType = ""
	VolumeTypeHostPath VolumeType = "hostPath"
	VolumeTypeEmptyDir VolumeType = "emptyDir"
)

// VolumeSource of a tier.
type VolumeSource struct {
	corev1.VolumeSource `json:",inline"`
}

// Level is one tier of a cache.
// +kubebuilder:validation:XValidation:rule="!has(self.quotaList) || self.quotaList.size() == 0 || !has(self.path) || self.path.split(',').size() == self.quotaList.split(',').size()",message="quotaList needs one quantity for each of the paths in path"
// +kubebuilder:validation:XValidation:rule="has(self.quota) || has(self.quotaList)",message="a level of tieredstore needs quota, such as 2Gi, or quotaList with one quantity for each path"
// +kubebuilder:validation:XValidation:rule="!has(self.high) || !has(self.low) || self.high.size() == 0 || self.low.size() == 0 || !self.high.matches('^[0-9.]+$') || !self.low.matches('^[0-9.]+$') || double(self.high) > double(self.low)",message="high must be larger than low: eviction starts at high and stops at low"
type Level struct {
	// mediumtype of the tier: MEM, SSD or HDD.
	MediumType MediumType `json:"mediumtype"`
	// volumeType of the tier: hostPath (the default) or emptyDir.
	// +optional
	VolumeType VolumeType `json:"volumeType,omitempty"`
	// volumeSource of the tier, for other volumes.
	// +optional
	VolumeSource *VolumeSource `json:"volumeSource,omitempty"`
	// path on the node; several are separated by commas.
	// +kubebuilder:validation:MaxLength=4096
	// +optional
	Path string `json:"path,omitempty"`
	// quota in bytes, divided evenly over the paths.
	// +optional
	// +kubebuilder:validation:XValidation:rule="isQuantity(string(self)) && (type(self) == int ? self >= 0 : !self.startsWith('-'))",message="quota must be a quantity of bytes, such as 2Gi"
	Quota *resource.Quantity `json:"quota,omitempty"`
	// quotaList has one quantity for each path, separated by commas.
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:XValidation:rule="self.matches('^( *[+]?([0-9]+([.][0-9]*)?|[.][0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)? *(,|$))*$') && !self.endsWith(',')",message="quotaList must be quantities of bytes with commas between, such as 100Gi,50Gi"
	// +optional
	QuotaList string `json:"quotaList,omitempty"`
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

// TieredStore lists the tiers of a cache.
type TieredStore struct {
	// levels from fast to slow.
	// +kubebuilder:validation:MaxItems=8
	// +listType=atomic
	// +optional
	Levels []Level `json:"levels,omitempty"`
}

// Data says how many copies the cache keeps.
type Data struct {
	// replicas of each byte in the cache.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	// +optional
	Replicas int32 `json:"replicas,omitempty"`
	// pin keeps the data from eviction.
	// +optional
	Pin bool `json:"pin,omitempty"`
}

// AlluxioCompTemplateSpec describes one component.
type AlluxioCompTemplateSpec struct {
	// replicas of the component.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000
	// +optional
	Replicas int32 `json:"replicas,omitempty"`
	// jvmOptions of the component; the native engine has no JVM.
	// +kubebuilder:validation:MaxItems=128
	// +listType=atomic
	// +optional
	JvmOptions []string `json:"jvmOptions,omitempty"`
	// properties of the component.
	// +kubebuilder:validation:MaxProperties=512
	// +optional
	Properties map[string]string `json:"properties,omitempty"`
	// ports of the component.
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	Ports map[string]int `json:"ports,omitempty"`
	// resources of the component's container.
	// +optional
	Resources corev1.ResourceRequirements `json:"resources,omitempty"`
	// env of the component's container.
	// +kubebuilder:validation:MaxProperties=256
	// +optional
	Env map[string]string `json:"env,omitempty"`
	// enabled turns an optional component on.
	// +optional
	Enabled bool `json:"enabled,omitempty"`
	// nodeSelector of the component's pods.
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	// networkMode of the pods: HostNetwork or ContainerNetwork.
	// +kubebuilder:validation:Enum=HostNetwork;"";ContainerNetwork
	// +optional
	NetworkMode string `json:"networkMode,omitempty"`
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
	// imagePullSecrets of the component's pods.
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`
}

// AlluxioFuseSpec describes the FUSE clients.
type AlluxioFuseSpec struct {
	// image of Alluxio's FUSE; the native engine brings its own.
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
	// jvmOptions of Alluxio's FUSE.
	// +kubebuilder:validation:MaxItems=128
	// +listType=atomic
	// +optional
	JvmOptions []string `json:"jvmOptions,omitempty"`
	// properties of the FUSE client.
	// +kubebuilder:validation:MaxProperties=512
	// +optional
	Properties map[string]string `json:"properties,omitempty"`
	// env of the FUSE container.
	// +kubebuilder:validation:MaxProperties=256
	// +optional
	Env map[string]string `json:"env,omitempty"`
	// resources of the FUSE container.
	// +optional
	Resources corev1.ResourceRequirements `json:"resources,omitempty"`
	// args of the FUSE client.
	// +kubebuilder:validation:MaxItems=128
	// +listType=atomic
	// +optional
	Args []string `json:"args,omitempty"`
	// global starts FUSE on every node that nodeSelector admits; kept for old manifests.
	// +optional
	Global bool `json:"global,omitempty"`
	// nodeSelector of the FUSE pods.
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	// networkMode of the pods: HostNetwork or ContainerNetwork.
	// +kubebuilder:validation:Enum=HostNetwork;"";ContainerNetwork
	// +optional
	NetworkMode string `json:"networkMode,omitempty"`
	// cleanPolicy of FUSE pods: OnRuntimeDeleted (the default) or OnDemand.
	// +optional
	CleanPolicy FuseCleanPolicy `json:"cleanPolicy,omitempty"`
	// volumeMounts of the FUSE container.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	VolumeMounts []corev1.VolumeMount `json:"volumeMounts,omitempty"`
	// podMetadata of the FUSE pods.
	// +optional
	PodMetadata PodMetadata `json:"podMetadata,omitempty"`
	// imagePullSecrets of the FUSE pods.
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`
}

// InitUsersSpec makes users before the FUSE client starts.
type InitUsersSpec struct {
	VersionSpec `json:",inline"`
	// env of the container.
	// +kubebuilder:validation:MaxProperties=256
	// +optional
	Env map[string]string `json:"env,omitempty"`
	// resources of the container.
	// +optional
	Resources corev1.ResourceRequirements `json:"resources,omitempty"`
}

// RuntimeManagement tunes how a runtime is managed.
type RuntimeManagement struct {
	// cleanCachePolicy of a deleted runtime.
	// +optional
	CleanCachePolicy CleanCachePolicy `json:"cleanCachePolicy,omitempty"`
	// metadataSyncPolicy of the sources.
	// +optional
	MetadataSyncPolicy MetadataSyncPolicy `json:"metadataSyncPolicy,omitempty"`
}

// CleanCachePolicy bounds the cleaning of caches.
type CleanCachePolicy struct {
	// gracePeriodSeconds of the cleaning.
	// +kubebuilder:validation:Minimum=0
	// +optional
	GracePeriodSeconds *int32 `json:"gracePeriodSeconds,omitempty"`
	// maxRetryAttempts of the cleaning.
	// +kubebuilder:validation:Minimum=0
	// +optional
	MaxRetryAttempts *int32 `json:"maxRetryAttempts,omitempty"`
}

// AlluxioRuntimeSpec is what its user wants of an AlluxioRuntime.
type AlluxioRuntimeSpec struct {
	// alluxioVersion chooses Alluxio's image; the native engine brings its own.
	// +optional
	AlluxioVersion VersionSpec `json:"alluxioVersion,omitempty"`
	// master component.
	// +optional
	Master AlluxioCompTemplateSpec `json:"master,omitempty"`
	// jobMaster component of Alluxio.
	// +optional
	JobMaster AlluxioCompTemplateSpec `json:"jobMaster,omitempty"`
	// worker component.
	// +optional
	Worker AlluxioCompTemplateSpec `json:"worker,omitempty"`
	// jobWorker component of Alluxio.
	// +optional
	JobWorker AlluxioCompTemplateSpec `json:"jobWorker,omitempty"`
	// apiGateway component of Alluxio.
	// +optional
	APIGateway AlluxioCompTemplateSpec `json:"apiGateway,omitempty"`
	// initUsers before the FUSE client starts.
	// +optional
	InitUsers InitUsersSpec `json:"initUsers,omitempty"`
	// fuse clients.
	// +optional
	Fuse AlluxioFuseSpec `json:"fuse,omitempty"`
	// properties of Alluxio.
	// +kubebuilder:validation:MaxProperties=512
	// +optional
	Properties map[string]string `json:"properties,omitempty"`
	// jvmOptions of Alluxio.
	// +kubebuilder:validation:MaxItems=128
	// +listType=atomic
	// +optional
	JvmOptions []string `json:"jvmOptions,omitempty"`
	// tieredstore of each worker.
	// +optional
	TieredStore TieredStore `json:"tieredstore,omitempty"`
	// data says how many copies the cache keeps.
	// +optional
	Data Data `json:"data,omitempty"`
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
	// hadoopConfig names a ConfigMap with core-site.xml and hdfs-site.xml.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	HadoopConfig string `json:"hadoopConfig,omitempty"`
	// volumes that volumeMounts may name.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Volumes []corev1.Volume `json:"volumes,omitempty"`
	// podMetadata of all pods.
	// +optional
	PodMetadata PodMetadata `json:"podMetadata,omitempty"`
	// management of the runtime.
	// +optional
	RuntimeManagement RuntimeManagement `json:"management,omitempty"`
	// imagePullSecrets of all pods.
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`
}

// APIGatewayStatus is where Alluxio's gateway is reached.
type APIGatewayStatus struct {
	// endpoint of the gateway.
	// +optional
	Endpoint string `json:"endpoint,omitempty"`
}

// RuntimeStatus is what was seen of a runtime of a legacy kind.
type RuntimeStatus struct {
	// valueFile names the values that the runtime was made from.
	// +optional
	ValueFileConfigmap string `json:"valueFile,omitempty"`
	// masterPhase of the runtime.
	// +optional
	MasterPhase RuntimePhase `json:"masterPhase,omitempty"`
	// masterReason of the phase.
	// +optional
	MasterReason string `json:"masterReason,omitempty"`
	// workerPhase of the runtime.
	// +optional
	WorkerPhase RuntimePhase `json:"workerPhase,omitempty"`
	// workerReason of the phase.
	// +optional
	WorkerReason string `json:"workerReason,omitempty"`
	// desiredWorkerNumberScheduled workers wanted.
	// +optional
	DesiredWorkerNumberScheduled int32 `json:"desiredWorkerNumberScheduled"`
	// currentWorkerNumberScheduled workers that exist.
	// +optional
	CurrentWorkerNumberScheduled int32 `json:"currentWorkerNumberScheduled"`
	// workerNumberReady workers.
	// +optional
	WorkerNumberReady int32 `json:"workerNumberReady"`
	// workerNumberAvailable workers.
	// +optional
	WorkerNumberAvailable int32 `json:"workerNumberAvailable,omitempty"`
	// workerNumberUnavailable workers.
	// +optional
	WorkerNumberUnavailable int32 `json:"workerNumberUnavailable,omitempty"`
	// desiredMasterNumberScheduled masters wanted.
	// +optional
	DesiredMasterNumberScheduled int32 `json:"desiredMasterNumberScheduled"`
	// currentMasterNumberScheduled masters that exist.
	// +optional
	CurrentMasterNumberScheduled int32 `json:"currentMasterNumberScheduled"`
	// masterNumberReady masters.
	// +optional
	MasterNumberReady int32 `json:"masterNumberReady"`
	// fusePhase of the runtime.
	// +optional
	FusePhase RuntimePhase `json:"fusePhase,omitempty"`
	// fuseReason of the phase.
	// +optional
	FuseReason string `json:"fuseReason,omitempty"`
	// currentFuseNumberScheduled FUSE pods that exist.
	// +optional
	CurrentFuseNumberScheduled int32 `json:"currentFuseNumberScheduled"`
	// desiredFuseNumberScheduled FUSE pods wanted.
	// +optional
	DesiredFuseNumberScheduled int32 `json:"desiredFuseNumberScheduled"`
	// fuseNumberReady FUSE pods.
	// +optional
	FuseNumberReady int32 `json:"fuseNumberReady"`
	// fuseNumberUnavailable FUSE pods.
	// +optional
	FuseNumberUnavailable int32 `json:"fuseNumberUnavailable,omitempty"`
	// fuseNumberAvailable FUSE pods.
	// +optional
	FuseNumberAvailable int32 `json:"fuseNumberAvailable,omitempty"`
	// setupDuration from creation to ready, as text.
	// +optional
	SetupDuration string `json:"setupDuration,omitempty"`
	// conditions of the runtime.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// cacheStates is what people read of the cache.
	// +optional
	CacheStates CacheStateList `json:"cacheStates,omitempty"`
	// selector of the worker pods, for the scale subresource.
	// +optional
	Selector string `json:"selector,omitempty"`
	// apiGateway status.
	// +optional
	APIGatewayStatus *APIGatewayStatus `json:"apiGateway,omitempty"`
	// mountTime of the last mount of the sources.
	// +optional
	MountTime *metav1.Time `json:"mountTime,omitempty"`
	// mounts that are served.
	// +kubebuilder:validation:MaxItems=100
	// +listType=atomic
	// +optional
	Mounts []Mount `json:"mounts,omitempty"`
	// cacheAffinity is where the workers run.
	// +optional
	CacheAffinity *corev1.NodeAffinity `json:"cacheAffinity,omitempty"`
	// observedGeneration of the spec that this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
}

// AlluxioRuntime caches the Dataset of the same name. Millrace's native engine
// serves it.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:subresource:scale:specpath=.spec.replicas,statuspath=.status.currentWorkerNumberScheduled,selectorpath=.status.selector
// +kubebuilder:resource:scope=Namespaced,categories=fluid,shortName=alluxio
// +kubebuilder:printcolumn:name="Ready Masters",type="integer",JSONPath=`.status.masterNumberReady`,priority=10
// +kubebuilder:printcolumn:name="Desired Masters",type="integer",JSONPath=`.status.desiredMasterNumberScheduled`,priority=10
// +kubebuilder:printcolumn:name="Master Phase",type="string",JSONPath=`.status.masterPhase`,priority=0
// +kubebuilder:printcolumn:name="Ready Workers",type="integer",JSONPath=`.status.workerNumberReady`,priority=10
// +kubebuilder:printcolumn:name="Desired Workers",type="integer",JSONPath=`.status.desiredWorkerNumberScheduled`,priority=10
// +kubebuilder:printcolumn:name="Worker Phase",type="string",JSONPath=`.status.workerPhase`,priority=0
// +kubebuilder:printcolumn:name="Ready Fuses",type="integer",JSONPath=`.status.fuseNumberReady`,priority=10
// +kubebuilder:printcolumn:name="Desired Fuses",type="integer",JSONPath=`.status.desiredFuseNumberScheduled`,priority=10
// +kubebuilder:printcolumn:name="Fuse Phase",type="string",JSONPath=`.status.fusePhase`,priority=0
// +kubebuilder:printcolumn:name="API Gateway",type="string",JSONPath=`.status.apiGateway.endpoint`,priority=10
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=`.metadata.creationTimestamp`,priority=0
// +kubebuilder:validation:XValidation:optionalOldSelf=true,rule="oldSelf.hasValue() || self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name.size() <= 45",message="metadata.name names Services and StatefulSets too: use at most 45 lower-case letters, digits and '-', starting with a letter"
type AlluxioRuntime struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   AlluxioRuntimeSpec `json:"spec,omitempty"`
	Status RuntimeStatus      `json:"status,omitempty"`
}

// AlluxioRuntimeList is a list of AlluxioRuntimes.
//
// +kubebuilder:object:root=true
type AlluxioRuntimeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AlluxioRuntime `json:"items"`
}
