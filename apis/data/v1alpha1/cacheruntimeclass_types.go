package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// HeadlessRuntimeComponentService asks for a headless Service.
type HeadlessRuntimeComponentService struct{}

// RuntimeComponentService is how a component is reached.
type RuntimeComponentService struct {
	// headless Service.
	// +optional
	Headless *HeadlessRuntimeComponentService `json:"headless,omitempty"`
}

// SecretMountDependency says whether the component reads the sources' secrets.
type SecretMountDependency struct {
	// enabled mounts them; true by default for master and worker.
	// +optional
	Enabled *bool `json:"enabled,omitempty"`
}

// EncryptOptionDependency asks for the sources' secrets; it has no fields.
type EncryptOptionDependency struct{}

// ConfigMapMount mounts an extra ConfigMap.
type ConfigMapMount struct {
	// name of the ConfigMap in the class's extraResources.
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// mountPath in the container.
	// +kubebuilder:validation:MaxLength=1024
	MountPath string `json:"mountPath"`
}

// ExtraResourcesComponentDependency mounts extra resources.
type ExtraResourcesComponentDependency struct {
	// configMaps to mount.
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	ConfigMaps []ConfigMapMount `json:"configMaps,omitempty"`
}

// RuntimeComponentDependencies is what a component needs besides its pod.
type RuntimeComponentDependencies struct {
	// encryptOption is kept for old manifests; secretMount says it now.
	// +optional
	EncryptOption *EncryptOptionDependency `json:"encryptOption,omitempty"`
	// secretMount of the sources' secrets.
	// +optional
	SecretMount *SecretMountDependency `json:"secretMount,omitempty"`
	// extraResources to mount.
	// +optional
	ExtraResources *ExtraResourcesComponentDependency `json:"extraResources,omitempty"`
}

// ExecutionCommonEntry is a command that is run in a component.
type ExecutionCommonEntry struct {
	// command and its arguments; no shell.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Command []string `json:"command"`
	// timeout in seconds.
	// +kubebuilder:validation:Minimum=0
	// +optional
	Timeout int `json:"timeout,omitempty"`
}

// ExecutionEntries are the commands that an engine offers.
type ExecutionEntries struct {
	// mountUFS mounts the sources; it prints {"mounted":[…]}.
	// +optional
	MountUFS *ExecutionCommonEntry `json:"mountUFS,omitempty"`
	// reportSummary prints the cache's numbers.
	// +optional
	ReportSummary *ExecutionCommonEntry `json:"reportSummary,omitempty"`
}

// WorkloadType names a kind of workload.
type WorkloadType struct {
	// apiVersion of the kind, such as apps/v1.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	APIVersion string `json:"apiVersion,omitempty"`
	// kind of the workload, such as StatefulSet.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Kind string `json:"kind,omitempty"`
}

// RuntimeComponentDefinition is how a class runs one component.
type RuntimeComponentDefinition struct {
	// workloadType of the component, kept for old manifests: master and worker
	// are StatefulSets, the client is a DaemonSet.
	// +optional
	WorkloadType *WorkloadType `json:"workloadType,omitempty"`
	// options of the component.
	// +kubebuilder:validation:MaxProperties=256
	// +optional
	Options map[string]string `json:"options,omitempty"`
	// template of the pods; containers[0] and initContainers[0] are filled in.
	// +optional
	Template corev1.PodTemplateSpec `json:"template,omitzero"`
	// service of the component.
	// +optional
	Service RuntimeComponentService `json:"service,omitempty"`
	// dependencies of the component.
	// +optional
	Dependencies RuntimeComponentDependencies `json:"dependencies,omitempty"`
	// executionEntries of the component.
	// +optional
	ExecutionEntries *ExecutionEntries `json:"executionEntries,omitempty"`
}

// RuntimeTopology is the components of an engine.
type RuntimeTopology struct {
	// master component.
	// +optional
	Master *RuntimeComponentDefinition `json:"master,omitempty"`
	// worker component.
	// +optional
	Worker *RuntimeComponentDefinition `json:"worker,omitempty"`
	// client component.
	// +optional
	Client *RuntimeComponentDefinition `json:"client,omitempty"`
}

// ConfigMapRuntimeExtraResource is a ConfigMap made for each runtime.
type ConfigMapRuntimeExtraResource struct {
	// name of the ConfigMap.
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// data of the ConfigMap.
	// +kubebuilder:validation:MaxProperties=128
	// +optional
	Data map[string]string `json:"data,omitempty"`
}

// RuntimeExtraResources are made for each runtime.
type RuntimeExtraResources struct {
	// configMaps to make.
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	ConfigMaps []ConfigMapRuntimeExtraResource `json:"configMaps,omitempty"`
}

// DataOperationSpec is how an engine runs one kind of data operation.
type DataOperationSpec struct {
	// name of the operation, such as DataLoad.
	// +kubebuilder:validation:Enum=DataLoad;DataBackup;DataMigrate;DataProcess
	Name string `json:"name"`
	// image of the operation.
	// +kubebuilder:validation:MaxLength=512
	// +optional
	Image string `json:"image,omitempty"`
	// command of the operation; no shell.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Command []string `json:"command,omitempty"`
	// args of the operation.
	// +kubebuilder:validation:MaxItems=128
	// +listType=atomic
	// +optional
	Args []string `json:"args,omitempty"`
}

// CacheRuntimeClass tells how a cache engine runs.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=fluid
// +kubebuilder:printcolumn:name="File System",type="string",JSONPath=`.fileSystemType`
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=`.metadata.creationTimestamp`
type CacheRuntimeClass struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// fileSystemType of the engine's file system, such as fuse.millrace.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	FileSystemType string `json:"fileSystemType"`
	// topology of the engine.
	// +optional
	Topology *RuntimeTopology `json:"topology,omitempty"`
	// extraResources made for each runtime.
	// +optional
	ExtraResources RuntimeExtraResources `json:"extraResources,omitempty"`
	// dataOperationSpecs of the engine.
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=name
	// +optional
	DataOperationSpecs []DataOperationSpec `json:"dataOperationSpecs,omitempty"`
}

// CacheRuntimeClassList is a list of CacheRuntimeClasses.
//
// +kubebuilder:object:root=true
type CacheRuntimeClassList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []CacheRuntimeClass `json:"items"`
}
