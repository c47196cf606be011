package engine

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/internal/bytesize"
)

// Seen is what was seen of a runtime in one round. Kinds fill their status from it.
type Seen struct {
	Master, Worker, Client ComponentSeen
	// Selector of the worker pods, for the scale subresource.
	Selector string
	// Summary is the engine's; it is only of this moment when Heard.
	Summary contract.Summary
	Heard   bool
	// Serving: a master is ready, and a worker if any is wanted.
	Serving bool
	// Absent tells which components the runtime has not.
	Absent map[contract.ComponentType]bool
	// Mute: the engine never says how it is.
	Mute bool
	// Mounts of the Dataset that the runtime was made for.
	Mounts []datav1alpha1.Mount
	// Age of the runtime.
	Age time.Duration
}

// ComponentSeen counts the pods of a component.
type ComponentSeen struct {
	Desired, Current, Ready, Available int32
}

// Unavailable pods are wanted and not available.
func (c ComponentSeen) Unavailable() int32 { return max(c.Desired-c.Available, 0) }

// Phase of the component.
func (c ComponentSeen) Phase() datav1alpha1.RuntimePhase {
	switch {
	case c.Ready >= c.Desired:
		return datav1alpha1.RuntimePhaseReady
	case c.Ready > 0:
		return datav1alpha1.RuntimePhasePartialReady
	default:
		return datav1alpha1.RuntimePhaseNotReady
	}
}

// Phase of the whole runtime.
func (s *Seen) Phase() datav1alpha1.RuntimePhase {
	switch {
	case !s.Serving:
		return datav1alpha1.RuntimePhaseNotReady
	case s.Worker.Phase() != datav1alpha1.RuntimePhaseReady:
		return datav1alpha1.RuntimePhasePartialReady
	default:
		return datav1alpha1.RuntimePhaseReady
	}
}

func seenStatefulSet(set *appsv1.StatefulSet, desired int32) ComponentSeen {
	return ComponentSeen{Desired: desired, Current: set.Status.Replicas, Ready: set.Status.ReadyReplicas, Available: set.Status.AvailableReplicas}
}

func seenDaemonSet(set *appsv1.DaemonSet) ComponentSeen {
	return ComponentSeen{
		Desired: set.Status.DesiredNumberScheduled, Current: set.Status.CurrentNumberScheduled,
		Ready: set.Status.NumberReady, Available: set.Status.NumberAvailable,
	}
}

// RolledOut tells whether every pod of a StatefulSet is ready and of its
// present template.
func RolledOut(set *appsv1.StatefulSet) bool {
	want := int32(1)
	if set.Spec.Replicas != nil {
		want = *set.Spec.Replicas
	}
	return set.Status.ObservedGeneration >= set.Generation && set.Status.ReadyReplicas >= want &&
		(set.Status.UpdatedReplicas >= want || set.Status.CurrentRevision == set.Status.UpdateRevision)
}

// notCounted stands where an engine counts nothing, as Fluid has it.
const notCounted = "N/A"

// MuteCacheStates are those of an engine that never says how it is.
func MuteCacheStates() datav1alpha1.CacheStateList {
	return datav1alpha1.CacheStateList{
		datav1alpha1.Cached: notCounted, datav1alpha1.CacheCapacity: notCounted, datav1alpha1.CachedPercentage: notCounted,
	}
}

// Totals are the bytes and files of the sources, as people read them; known is
// false while they are being counted. A nil Summary is that of a mute engine.
func Totals(s *contract.Summary) (ufsTotal, fileNum string, known bool) {
	if s == nil {
		return notCounted, notCounted, true
	}
	ufsTotal, fileNum = bytesize.Format(s.UFSTotalBytes), strconv.FormatInt(s.FileNum, 10)
	if e := s.Engine; e != nil {
		if e.NoTotal {
			ufsTotal = notCounted
		}
		if e.NoFiles {
			fileNum = notCounted
		}
		return ufsTotal, fileNum, e.Reported
	}
	return ufsTotal, fileNum, s.MetadataComplete
}

