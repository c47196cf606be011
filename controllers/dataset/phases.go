package dataset

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
	"github.com/millrace/millrace/controllers/internal/apply"
	"github.com/millrace/millrace/controllers/internal/conditions"
	"github.com/millrace/millrace/controllers/internal/flow"
	"github.com/millrace/millrace/controllers/internal/status"
	"github.com/millrace/millrace/controllers/operation"
)

// Reasons of the Ready condition that only Datasets have.
const (
	reasonRuntimeNotFound = "RuntimeNotFound"
	reasonRuntimeDeleting = "RuntimeDeleting"
	reasonUnserved        = "RuntimeNotSupported"
	reasonUnheard         = "EngineNotHeard"
	reasonMounting        = "Mounting"
	reasonReferenced      = "Referenced"
	reasonBound           = "Bound"
	reasonBinding         = "VolumeBinding"
	reasonLost            = "VolumeLost"
)

// deafTime is how long a bound Dataset stays Ready although its master is not
// heard: a restarted manager or master is no reason to alarm anybody.
const deafTime = 20 * time.Second

func (r *Reconciler) ensureFinalizer(ctx context.Context, s *round) (flow.Outcome, error) {
	return flow.Continue(), status.AddFinalizer(ctx, r.Client, s.ds, contract.FinalizerDataset)
}

func (r *Reconciler) dropFinalizer(ctx context.Context, s *round) (flow.Outcome, error) {
	r.metrics.forget(s.key)
	return flow.Continue(), status.RemoveFinalizer(ctx, r.Client, s.ds, contract.FinalizerDataset)
}

// findOperations names the operations that run on the Dataset.
func (r *Reconciler) findOperations(ctx context.Context, s *round) (_ flow.Outcome, err error) {
	s.ds.Status.OperationRef, s.migrating, err = operation.Running(ctx, r.Client, s.key, r.operations)
	return flow.Continue(), err
}

// resolveRuntime finds the runtime of the Dataset's name and what is known of it.
func (r *Reconciler) resolveRuntime(ctx context.Context, s *round) (flow.Outcome, error) {
	runtimes, err := engine.RuntimesOf(ctx, r.Client, s.key)
	if err != nil {
		return flow.Wait(), err
	}
	if len(runtimes) == 0 {
		s.unserved, err = engine.Unserved(ctx, r.Client, s.key)
		return flow.Continue(), err
	}
	s.runtime = &runtimes[0]
	s.state = r.observer.State(s.key)
	s.made, err = engine.MadeFor(ctx, r.Client, s.key)
	return flow.Continue(), err
}

// assess finds why the Dataset is not ready, if it is not.
func (r *Reconciler) assess(_ context.Context, s *round) (flow.Outcome, error) {
	s.problem = s.trouble()
	if s.problem != nil && s.problem.Reason == reasonUnheard && meta.IsStatusConditionTrue(s.ds.Status.Conditions, datav1alpha1.DatasetReady) {
		deaf := time.Since(s.state.Since)
		if s.state.Since.IsZero() {
			deaf = 0
		}
		if deaf < deafTime {
			s.problem = nil
			return flow.CheckBack(deafTime - deaf), nil
		}
	}
	return flow.Continue(), nil
}

