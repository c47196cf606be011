package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DatasetToMigrate is a path of a Dataset.
type DatasetToMigrate struct {
	// name of the Dataset.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// namespace of the Dataset.
	// +kubebuilder:validation:MaxLength=253
	Namespace string `json:"namespace"`
	// path within the Dataset, a directory or, to copy from, a file; all of it if empty.
	// +kubebuilder:validation:MaxLength=4096
	// +optional
	Path string `json:"path,omitempty"`
}

// ExternalStorage is storage that no Dataset describes.
type ExternalStorage struct {
	// uri of the storage, such as s3://bucket/prefix or pvc://claim/sub.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	URI string `json:"uri"`
	// encryptOptions of the storage; their values stay in Secrets.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	EncryptOptions []EncryptOption `json:"encryptOptions,omitempty"`
}

// DataToMigrate is one end of a migration.
// +kubebuilder:validation:XValidation:rule="has(self.dataset) || has(self.externalStorage)",message="name a dataset or an externalStorage"
type DataToMigrate struct {
	// dataset at this end.
	// +optional
	DataSet *DatasetToMigrate `json:"dataset,omitempty"`
	// externalStorage at this end.
	// +optional
	ExternalStorage *ExternalStorage `json:"externalStorage,omitempty"`
}

// DataMigrateSpec is what to copy and where to.
// +kubebuilder:validation:XValidation:rule="!has(self.policy) || self.policy != 'Cron' || (has(self.schedule) && self.schedule.size() > 0)",message="schedule is needed with policy Cron: give five fields such as '0 * * * *'"
type DataMigrateSpec struct {
	VersionSpec `json:",inline"`
	// from is the source.
	From DataToMigrate `json:"from"`
	// to is the destination.
	To DataToMigrate `json:"to"`
	// block has other operations on the Dataset, and pods that ask for it, wait
	// meanwhile.
	// +optional
	Block bool `json:"block,omitempty"`
	// runtimeType does nothing: the native engine copies.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	RuntimeType string `json:"runtimeType,omitempty"`
	// options of the copy: concurrency is how many files are copied at once, and
	// those that begin with from. or to. are options of an externalStorage, such as
	// to.endpoint.
	// +kubebuilder:validation:MaxProperties=128
	// +optional
	Options map[string]string `json:"options,omitempty"`
	// policy: Once (the default), Cron (at the times of schedule) or OnEvent (now,
	// and whenever the sources of the Dataset that is copied from have changed).
	// +kubebuilder:default=Once
	// +optional
	Policy Policy `json:"policy,omitempty"`
	// schedule of policy Cron in UTC: five fields such as '0 3 * * *', a name such
	// as @daily, or '@every 90m'.
	// +kubebuilder:validation:MaxLength=256
	// +optional
	Schedule string `json:"schedule,omitempty"`
	// podMetadata of the pods.
	// +optional
	PodMetadata PodMetadata `json:"podMetadata,omitempty"`
	// affinity of the pods.
	// +optional
	Affinity *corev1.Affinity `json:"affinity,omitempty"`
	// tolerations of the pods.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`
	// nodeSelector of the pods.
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	// schedulerName of the pods.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	SchedulerName string `json:"schedulerName,omitempty"`
	// runAfter another operation.
	// +optional
	RunAfter *OperationRef `json:"runAfter,omitempty"`
	// ttlSecondsAfterFinished removes the finished operation.
	// +kubebuilder:validation:Minimum=0
	// +optional
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`
	// resources of the container.
	// +optional
	Resources corev1.ResourceRequirements `json:"resources,omitempty"`
	// parallelism does nothing above 1: one pod copies.
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000
	// +optional
	Parallelism int32 `json:"parallelism,omitempty"`
	// parallelOptions of copies by several pods.
	// +kubebuilder:validation:MaxProperties=128
	// +optional
	ParallelOptions map[string]string `json:"parallelOptions,omitempty"`
}

// DataMigrate copies data between Datasets and other storage.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories=fluid,shortName=migrate
// +kubebuilder:printcolumn:name="Phase",type="string",JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Duration",type="string",JSONPath=`.status.duration`
type DataMigrate struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   DataMigrateSpec `json:"spec,omitempty"`
	Status OperationStatus `json:"status,omitempty"`
}

// DataMigrateList is a list of DataMigrates.
//
// +kubebuilder:object:root=true
type DataMigrateList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []DataMigrate `json:"items"`
}
