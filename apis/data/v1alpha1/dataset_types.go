package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DatasetPhase is a one-word summary for people; logic reads conditions.
type DatasetPhase string

// Phases of a Dataset.
const (
	PendingDatasetPhase       DatasetPhase = "Pending"
	BoundDatasetPhase         DatasetPhase = "Bound"
	NotBoundDatasetPhase      DatasetPhase = "NotBound"
	FailedDatasetPhase        DatasetPhase = "Failed"
	UpdatingDatasetPhase      DatasetPhase = "Updating"
	DataMigratingDatasetPhase DatasetPhase = "DataMigrating"
	NoneDatasetPhase          DatasetPhase = ""
)

// Condition types of a Dataset.
const (
	DatasetRuntimeScheduled = "RuntimeScheduled"
	DatasetReady            = "Ready"
	DatasetNotReady         = "NotReady"
	DatasetUpdateReady      = "UpdateReady"
	DatasetUpdating         = "Updating"
	DatasetInitialized      = "Initialized"
	DatasetNotSupported     = "NotSupported"
)

// PlacementMode says whether the Dataset's workers share nodes with other Datasets' workers.
// +kubebuilder:validation:Enum=Exclusive;"";Shared
type PlacementMode string

// Placement modes; empty means Exclusive.
const (
	ExclusiveMode PlacementMode = "Exclusive"
	DefaultMode   PlacementMode = ""
	ShareMode     PlacementMode = "Shared"
)

// SecretKeySelector names one key of a Secret in the Dataset's namespace.
type SecretKeySelector struct {
	// name of the Secret.
	// +kubebuilder:validation:MaxLength=253
	// +required
	Name string `json:"name,omitempty"`
	// key within the Secret.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Key string `json:"key,omitempty"`
}

// EncryptOptionSource is where an encrypted option's value comes from.
type EncryptOptionSource struct {
	// secretKeyRef names the key that holds the value.
	// +optional
	SecretKeyRef SecretKeySelector `json:"secretKeyRef,omitempty"`
}

// EncryptOption is an option whose value stays in a Secret.
type EncryptOption struct {
	// name of the option.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +required
	Name string `json:"name,omitempty"`
	// valueFrom is where the value comes from.
	// +optional
	ValueFrom EncryptOptionSource `json:"valueFrom,omitempty"`
}

// Mount binds one source to a path of the Dataset.
type Mount struct {
	// mountPoint is the URI of the source, such as s3://bucket/prefix or pvc://claim/sub;
	// one that no engine here reads is told by the condition Ready.
	// +kubebuilder:validation:MinLength=5
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('pvc://') || self.matches('^pvc://[a-z0-9]')",message="mountPoint names no claim: write it as pvc://claim or pvc://claim/sub"
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('dataset://') || self.matches('^dataset://[^/]+/[^/]+')",message="mountPoint names no Dataset: write it as dataset://namespace/name or dataset://namespace/name/sub"
	MountPoint string `json:"mountPoint"`
	// options of the source, in the clear.
	// +kubebuilder:validation:MaxProperties=128
	// +optional
	Options map[string]string `json:"options,omitempty"`
	// encryptOptions of the source; their values stay in Secrets.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	EncryptOptions []EncryptOption `json:"encryptOptions,omitempty"`
	// name of the mount; its data appears at /<name> unless path is absolute.
	// +kubebuilder:validation:MaxLength=256
	// +optional
	Name string `json:"name,omitempty"`
	// path where the data appears below the Dataset's root; / makes it the root.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Path string `json:"path,omitempty"`
	// readOnly forbids writes through the Dataset.
	// +optional
	ReadOnly bool `json:"readOnly,omitempty"`
	// shared lets other users of the engine see the mount.
	// +optional
	Shared bool `json:"shared,omitempty"`
}

// User owns the files of a Dataset.
type User struct {
	// uid of the owner.
	UID *int64 `json:"uid"`
	// gid of the owner.
	GID *int64 `json:"gid"`
	// user name of the owner.
	// +kubebuilder:validation:MaxLength=256
	UserName string `json:"user"`
	// group name of the owner.
	// +kubebuilder:validation:MaxLength=256
	GroupName string `json:"group"`
}

// CacheableNodeAffinity says where cache workers may run.
type CacheableNodeAffinity struct {
	// required node selector terms.
	// +optional
	Required *corev1.NodeSelector `json:"required,omitempty"`
}

// DataRestoreLocation is where a backup is restored from.
type DataRestoreLocation struct {
	// path of the backup: pvc://claim/path or local:///path.
	// +kubebuilder:validation:MaxLength=2048
	// +optional
	Path string `json:"path,omitempty"`
	// nodeName of the node with a local backup.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	NodeName string `json:"nodeName,omitempty"`
}

