// Package v1alpha1 holds Millrace's own kinds.
//
// +kubebuilder:object:generate=true
// +kubebuilder:ac:generate=true
// +kubebuilder:ac:output:package=../../applyconfiguration/cache
// +groupName=cache.millrace.io
package v1alpha1

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/scheme"
)

var (
	// GroupVersion of the kinds here.
	GroupVersion = schema.GroupVersion{Group: "cache.millrace.io", Version: "v1alpha1"}
	// SchemeGroupVersion is what generated code calls GroupVersion.
	SchemeGroupVersion = GroupVersion
	// SchemeBuilder collects the kinds.
	SchemeBuilder = &scheme.Builder{GroupVersion: GroupVersion}
	// AddToScheme registers the kinds.
	AddToScheme = SchemeBuilder.AddToScheme
)

func init() {
	SchemeBuilder.Register(&LocalitySlice{}, &LocalitySliceList{})
}
