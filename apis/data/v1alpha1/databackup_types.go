package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// DataBackupSpec is what to back up and where to.
type DataBackupSpec struct {
	// dataset to back up, in the operation's namespace.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Dataset string `json:"dataset,omitempty"`
	// backupPath to write to: pvc://claim/path or local:///path.
	// +kubebuilder:validation:MaxLength=2048
	// +optional
	BackupPath string `json:"backupPath,omitempty"`
	// runAs owns the files of the backup.
	// +optional
	RunAs *User `json:"runAs,omitempty"`
	// runAfter another operation.
	// +optional
	RunAfter *OperationRef `json:"runAfter,omitempty"`
	// ttlSecondsAfterFinished removes the finished operation.
	// +kubebuilder:validation:Minimum=0
	// +optional
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`
}

// DataBackup saves what the cache of a Dataset knows. It is taken and not run:
// a condition NotSupported says what to do.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories=fluid,shortName=backup
// +kubebuilder:printcolumn:name="Dataset",type="string",JSONPath=`.spec.dataset`
// +kubebuilder:printcolumn:name="Phase",type="string",JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Path",type="string",JSONPath=`.status.infos.BackupLocationPath`
// +kubebuilder:printcolumn:name="NodeName",type="string",JSONPath=`.status.infos.BackupLocationNodeName`
// +kubebuilder:printcolumn:name="Duration",type="string",JSONPath=`.status.duration`
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=`.metadata.creationTimestamp`
type DataBackup struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   DataBackupSpec  `json:"spec,omitempty"`
	Status OperationStatus `json:"status,omitempty"`
}

// DataBackupList is a list of DataBackups.
//
// +kubebuilder:object:root=true
type DataBackupList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []DataBackup `json:"items"`
}