// Runtime names the runtime of a Dataset.
type Runtime struct {
	// name of the runtime.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Name string `json:"name,omitempty"`
	// namespace of the runtime.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// category of the runtime, such as Accelerate.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Category string `json:"category,omitempty"`
	// type of the runtime, such as alluxio.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Type string `json:"type,omitempty"`
	// masterReplicas of the runtime.
	// +kubebuilder:validation:Minimum=0
	// +optional
	MasterReplicas int32 `json:"masterReplicas,omitempty"`
}

// MetadataSyncPolicy says how metadata is synchronised.
type MetadataSyncPolicy struct {
	// autoSync lists the source without being asked.
	// +optional
	AutoSync *bool `json:"autoSync,omitempty"`
}

// DatasetSyncPolicy says when the sources of a Dataset are looked at again.
type DatasetSyncPolicy struct {
	// autoSync looks at the sources by itself, every interval; true by default. If
	// it is false, they are looked at when annotation cache.millrace.io/refresh of
	// the Dataset gets another value, when its mounts change, and when the master
	// starts.
	// +optional
	AutoSync *bool `json:"autoSync,omitempty"`
	// interval between two looks, such as 10m; it wins over option metadata.ttl of
	// the runtime, whose default is 60s. A source that takes long to walk is walked
	// less often: for at most a twentieth of the time.
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('8760h')",message="interval must be 1s to 8760h: write it as 30s, 10m or 12h"
	// +optional
	Interval string `json:"interval,omitempty"`
}

// DatasetSpec is what its user wants of a Dataset.
type DatasetSpec struct {
	// mounts of the Dataset; one path each.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:XValidation:rule="[self.map(m, has(m.path) && m.path.startsWith('/') ? (m.path.size() > 1 && m.path.endsWith('/') ? m.path.substring(0, m.path.size() - 1) : m.path) : '/' + (has(m.name) ? m.name : ''))].all(paths, paths.all(p, paths.exists_one(q, q == p)))",message="two mounts have the same path: give each of spec.mounts its own path, or its own name"
	// +listType=atomic
	// +optional
	Mounts []Mount `json:"mounts,omitempty"`
	// owner of the files.
	// +optional
	Owner *User `json:"owner,omitempty"`
	// nodeAffinity of the cache workers.
	// +optional
	NodeAffinity *CacheableNodeAffinity `json:"nodeAffinity,omitempty"`
	// tolerations of the cache workers.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`
	// accessModes of the volume; ReadOnlyMany if there is none.
	// +kubebuilder:validation:MaxItems=4
	// +listType=atomic
	// +optional
	AccessModes []corev1.PersistentVolumeAccessMode `json:"accessModes,omitempty"`
	// runtimes of the Dataset, when it names them itself.
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +optional
	Runtimes []Runtime `json:"runtimes,omitempty"`
	// placement of workers: Exclusive (the default) or Shared.
	// +optional
	PlacementMode PlacementMode `json:"placement,omitempty"`
	// dataRestoreLocation of a backup.
	// +optional
	DataRestoreLocation *DataRestoreLocation `json:"dataRestoreLocation,omitempty"`
	// sharedOptions lie under every mount's own options.
	// +kubebuilder:validation:MaxProperties=128
	// +optional
	SharedOptions map[string]string `json:"sharedOptions,omitempty"`
	// sharedEncryptOptions lie under every mount's own encryptOptions.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	SharedEncryptOptions []EncryptOption `json:"sharedEncryptOptions,omitempty"`
	// metadataSyncPolicy says when changes of the sources are noticed. Fluid has
	// it not.
	// +optional
	MetadataSyncPolicy *DatasetSyncPolicy `json:"metadataSyncPolicy,omitempty"`
}

// HCFS is an endpoint for Hadoop's file system interface.
type HCFS struct {
	// endpoint is the URI for clients.
	// +optional
	Endpoint string `json:"endpoint,omitempty"`
	// underlayerFileSystemVersion is the version of the protocol.
	// +optional
	UnderlayerFileSystemVersion string `json:"underlayerFileSystemVersion,omitempty"`
}

// CacheStateName is a key of cacheStates.
type CacheStateName string

// Keys of cacheStates.
const (
	Cached                  CacheStateName = "cached"
	CacheCapacity           CacheStateName = "cacheCapacity"
	CachedPercentage        CacheStateName = "cachedPercentage"
	LowWaterMark            CacheStateName = "lowWaterMark"
	HighWaterMark           CacheStateName = "highWaterMark"
	NonCacheable            CacheStateName = "nonCacheable"
	CacheHitRatio           CacheStateName = "cacheHitRatio"
	LocalHitRatio           CacheStateName = "localHitRatio"
	RemoteHitRatio          CacheStateName = "remoteHitRatio"
	CacheThroughputRatio    CacheStateName = "cacheThroughputRatio"
	LocalThroughputRatio    CacheStateName = "localThroughputRatio"
	RemoteThroughputRatio   CacheStateName = "remoteThroughputRatio"
	MetadataSyncCalculating                = "[Calculating]"
)

// CacheStateList is what people read of the cache, as text.
type CacheStateList map[CacheStateName]string

