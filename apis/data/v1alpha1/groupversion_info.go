// Package v1alpha1 holds the kinds of data.fluid.io/v1alpha1 as Fluid's users
// write them. It has no behaviour: CEL rules and bounds guard what comes in.
//
// +kubebuilder:object:generate=true
// +kubebuilder:ac:generate=true
// +kubebuilder:ac:output:package=../../applyconfiguration/data
// +groupName=data.fluid.io
package v1alpha1

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/scheme"
)

var (
	// GroupVersion of the kinds here.
	GroupVersion = schema.GroupVersion{Group: "data.fluid.io", Version: "v1alpha1"}
	// SchemeGroupVersion is what generated code calls GroupVersion.
	SchemeGroupVersion = GroupVersion
	// SchemeBuilder collects the kinds.
	SchemeBuilder = &scheme.Builder{GroupVersion: GroupVersion}
	// AddToScheme registers the kinds.
	AddToScheme = SchemeBuilder.AddToScheme
)

// Resource gives the group-qualified name of a resource of this group.
func Resource(resource string) schema.GroupResource {
	return GroupVersion.WithResource(resource).GroupResource()
}

func init() {
	SchemeBuilder.Register(
		&Dataset{}, &DatasetList{},
		&CacheRuntime{}, &CacheRuntimeList{},
		&CacheRuntimeClass{}, &CacheRuntimeClassList{},
		&AlluxioRuntime{}, &AlluxioRuntimeList{},
		&JuiceFSRuntime{}, &JuiceFSRuntimeList{},
		&ThinRuntime{}, &ThinRuntimeList{},
		&ThinRuntimeProfile{}, &ThinRuntimeProfileList{},
		&DataLoad{}, &DataLoadList{},
		&DataMigrate{}, &DataMigrateList{},
		&DataBackup{}, &DataBackupList{},
		&DataProcess{}, &DataProcessList{},
	)
}