// foreignCacheStates are what an engine that is not ours says of its cache, in
// its own words where it has any.
func foreignCacheStates(s *contract.Summary) datav1alpha1.CacheStateList {
	if !s.Engine.Reported {
		return MuteCacheStates()
	}
	states := datav1alpha1.CacheStateList{
		datav1alpha1.Cached:           bytesize.Format(s.CachedBytes),
		datav1alpha1.CacheCapacity:    bytesize.Format(s.CapacityBytes),
		datav1alpha1.CachedPercentage: s.Engine.CachedPercentage,
		datav1alpha1.CacheHitRatio:    s.Engine.CacheHitRatio,
	}
	switch {
	case states[datav1alpha1.CachedPercentage] != "":
	case s.Engine.NoTotal:
		states[datav1alpha1.CachedPercentage] = notCounted
	default:
		states[datav1alpha1.CachedPercentage] = bytesize.Percent(s.CachedBytes, s.UFSTotalBytes, Complete(s))
	}
	if states[datav1alpha1.CacheHitRatio] == "" {
		delete(states, datav1alpha1.CacheHitRatio)
	}
	return states
}

// CacheStates is what people read of a cache.
func CacheStates(s *contract.Summary) datav1alpha1.CacheStateList {
	if s.Engine != nil {
		return foreignCacheStates(s)
	}
	cacheReads := s.Reads.LocalBytes + s.Reads.RemoteBytes
	all := cacheReads + s.Reads.SourceBytes
	hit, local, remote := bytesize.Ratio(cacheReads, all), bytesize.Ratio(s.Reads.LocalBytes, all), bytesize.Ratio(s.Reads.RemoteBytes, all)
	return datav1alpha1.CacheStateList{
		datav1alpha1.Cached:                bytesize.Format(s.CachedBytes),
		datav1alpha1.CacheCapacity:         bytesize.Format(s.CapacityBytes),
		datav1alpha1.CachedPercentage:      bytesize.Percent(s.CachedBytes, s.UFSTotalBytes, Complete(s)),
		datav1alpha1.CacheHitRatio:         hit,
		datav1alpha1.LocalHitRatio:         local,
		datav1alpha1.RemoteHitRatio:        remote,
		datav1alpha1.CacheThroughputRatio:  hit,
		datav1alpha1.LocalThroughputRatio:  local,
		datav1alpha1.RemoteThroughputRatio: remote,
	}
}

// Complete tells whether every byte of the sources is known and cached.
func Complete(s *contract.Summary) bool {
	return s.MetadataComplete && s.CachedBytes >= s.UFSTotalBytes
}

// engineMessages are what keeps the engine's numbers from being known, or its
// workers from caching, worker by worker.
func engineMessages(s *contract.Summary) string {
	if s.Engine != nil {
		return s.Engine.Message
	}
	workers := slices.Clone(s.Workers)
	slices.SortFunc(workers, func(a, b contract.WorkerSummary) int { return cmp.Compare(a.Name, b.Name) })
	var out []string
	for _, w := range workers {
		if w.Message != "" {
			out = append(out, fmt.Sprintf("%s on node %s: %s", w.Name, w.Node, w.Message))
		}
	}
	return strings.Join(out, "; ")
}

// selectorText is a label selector as text.
func selectorText(set map[string]string) string {
	return labels.SelectorFromSet(set).String()
}

// ConditionsOf are the conditions of a runtime of any kind.
func ConditionsOf(runtime any) *[]metav1.Condition {
	switch r := runtime.(type) {
	case *datav1alpha1.CacheRuntime:
		return &r.Status.Conditions
	case *datav1alpha1.AlluxioRuntime:
		return &r.Status.Conditions
	default:
		panic(fmt.Sprintf("%T is no kind of runtime", runtime))
	}
}
