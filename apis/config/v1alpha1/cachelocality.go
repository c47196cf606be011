// Package v1alpha1 holds configuration that is read from files: the manager's,
// and the arguments of the scheduler plugin.
package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// DefaultZoneWeightPercent lets a zone that holds everything lose against a
// node that holds a quarter.
const DefaultZoneWeightPercent = 20

// CacheLocalityArgs are the args of the scheduler plugin CacheLocality in a
// KubeSchedulerConfiguration.
type CacheLocalityArgs struct {
	metav1.TypeMeta `json:",inline"`

	// zoneWeightPercent says what a byte on another node of the same zone is
	// worth, in percent of one on the node itself: 0 to 100, 20 if left out.
	ZoneWeightPercent int32 `json:"zoneWeightPercent"`
}
