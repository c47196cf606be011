package dataset

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
	"github.com/millrace/millrace/controllers/internal/flow"
)

// Reasons of the Ready condition of a Dataset that refers to another.
const (
	reasonTargetNotFound = "ReferencedDatasetNotFound"
	reasonTargetNotReady = "ReferencedDatasetNotReady"
	reasonTargetDeleting = "ReferencedDatasetDeleting"
	reasonNotShared      = "ReferencedDatasetNotShared"
)

// refers tells whether the Dataset refers to another, whose cache serves it.
func (s *round) refers() bool {
	_, is := engine.ReferenceOf(s.ds)
	return is
}

// findReferrers lists the Datasets that refer to this one: while there are any,
// it stays.
func (r *Reconciler) findReferrers(ctx context.Context, s *round) (flow.Outcome, error) {
	referrers, err := engine.Referrers(ctx, r.Client, s.key)
	if err != nil {
		return flow.Wait(), err
	}
	s.ds.Status.DatasetRef = nil
	for _, referrer := range referrers {
		if engine.MayRefer(s.ds, referrer.Namespace) {
			s.ds.Status.DatasetRef = append(s.ds.Status.DatasetRef, referrer.String())
		}
	}
	return flow.Continue(), nil
}

// resolveReference finds the Dataset that this one refers to, and the volume
// whose FUSE serves both. Where that one is not bound, this one has no volume.
func (r *Reconciler) resolveReference(ctx context.Context, s *round) (flow.Outcome, error) {
	s.reference, _ = engine.ReferenceOf(s.ds)
	target := &datav1alpha1.Dataset{}
	err := r.Get(ctx, s.targetKey(), target)
	if client.IgnoreNotFound(err) != nil {
		return flow.Wait(), fmt.Errorf("read dataset %s that %s refers to: %w", s.targetKey(), s.key, err)
	}
	if s.problem = s.referenceTrouble(target, err == nil); s.problem != nil {
		return flow.Continue(), nil
	}
	s.target = target
	claim, origin := &corev1.PersistentVolumeClaim{}, &corev1.PersistentVolume{}
	err = r.Get(ctx, s.targetKey(), claim)
	if err == nil {
		err = r.Get(ctx, types.NamespacedName{Name: claim.Spec.VolumeName}, origin)
	}
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return flow.Wait(), fmt.Errorf("read volume of dataset %s: %w", s.targetKey(), err)
	case ours(origin) && origin.Spec.CSI != nil && origin.DeletionTimestamp.IsZero():
		s.origin = origin
	}
	s.problem = s.targetTrouble()
	return flow.Continue(), nil
}

func (s *round) targetKey() types.NamespacedName {
	return types.NamespacedName{Namespace: s.reference.Namespace, Name: s.reference.Name}
}

// referenceTrouble is why there is nothing to refer to. What it says of a Dataset
// that is not shared is what it says of one that does not exist.
func (s *round) referenceTrouble(target *datav1alpha1.Dataset, exists bool) *engine.Problem {
	switch {
	case s.targetKey() == s.key:
		return &engine.Problem{Reason: engine.ReasonInvalid, Message: "the Dataset refers to itself: let its mount name another Dataset, or a source"}
	case !exists:
		return &engine.Problem{Reason: reasonTargetNotFound, Message: fmt.Sprintf(
			"there is no Dataset %s in namespace %s: create it and its runtime, or correct the mount", s.reference.Name, s.reference.Namespace)}
	case !engine.MayRefer(target, s.key.Namespace):
		return &engine.Problem{Reason: reasonNotShared, Message: fmt.Sprintf(
			"Dataset %s is not shared with namespace %s: have its owner add that to its annotation %s", s.targetKey(), s.key.Namespace, contract.AnnotationSharedWith)}
	}
	if to, is := engine.ReferenceOf(target); is {
		return &engine.Problem{Reason: engine.ReasonInvalid, Message: fmt.Sprintf(
			"Dataset %s refers to another Dataset itself: refer to %s/%s directly", s.targetKey(), to.Namespace, to.Name)}
	}
	return nil
}

// targetTrouble is why the Dataset that is referred to does not serve. What its
// own conditions say in words is for its namespace alone.
func (s *round) targetTrouble() *engine.Problem {
	ready := meta.FindStatusCondition(s.target.Status.Conditions, datav1alpha1.DatasetReady)
	why := ""
	if ready != nil {
		why = ", " + ready.Reason
		if s.target.Namespace == s.key.Namespace {
			why += ": " + ready.Message
		}
	}
	switch {
	case !s.target.DeletionTimestamp.IsZero():
		return &engine.Problem{Reason: reasonTargetDeleting, Message: fmt.Sprintf(
			"Dataset %s is being deleted; that waits for this one: delete it too, or let its mount name another Dataset", s.targetKey())}
	case !s.targetBound() || s.origin == nil:
		return &engine.Problem{Reason: reasonTargetNotReady, Message: fmt.Sprintf(
			"Dataset %s is not bound (phase %q%s): this one is bound when that one is", s.targetKey(), s.target.Status.Phase, why)}
	case ready == nil || ready.Status != "True":
		return &engine.Problem{Reason: reasonTargetNotReady, Message: fmt.Sprintf("Dataset %s is not ready (phase %q%s)", s.targetKey(), s.target.Status.Phase, why)}
	}
	return nil
}

