package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// LabelDataset is the label of a LocalitySlice that names its Dataset.
const LabelDataset = "cache.millrace.io/dataset"

// DatasetReference names the Dataset whose bytes a slice speaks of.
type DatasetReference struct {
	// name of the Dataset, in the slice's namespace.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// uid of the Dataset.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	UID string `json:"uid,omitempty"`
}

// NodeBytes is what one node holds.
type NodeBytes struct {
	// nodeName of the node.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	NodeName string `json:"nodeName"`
	// zone of the node, if it has one.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Zone string `json:"zone,omitempty"`
	// cachedBytes of the Dataset on the node.
	// +kubebuilder:validation:Minimum=0
	CachedBytes int64 `json:"cachedBytes"`
	// complete is true when the node holds every byte of the snapshot.
	// +optional
	Complete bool `json:"complete,omitempty"`
}

// LocalitySlice says how many bytes of a Dataset lie on which nodes. Like an
// EndpointSlice it holds a part of them: at most 500 nodes each.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Namespaced,shortName=lslice
// +kubebuilder:printcolumn:name="Dataset",type="string",JSONPath=`.dataset.name`
// +kubebuilder:printcolumn:name="Total",type="integer",JSONPath=`.totalBytes`
// +kubebuilder:printcolumn:name="Snapshot",type="string",JSONPath=`.snapshot`
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=`.metadata.creationTimestamp`
type LocalitySlice struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// dataset that the bytes belong to.
	Dataset DatasetReference `json:"dataset"`
	// snapshot of the Dataset that is counted.
	// +kubebuilder:validation:MaxLength=128
	// +optional
	Snapshot string `json:"snapshot,omitempty"`
	// totalBytes of the Dataset.
	// +kubebuilder:validation:Minimum=0
	TotalBytes int64 `json:"totalBytes"`
	// nodes with bytes of the Dataset.
	// +kubebuilder:validation:MaxItems=500
	// +listType=map
	// +listMapKey=nodeName
	// +optional
	Nodes []NodeBytes `json:"nodes,omitempty"`
}

// LocalitySliceList is a list of LocalitySlices.
//
// +kubebuilder:object:root=true
type LocalitySliceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []LocalitySlice `json:"items"`
}