// trouble asks one thing after the other: is there a runtime, is it ready, does
// it serve this spec, is it heard, and are its sources there.
func (s *round) trouble() *engine.Problem {
	if s.unserved != "" {
		return &engine.Problem{Reason: reasonUnserved, Message: fmt.Sprintf(
			"kind %s of runtime %s is not supported: delete it and create a CacheRuntime of class %s with the Dataset's name; PersistentVolumeClaim %s is left as it is until then",
			s.unserved, s.key.Name, contract.NativeClass, s.key.Name)}
	}
	if s.runtime == nil {
		return &engine.Problem{Reason: reasonRuntimeNotFound, Message: fmt.Sprintf(
			"there is no runtime %s in namespace %s: create a CacheRuntime or an AlluxioRuntime with the Dataset's name", s.key.Name, s.key.Namespace)}
	}
	if !s.runtime.GetDeletionTimestamp().IsZero() {
		return &engine.Problem{Reason: reasonRuntimeDeleting, Message: fmt.Sprintf("the %s runtime %s is being deleted", s.runtime.Type, s.key.Name)}
	}
	ready := meta.FindStatusCondition(*engine.ConditionsOf(s.runtime.Object), datav1alpha1.RuntimeReady)
	switch {
	case ready == nil || ready.Reason == engine.ReasonDatasetNotFound:
		return &engine.Problem{Reason: engine.ReasonMasterNotReady, Message: fmt.Sprintf("the %s runtime %s is being set up", s.runtime.Type, s.key.Name)}
	case ready.Status != metav1.ConditionTrue:
		return &engine.Problem{Reason: ready.Reason, Message: fmt.Sprintf("runtime %s: %s", s.key.Name, ready.Message)}
	case s.made.Generation < s.ds.Generation:
		return &engine.Problem{Reason: engine.ReasonUpdating, Message: "the cache is being told of the changed Dataset"}
	case s.made.Mute:
		return nil
	case !s.state.Connected:
		return &engine.Problem{Reason: reasonUnheard, Message: fmt.Sprintf("the master of runtime %s is not heard yet: see pod %s-0%s", s.key.Name, contract.MasterName(s.key.Name), because(s.state.Err))}
	}
	// An engine of another make does not name its mounts.
	if serves := s.state.Summary.MountTable; serves != "" && serves != s.made.MountTable {
		return &engine.Problem{Reason: engine.ReasonUpdating, Message: "the cache is being told of the changed mounts; what it served before is served until then"}
	}
	return s.mountTrouble()
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return " (" + err.Error() + ")"
}

// mountTrouble hands on what the engine says of the sources, in its words.
func (s *round) mountTrouble() *engine.Problem {
	seen := map[string]contract.MountSummary{}
	for _, m := range s.state.Summary.Mounts {
		seen[m.Path] = m
	}
	var reason string
	var messages []string
	for _, m := range s.ds.Spec.Mounts {
		path := contract.MountPath(m.Path, m.Name)
		found, ok := seen[path]
		switch {
		case ok && found.Ready:
			continue
		case !ok || found.Reason == "" && found.Message == "":
			found = contract.MountSummary{Reason: reasonMounting, Message: "it is being opened"}
		}
		if reason == "" || reason == reasonMounting {
			reason = found.Reason
		}
		messages = append(messages, fmt.Sprintf("mount %s at %s: %s", m.MountPoint, path, found.Message))
	}
	if len(messages) == 0 {
		return nil
	}
	return &engine.Problem{Reason: reason, Message: strings.Join(messages, "; ")}
}

// ensureVolume makes PV and PVC once the Dataset is ready, and removes them
// when its runtime is gone.
func (r *Reconciler) ensureVolume(ctx context.Context, s *round) (flow.Outcome, error) {
	if s.unserved != "" {
		return flow.Continue(), nil // it may be the claim of pods that run on it
	}
	if s.runtime == nil && s.origin == nil {
		_, err := r.deleteVolume(ctx, s)
		return flow.Continue(), err
	}
	claim := &corev1.PersistentVolumeClaim{}
	switch err := r.Get(ctx, s.key, claim); {
	case apierrors.IsNotFound(err):
	case err != nil:
		return flow.Wait(), fmt.Errorf("read claim %s: %w", s.key, err)
	default:
		if p := s.claimTrouble(claim); p != nil {
			s.problem = p
			return flow.Continue(), nil
		}
		outdated, err := r.replaceOutdated(ctx, s, claim)
		if err != nil || outdated {
			return flow.Continue(), err
		}
		s.bound = claim.Status.Phase == corev1.ClaimBound
	}
	if s.bound || s.problem != nil {
		return flow.Continue(), nil
	}
	// Pods that come before the claim is bound are turned away for a while.
	s.problem = &engine.Problem{Reason: reasonBinding, Message: fmt.Sprintf("PersistentVolumeClaim %s is being bound to its volume", s.key.Name)}
	return r.makeVolume(ctx, s)
}