// RefreshState answers a look at the sources that was asked for.
type RefreshState struct {
	// token is the value of annotation cache.millrace.io/refresh that is answered.
	// +kubebuilder:validation:MaxLength=256
	Token string `json:"token"`
	// time at which the look had ended.
	// +optional
	Time metav1.Time `json:"time,omitempty"`
	// succeeded is true when every source was looked at from end to end.
	Succeeded bool `json:"succeeded"`
	// message says what was found, or why a source could not be looked at.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Message string `json:"message,omitempty"`
}

// SourceState says which state of the sources is served, and since when.
type SourceState struct {
	// snapshot names the state of all sources that is served: it is another one
	// whenever a file came, went or changed, and only then. Empty until every
	// source was walked once.
	// +kubebuilder:validation:MaxLength=128
	// +optional
	Snapshot string `json:"snapshot,omitempty"`
	// snapshotTime is when that state was first seen.
	// +optional
	SnapshotTime *metav1.Time `json:"snapshotTime,omitempty"`
	// lookedTime is when the last look at all sources, from end to end, began that
	// was known when this status was last written for another reason: a look that
	// finds nothing new writes nothing. While condition Ready is true, the sources
	// are looked at every spec.metadataSyncPolicy.interval since; metric
	// millrace_source_looked_timestamp_seconds of the master has the time itself.
	// +optional
	LookedTime *metav1.Time `json:"lookedTime,omitempty"`
	// refresh answers the last look that was asked for by annotation
	// cache.millrace.io/refresh.
	// +optional
	Refresh *RefreshState `json:"refresh,omitempty"`
}

// DatasetStatus is what was seen of a Dataset.
type DatasetStatus struct {
	// mounts that are served.
	// +kubebuilder:validation:MaxItems=100
	// +listType=atomic
	// +optional
	Mounts []Mount `json:"mounts,omitempty"`
	// ufsTotal is the size of the sources, as text; [Calculating] until it is known.
	// +optional
	UfsTotal string `json:"ufsTotal,omitempty"`
	// phase sums the conditions up.
	// +kubebuilder:validation:Enum="";Pending;Bound;NotBound;Failed;Updating;DataMigrating
	// +optional
	Phase DatasetPhase `json:"phase,omitempty"`
	// runtimes bound to the Dataset.
	// +listType=atomic
	// +optional
	Runtimes []Runtime `json:"runtimes,omitempty"`
	// conditions of the Dataset.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// cacheStates is what people read of the cache.
	// +optional
	CacheStates CacheStateList `json:"cacheStates,omitempty"`
	// hcfs endpoint.
	// +optional
	HCFSStatus *HCFS `json:"hcfs,omitempty"`
	// fileNum is the number of files, as text.
	// +optional
	FileNum string `json:"fileNum,omitempty"`
	// dataLoadRef names the running DataLoad; kept for old readers.
	// +optional
	DataLoadRef string `json:"dataLoadRef,omitempty"`
	// dataBackupRef names the running DataBackup; kept for old readers.
	// +optional
	DataBackupRef string `json:"dataBackupRef,omitempty"`
	// operationRef maps a kind of operation to the names of the running ones.
	// +optional
	OperationRef map[string]string `json:"operationRef,omitempty"`
	// datasetRef lists the Datasets that refer to this one, as ns/name.
	// +listType=atomic
	// +optional
	DatasetRef []string `json:"datasetRef,omitempty"`
	// source says which state of the sources is served, and when they were looked at.
	// +optional
	Source *SourceState `json:"source,omitempty"`
	// observedGeneration of the spec that this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
}

// Dataset binds remote data to a cache.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories=fluid,shortName=dataset
// +kubebuilder:printcolumn:name="Ufs Total Size",type="string",JSONPath=`.status.ufsTotal`
// +kubebuilder:printcolumn:name="Cached",type="string",JSONPath=`.status.cacheStates.cached`
// +kubebuilder:printcolumn:name="Cache Capacity",type="string",JSONPath=`.status.cacheStates.cacheCapacity`
// +kubebuilder:printcolumn:name="Cached Percentage",type="string",JSONPath=`.status.cacheStates.cachedPercentage`
// +kubebuilder:printcolumn:name="Phase",type="string",JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="HCFS URL",type="string",JSONPath=`.status.hcfs.endpoint`,priority=10
// +kubebuilder:printcolumn:name="TOTAL FILES",type="string",JSONPath=`.status.fileNum`,priority=11
// +kubebuilder:printcolumn:name="CACHE HIT RATIO",type="string",JSONPath=`.status.cacheStates.cacheHitRatio`,priority=10
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:optionalOldSelf=true,rule="oldSelf.hasValue() || self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name.size() <= 63",message="metadata.name must be a DNS label: use at most 63 lower-case letters, digits and '-', starting with a letter"
type Dataset struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   DatasetSpec   `json:"spec,omitempty"`
	Status DatasetStatus `json:"status,omitempty"`
}

// DatasetList is a list of Datasets.
//
// +kubebuilder:object:root=true
type DatasetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Dataset `json:"items"`
}
