package dataset

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
	"github.com/millrace/millrace/controllers/internal/bytesize"
	"github.com/millrace/millrace/controllers/internal/conditions"
	"github.com/millrace/millrace/controllers/internal/flow"
)

// report turns what is known of the round into the status.
func (r *Reconciler) report(_ context.Context, s *round) (flow.Outcome, error) {
	st, generation := &s.ds.Status, s.ds.Generation
	st.ObservedGeneration = generation
	conditions.DropForeign(&st.Conditions)
	if s.problem == nil {
		st.Mounts = s.ds.Spec.Mounts
		if conditions.True(&st.Conditions, generation, datav1alpha1.DatasetReady, reasonBound, s.bliss()) {
			r.events.Event(s.ds, corev1.EventTypeNormal, contract.EventDatasetReady, "the Dataset is bound and can be read through PersistentVolumeClaim "+s.key.Name)
		}
	} else if conditions.False(&st.Conditions, generation, datav1alpha1.DatasetReady, s.problem.Reason, s.problem.Message) && fails(s.problem) {
		r.events.Event(s.ds, corev1.EventTypeWarning, contract.EventErrorProcessDataset, s.problem.Message)
	}
	s.reportNotServed()
	r.reportScheduled(s)
	r.reportUpdating(s)
	st.Phase = s.phase()
	r.reportCache(s)
	s.reportSource()
	return flow.Continue(), nil
}

// bliss is what there is to say of a Dataset that can be read.
func (s *round) bliss() string {
	bound := s.boundTo()
	summary := &s.state.Summary
	if !s.state.Connected || s.made.Mute || summary.Engine != nil || summary.MetadataComplete {
		return bound
	}
	return fmt.Sprintf("%s and can be read; its sources are still being listed: %d files with %s so far", bound, summary.FileNum, bytesize.Format(summary.UFSTotalBytes))
}

// reportNotServed names the fields of the spec that are taken and do nothing.
func (s *round) reportNotServed() {
	fields := notServed(&s.ds.Spec)
	if size, said := s.ds.Annotations[contract.AnnotationStorageRequest]; said && !isSize(size) {
		fields = append(fields, fmt.Sprintf("annotation %s (%q is no size above zero, such as 5Ti: the volume has %s)", contract.AnnotationStorageRequest, size, contract.DefaultStorageRequest))
	}
	if s.refers() {
		fields = append(fields, notServedOfReference(&s.ds.Spec)...)
	}
	if len(fields) == 0 {
		meta.RemoveStatusCondition(&s.ds.Status.Conditions, datav1alpha1.DatasetNotSupported)
		return
	}
	conditions.True(&s.ds.Status.Conditions, s.ds.Generation, datav1alpha1.DatasetNotSupported, engine.ReasonFieldsNotServed,
		"these fields are not supported and do nothing: "+strings.Join(fields, ", "))
}

func notServed(spec *datav1alpha1.DatasetSpec) []string {
	var out []string
	for field, set := range map[string]bool{
		"spec.accessModes that write (the volume is read-only)":            slices.ContainsFunc(spec.AccessModes, writes),
		"spec.dataRestoreLocation (the cache lists its sources by itself)": spec.DataRestoreLocation != nil,
		"spec.owner (who may read is decided by who gets the volume)":      spec.Owner != nil,
		"spec.runtimes (a Dataset belongs to the runtime of its name)":     len(spec.Runtimes) > 0,
	} {
		if set {
			out = append(out, field)
		}
	}
	slices.Sort(out)
	return out
}

func writes(mode corev1.PersistentVolumeAccessMode) bool { return mode != corev1.ReadOnlyMany }

// reportScheduled names the runtime that the Dataset is bound to.
func (r *Reconciler) reportScheduled(s *round) {
	st, generation := &s.ds.Status, s.ds.Generation
	if !s.bound {
		st.Runtimes = nil
		conditions.False(&st.Conditions, generation, datav1alpha1.DatasetRuntimeScheduled, s.reason(), "the Dataset is not bound to a runtime")
		return
	}
	if s.target != nil {
		st.Runtimes = s.target.Status.Runtimes
		conditions.True(&st.Conditions, generation, datav1alpha1.DatasetRuntimeScheduled, reasonBound, "bound to the runtime of Dataset "+s.targetKey().String())
		return
	}
	st.Runtimes = []datav1alpha1.Runtime{{
		Name: s.key.Name, Namespace: s.key.Namespace, Category: "Accelerate", Type: string(s.runtime.Type), MasterReplicas: 1,
	}}
	conditions.True(&st.Conditions, generation, datav1alpha1.DatasetRuntimeScheduled, reasonBound, fmt.Sprintf("bound to the %s runtime %s", s.runtime.Type, s.key.Name))
}