// desiredVolume is what the volume of the Dataset is to be, under a name.
func (r *Reconciler) desiredVolume(s *round, name string) *corev1.PersistentVolume {
	if s.origin != nil {
		return referencePV(s.ds, name, s.reference, s.origin)
	}
	return desiredPV(s.ds, name, r.mountRoot, s.runtime.Type, s.made.FileSystem)
}

// replaceOutdated takes a volume away that leads elsewhere than to where the
// Dataset is served now: its runtime is of another kind than before, or it refers
// to another Dataset. What a volume says cannot be changed, so that it is made
// anew, once no pod has it.
func (r *Reconciler) replaceOutdated(ctx context.Context, s *round, claim *corev1.PersistentVolumeClaim) (outdated bool, err error) {
	pv := &corev1.PersistentVolume{}
	err = r.Get(ctx, types.NamespacedName{Name: claim.Spec.VolumeName}, pv)
	if err != nil || !s.mine(pv) || sameVolume(pv, r.desiredVolume(s, pv.Name)) {
		return false, client.IgnoreNotFound(err)
	}
	users, err := engine.Users(ctx, r.Client, s.key)
	if err != nil {
		return false, err
	}
	if len(users) > 0 {
		s.problem = &engine.Problem{Reason: engine.ReasonInUse, Message: fmt.Sprintf(
			"PersistentVolumeClaim %s leads to what the Dataset was served by before, and pods use it: %s; it is made anew when they are gone", s.key.Name, engine.NamePods(users))}
		return true, nil
	}
	s.problem = &engine.Problem{Reason: reasonBinding, Message: fmt.Sprintf(
		"PersistentVolumeClaim %s leads to what the Dataset was served by before and is made anew", s.key.Name)}
	_, err = r.deleteVolume(ctx, s)
	return true, err
}

// sameVolume tells whether two volumes lead to the same place.
func sameVolume(a, b *corev1.PersistentVolume) bool {
	return a.Spec.CSI.VolumeAttributes[contract.AttrFluidPath] == b.Spec.CSI.VolumeAttributes[contract.AttrFluidPath] &&
		a.Spec.CSI.VolumeAttributes[contract.AttrSubPath] == b.Spec.CSI.VolumeAttributes[contract.AttrSubPath]
}

// claimTrouble is why a claim that exists can never serve the Dataset.
func (s *round) claimTrouble(claim *corev1.PersistentVolumeClaim) *engine.Problem {
	switch {
	case !s.mine(claim):
		return &engine.Problem{Reason: engine.ReasonForeign, Message: fmt.Sprintf(
			"PersistentVolumeClaim %s in namespace %s belongs to somebody else: delete or rename it, or choose another name for the Dataset", s.key.Name, s.key.Namespace)}
	case !claim.DeletionTimestamp.IsZero():
		return &engine.Problem{Reason: engine.ReasonDeleting, Message: fmt.Sprintf(
			"PersistentVolumeClaim %s is being deleted; it is made anew when it is gone", s.key.Name)}
	case claim.Status.Phase == corev1.ClaimLost:
		return &engine.Problem{Reason: reasonLost, Message: fmt.Sprintf(
			"PersistentVolumeClaim %s lost its volume: delete the claim, and both are made anew", s.key.Name)}
	default:
		return nil
	}
}