func (s *round) targetBound() bool {
	return s.target != nil && (s.target.Status.Phase == datav1alpha1.BoundDatasetPhase || s.target.Status.Phase == datav1alpha1.UpdatingDatasetPhase)
}

// followTarget takes over what is known of the Dataset that is referred to: its
// phase, its runtime and its numbers, which are those of the whole of it.
func (r *Reconciler) followTarget(_ context.Context, s *round) (flow.Outcome, error) {
	s.bound = s.bound && s.targetBound()
	if !s.bound {
		return flow.Continue(), nil
	}
	st, of := &s.ds.Status, s.target.Status.DeepCopy()
	st.UfsTotal, st.FileNum, st.CacheStates, st.HCFSStatus, st.Source = of.UfsTotal, of.FileNum, of.CacheStates, of.HCFSStatus, of.Source
	if token := s.ds.Annotations[contract.AnnotationRefresh]; st.Source != nil {
		st.Source.Refresh = nil
		if token != "" {
			st.Source.Refresh = &datav1alpha1.RefreshState{
				Token:   token[:min(len(token), maxToken)],
				Message: fmt.Sprintf("this Dataset has no sources of its own: annotate Dataset %s", s.targetKey()),
			}
		}
	}
	if summary, _, heard := r.observer.Latest(s.targetKey()); heard && summary.MetadataComplete {
		r.metrics.set(s.key, summary.UFSTotalBytes, summary.FileNum)
	}
	return flow.Continue(), nil
}

// boundTo says what a bound Dataset is bound to.
func (s *round) boundTo() string {
	switch {
	case s.target == nil:
		return fmt.Sprintf("the Dataset is bound to its %s runtime", s.runtime.Type)
	case s.reference.Sub == "":
		return fmt.Sprintf("the Dataset is bound to Dataset %s, whose cache serves it", s.targetKey())
	default:
		return fmt.Sprintf("the Dataset is bound to %s of Dataset %s, whose cache serves it; the numbers of its status are those of that whole Dataset", s.reference.Sub, s.targetKey())
	}
}

// referencePV shows the volume of another Dataset, or a directory of it, under a
// name of its own.
func referencePV(ds *datav1alpha1.Dataset, name string, to contract.Reference, origin *corev1.PersistentVolume) *corev1.PersistentVolume {
	attributes := maps.Clone(origin.Spec.CSI.VolumeAttributes)
	delete(attributes, contract.AttrSubPath)
	if to.Sub != "" {
		attributes[contract.AttrSubPath] = to.Sub
	}
	pv := newPV(ds, name)
	maps.Copy(pv.Labels, referenceLabels(to))
	pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: contract.CSIDriver, VolumeHandle: name, ReadOnly: true, VolumeAttributes: attributes}
	return pv
}

// referenceLabels tell schedulers whose bytes the readers of a claim read. A name
// of a Dataset is a label's value as it is.
func referenceLabels(to contract.Reference) map[string]string {
	return map[string]string{contract.LabelReferringName: to.Name, contract.LabelReferringNamespace: to.Namespace}
}

// requestsOfReferrers are the Datasets that refer to one.
func requestsOfReferrers(c client.Reader) func(context.Context, client.Object) []reconcile.Request {
	return func(ctx context.Context, obj client.Object) []reconcile.Request {
		referrers, err := engine.Referrers(ctx, c, client.ObjectKeyFromObject(obj))
		if err != nil {
			return nil
		}
		var out []reconcile.Request
		for _, referrer := range referrers {
			out = append(out, reconcile.Request{NamespacedName: referrer})
		}
		return out
	}
}

// notServedOfReference names the fields that are the affair of the Dataset that
// is referred to.
func notServedOfReference(spec *datav1alpha1.DatasetSpec) []string {
	var out []string
	for field, set := range map[string]bool{
		"spec.mounts.options":        len(spec.Mounts[0].Options) > 0,
		"spec.mounts.encryptOptions": len(spec.Mounts[0].EncryptOptions) > 0,
		"spec.mounts.path":           strings.Trim(spec.Mounts[0].Path, "/") != "",
		"spec.sharedOptions":         len(spec.SharedOptions) > 0,
		"spec.sharedEncryptOptions":  len(spec.SharedEncryptOptions) > 0,
		"spec.nodeAffinity":          spec.NodeAffinity != nil,
		"spec.tolerations":           len(spec.Tolerations) > 0,
		"spec.placement":             spec.PlacementMode != datav1alpha1.DefaultMode,
		"spec.metadataSyncPolicy":    spec.MetadataSyncPolicy != nil,
	} {
		if set {
			out = append(out, field+" (the Dataset that is referred to has its own)")
		}
	}
	slices.Sort(out)
	return out
}