// reportUpdating follows a changed spec until the cache serves it.
func (r *Reconciler) reportUpdating(s *round) {
	st, generation := &s.ds.Status, s.ds.Generation
	switch {
	case s.updating():
		conditions.True(&st.Conditions, generation, datav1alpha1.DatasetUpdating, engine.ReasonUpdating, "the mounts are being changed")
	case meta.IsStatusConditionTrue(st.Conditions, datav1alpha1.DatasetUpdating):
		conditions.False(&st.Conditions, generation, datav1alpha1.DatasetUpdating, reasonBound, "the mounts were changed")
		conditions.True(&st.Conditions, generation, datav1alpha1.DatasetUpdateReady, reasonBound, "the mounts were changed")
	}
}

func (s *round) updating() bool {
	return s.bound && s.problem != nil && len(s.ds.Status.Mounts) > 0 && !equality.Semantic.DeepEqual(s.ds.Status.Mounts, s.ds.Spec.Mounts)
}

func (s *round) reason() string {
	if s.problem == nil {
		return reasonBound
	}
	return s.problem.Reason
}

// fails tells problems that somebody must solve from those that time solves.
func fails(p *engine.Problem) bool {
	switch p.Reason {
	case reasonRuntimeNotFound, reasonRuntimeDeleting, reasonUnheard, reasonMounting, reasonBinding, reasonTargetNotFound, reasonTargetNotReady, reasonTargetDeleting,
		engine.ReasonMasterNotReady, engine.ReasonWorkersNotReady, engine.ReasonUpdating, engine.ReasonTakeover, engine.ReasonDatasetNotFound, engine.ReasonInUse, engine.ReasonDeleting:
		return false
	default:
		return true
	}
}

// phase sums up for people.
func (s *round) phase() datav1alpha1.DatasetPhase {
	switch {
	case s.updating():
		return datav1alpha1.UpdatingDatasetPhase
	case s.bound && s.migrating:
		return datav1alpha1.DataMigratingDatasetPhase
	case s.bound:
		return datav1alpha1.BoundDatasetPhase
	case s.problem != nil && fails(s.problem):
		return datav1alpha1.FailedDatasetPhase
	default:
		return datav1alpha1.NotBoundDatasetPhase
	}
}

// reportCache prints what the engine counts. While it is not heard, what was
// printed last stays.
func (r *Reconciler) reportCache(s *round) {
	st := &s.ds.Status
	switch {
	case !s.bound:
		st.CacheStates, st.UfsTotal, st.FileNum, st.HCFSStatus, st.Mounts = nil, "", "", nil, nil
		r.metrics.forget(s.key)
		return
	case s.target != nil: // followTarget has
		return
	case s.made.Mute:
		st.CacheStates = engine.MuteCacheStates()
		st.UfsTotal, st.FileNum, _ = engine.Totals(nil)
		return
	case !s.state.Connected:
		return
	}
	summary := &s.state.Summary
	st.CacheStates = engine.CacheStates(summary)
	ufsTotal, fileNum, known := engine.Totals(summary)
	if !known {
		// What was known once stays. Nobody calculates while a source fails; the
		// Ready condition says why.
		stuck := s.problem != nil && fails(s.problem)
		switch {
		case stuck && st.UfsTotal == datav1alpha1.MetadataSyncCalculating:
			st.UfsTotal, st.FileNum = "", ""
		case !stuck && st.UfsTotal == "":
			st.UfsTotal, st.FileNum = datav1alpha1.MetadataSyncCalculating, datav1alpha1.MetadataSyncCalculating
		}
		return
	}
	st.UfsTotal, st.FileNum = ufsTotal, fileNum
	r.metrics.set(s.key, summary.UFSTotalBytes, summary.FileNum)
}