// makeVolume makes PV and PVC. What they say is fixed from then on.
func (r *Reconciler) makeVolume(ctx context.Context, s *round) (flow.Outcome, error) {
	name, released, err := r.volumeName(ctx, s)
	if err != nil {
		return flow.Wait(), err
	}
	if released {
		// Its claim was deleted, or it goes itself: it can never be bound again.
		_, err := r.applier.Delete(ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}, s.mine)
		return flow.Continue(), err
	}
	if err := r.applier.Apply(ctx, r.desiredVolume(s, name), s.mine); err != nil {
		return flow.Wait(), err
	}
	claim := desiredPVC(s.ds, name)
	if s.origin != nil {
		maps.Copy(claim.Labels, referenceLabels(s.reference))
	}
	return flow.Continue(), r.applier.Apply(ctx, claim, s.mine)
}

// mine tells whether a PV or PVC was made by us for this very Dataset.
func (s *round) mine(live client.Object) bool {
	if !ours(live) || live.GetLabels()[contract.DatasetLabel(s.key.Namespace, s.key.Name, string(s.ds.UID))] != "true" {
		return false
	}
	pv, ok := live.(*corev1.PersistentVolume)
	return !ok || pv.Spec.CSI != nil && pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.Namespace == s.key.Namespace && pv.Spec.ClaimRef.Name == s.key.Name
}

// volumeName is the short name or, when that is another's, the one with the
// Dataset's UID. released tells that our volume is there and has lost its claim.
func (r *Reconciler) volumeName(ctx context.Context, s *round) (name string, released bool, err error) {
	for _, name := range s.volumeNames() {
		pv := &corev1.PersistentVolume{}
		err := r.Get(ctx, types.NamespacedName{Name: name}, pv)
		switch {
		case apierrors.IsNotFound(err):
			return name, false, nil
		case err != nil:
			return "", false, fmt.Errorf("read volume %s: %w", name, err)
		case s.mine(pv):
			gone := pv.Status.Phase == corev1.VolumeReleased || !pv.DeletionTimestamp.IsZero()
			return name, gone || !sameVolume(pv, r.desiredVolume(s, name)), nil
		}
	}
	return "", false, fmt.Errorf("volume names %s: %w", strings.Join(s.volumeNames(), ", "), apply.ErrForeign)
}

// volumeNames are the names that the Dataset's volume may have.
func (s *round) volumeNames() []string {
	return []string{
		contract.PVName(s.key.Namespace, s.key.Name),
		contract.PVNameWithUID(s.key.Namespace, s.key.Name, string(s.ds.UID)),
	}
}

// deleteVolume removes the PVC and PVs that are ours; gone tells that none is left.
func (r *Reconciler) deleteVolume(ctx context.Context, s *round) (gone bool, err error) {
	gone = true
	objects := []client.Object{&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: s.key.Namespace, Name: s.key.Name}}}
	for _, name := range s.volumeNames() {
		objects = append(objects, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	for _, obj := range objects {
		done, err := r.applier.Delete(ctx, obj, s.mine)
		if err != nil {
			return false, err
		}
		gone = gone && done
	}
	return gone, nil
}

// refuseWhileInUse keeps a deleted Dataset while anybody reads through it.
func (r *Reconciler) refuseWhileInUse(ctx context.Context, s *round) (flow.Outcome, error) {
	users, err := engine.Users(ctx, r.Client, s.key)
	if err != nil {
		return flow.Wait(), err
	}
	referrers := s.ds.Status.DatasetRef
	switch {
	case len(users) > 0:
		r.refuse(s, &engine.Problem{Reason: engine.ReasonInUse, Message: fmt.Sprintf(
			"deletion waits for pods that use PersistentVolumeClaim %s: %s; delete them, and it goes on by itself", s.key.Name, engine.NamePods(users))})
		return flow.Wait(), nil
	case len(referrers) > 0:
		r.refuse(s, &engine.Problem{Reason: reasonReferenced, Message: fmt.Sprintf(
			"deletion waits for Datasets that refer to this one: %s; delete them, and it goes on by itself", strings.Join(referrers, ", "))})
		return flow.Wait(), nil
	}
	s.going("the Dataset is being deleted")
	return flow.Continue(), nil
}

// going says how far a deletion is that nobody has to help.
func (s *round) going(message string) {
	conditions.False(&s.ds.Status.Conditions, s.ds.Generation, datav1alpha1.DatasetReady, engine.ReasonDeleting, message)
}

func (r *Reconciler) refuse(s *round, p *engine.Problem) {
	before := meta.FindStatusCondition(s.ds.Status.Conditions, datav1alpha1.DatasetReady)
	said := before != nil && before.Message == p.Message
	conditions.False(&s.ds.Status.Conditions, s.ds.Generation, datav1alpha1.DatasetReady, p.Reason, p.Message)
	if !said {
		r.events.Event(s.ds, corev1.EventTypeWarning, contract.EventErrorDeleteDataset, p.Message)
	}
}

// deleteRuntime has the runtime go first, as it goes with its Dataset in Fluid.
func (r *Reconciler) deleteRuntime(ctx context.Context, s *round) (flow.Outcome, error) {
	runtimes, err := engine.RuntimesOf(ctx, r.Client, s.key)
	if err != nil {
		return flow.Wait(), err
	}
	if len(runtimes) == 0 {
		return flow.Continue(), nil
	}
	for _, runtime := range runtimes {
		if runtime.GetDeletionTimestamp().IsZero() {
			uid := runtime.GetUID()
			if err := r.Delete(ctx, runtime.Object, client.Preconditions{UID: &uid}); client.IgnoreNotFound(err) != nil {
				return flow.Wait(), fmt.Errorf("delete %s runtime %s: %w", runtime.Type, s.key, err)
			}
		}
	}
	s.going(fmt.Sprintf("deletion waits for the %s runtime %s, which drops its cache%s", runtimes[0].Type, s.key.Name, heldBy(runtimes[0], contract.RuntimeFinalizer(runtimes[0].Type))))
	return flow.Wait(), nil
}

// heldBy names the finalizers of an object that are not the expected one.
func heldBy(obj client.Object, expected string) string {
	foreign := slices.DeleteFunc(slices.Clone(obj.GetFinalizers()), func(f string) bool { return f == expected })
	if len(foreign) == 0 {
		return ""
	}
	return " and has the finalizers " + strings.Join(foreign, ", ") + " of somebody else"
}

// volumeTime is how long a deleted Dataset waits for its PV and PVC, which go
// by themselves once it is gone.
const volumeTime = 30 * time.Second

// releaseVolume deletes PVC and PV and sees them off, for a bounded time: what
// somebody else's finalizer holds is deleted all the same once that is taken off.
func (r *Reconciler) releaseVolume(ctx context.Context, s *round) (flow.Outcome, error) {
	gone, err := r.deleteVolume(ctx, s)
	if err != nil || gone {
		return flow.Continue(), err
	}
	claim := &corev1.PersistentVolumeClaim{}
	if err := r.Get(ctx, s.key, claim); client.IgnoreNotFound(err) != nil {
		return flow.Wait(), fmt.Errorf("read claim %s: %w", s.key, err)
	}
	left := time.Until(s.ds.DeletionTimestamp.Add(volumeTime))
	if !claim.DeletionTimestamp.IsZero() {
		left = time.Until(claim.DeletionTimestamp.Add(volumeTime))
	}
	if left <= 0 {
		r.events.Event(s.ds, corev1.EventTypeWarning, contract.EventErrorDeleteDataset, fmt.Sprintf(
			"the Dataset goes; its volume is deleted and still held%s: take them off if their owner is gone", heldBy(claim, "")))
		return flow.Continue(), nil
	}
	s.going(fmt.Sprintf("deletion waits for PersistentVolumeClaim %s and its volume%s, for %s at most", s.key.Name, heldBy(claim, ""), volumeTime))
	return flow.WaitFor(left), nil
}
