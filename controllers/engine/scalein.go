package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/internal/bytesize"
	"github.com/millrace/millrace/controllers/internal/conditions"
	"github.com/millrace/millrace/controllers/internal/flow"
)

const (
	// drainTime is how long workers that are to go may take unless
	// contract.OptionDrainTimeout says otherwise.
	drainTime = 15 * time.Minute
	// absentTime is for how long a worker's pod must not have been ready before
	// nothing is hoped for from it.
	absentTime = time.Minute
)

// scaleIn keeps workers that are to go until what they alone have was moved to
// the others. It is stateless: who is to go follows from the StatefulSet as it is
// and from what is wanted, so that replicas that are raised again meanwhile keep
// the workers, and a manager that was restarted goes on where it was.
func (r *Reconciler) scaleIn(ctx context.Context, s *round) (flow.Outcome, error) {
	if s.desc.Foreign != nil {
		return flow.Continue(), nil // nobody can be asked what its workers alone have
	}
	set := &appsv1.StatefulSet{}
	name := contract.WorkerName(s.key.Name)
	if err := r.Get(ctx, types.NamespacedName{Namespace: s.key.Namespace, Name: name}, set); err != nil {
		return flow.Continue(), client.IgnoreNotFound(err)
	}
	if !metav1.IsControlledBy(set, s.runtime) || r.leftByFluid(s, set) {
		return flow.Continue(), nil
	}
	s.desc.FirstNodeLabels = set.Spec.Template.Annotations[AnnotationNodeLabels]
	if s.desc.Foreign != nil {
		return flow.Continue(), nil // only our own engine moves its blocks
	}
	want, have := s.desc.Worker.Replicas, ptr.Deref(set.Spec.Replicas, 1)
	// A pod that is being deleted is still one that is to go: its worker must
	// not be given its share back for its last seconds.
	for i := want; i < max(have, set.Status.Replicas); i++ {
		s.desc.Leaving = append(s.desc.Leaving, fmt.Sprintf("%s-%d", name, i))
	}
	list, generation := s.conditions(), s.runtime.GetGeneration()
	was := meta.FindStatusCondition(*list, datav1alpha1.RuntimeDrained)
	draining := was != nil && was.Status == metav1.ConditionFalse
	if have <= want {
		if draining && len(s.desc.Leaving) == 0 {
			conditions.True(list, generation, datav1alpha1.RuntimeDrained, ReasonKept, "no worker is to go any more: replicas were raised again")
		}
		return flow.Continue(), nil
	}
	start := time.Now()
	if draining {
		start = was.LastTransitionTime.Time
	}
	left := time.Until(start.Add(s.desc.drainTime()))
	state, err := r.drained(ctx, s)
	if err != nil {
		return flow.Wait(), err
	}
	if state.waitsFor != "" && left > 0 {
		s.desc.Kept = have
		conditions.False(list, generation, datav1alpha1.RuntimeDrained, ReasonDraining, fmt.Sprintf(
			"%s: %s; they go when that is done, or after %s at the latest (option %s)",
			toGo(s.desc.Leaving), state.waitsFor, s.desc.drainTime(), contract.OptionDrainTimeout))
		return flow.CheckBack(min(left, state.lookAgain)), nil
	}
	message := fmt.Sprintf("%s: %s", toGo(s.desc.Leaving), state.message)
	reason := ReasonDrained
	switch {
	case state.waitsFor != "":
		reason = ReasonDrainTimeout
		message = fmt.Sprintf("%s: given up after %s (option %s): %s", toGo(s.desc.Leaving), s.desc.drainTime(), contract.OptionDrainTimeout, state.waitsFor)
	case state.lost:
		reason = ReasonDrainIncomplete
	}
	if conditions.True(list, generation, datav1alpha1.RuntimeDrained, reason, message) && reason != ReasonDrained {
		r.events.Event(s.runtime, corev1.EventTypeWarning, contract.EventRuntimeScaleInFailed, message)
	}
	return flow.Continue(), nil
}

// drainTime is how long workers that are to go are kept at most.
func (d *Description) drainTime() time.Duration {
	for _, options := range []map[string]string{d.Worker.Options, d.Master.Options} {
		if t, err := time.ParseDuration(options[contract.OptionDrainTimeout]); err == nil && t >= 0 {
			return t
		}
	}
	return drainTime
}

// drainState is how far workers that are to go are.
type drainState struct {
	// waitsFor is what is still to be done; empty when they may go.
	waitsFor string
	// message says what was done when they may go; lost, that bytes go with them.
	message string
	lost    bool
	// lookAgain is when time alone may change the answer.
	lookAgain time.Duration
}

// drained asks the master, and looks at the pods of those that it does not hear.
func (r *Reconciler) drained(ctx context.Context, s *round) (drainState, error) {
	state := drainState{lookAgain: time.Minute}
	var gone []string
	for _, name := range s.desc.Leaving {
		left, err := r.untilGivenUp(ctx, s.key.Namespace, name)
		switch {
		case err != nil:
			return state, err
		case left <= 0:
			gone = append(gone, name)
		default:
			state.lookAgain = min(state.lookAgain, left)
		}
	}
	if len(gone) == len(s.desc.Leaving) {
		state.message = "nothing could be moved, as their pods do not run"
		return state, nil
	}
	summary, _, heard := r.observer.Latest(s.key)
	d := summary.Drain
	switch {
	case !heard:
		state.waitsFor = "the master is not heard, which has their bytes moved"
		return state, nil
	case d == nil || !slices.Equal(d.Workers, slices.Sorted(slices.Values(s.desc.Leaving))):
		state.waitsFor = "the master is told"
		return state, nil
	}
	moved := bytesize.Format(d.MovedBytes) + " moved to the others"
	if !d.Done {
		state.waitsFor = fmt.Sprintf("%s, %s left", moved, bytesize.Format(d.LeftBytes))
		if d.BytesPerSecond > 0 && d.LeftBytes > 0 {
			state.waitsFor += " at " + bytesize.Format(d.BytesPerSecond) + "/s"
		}
		if d.Message != "" {
			state.waitsFor += ": " + d.Message
		}
		return state, nil
	}
	for _, name := range d.Absent {
		if !slices.Contains(gone, name) {
			state.waitsFor = fmt.Sprintf("%s; worker %s is not connected to the master", moved, name)
			return state, nil
		}
	}
	state.message = moved
	if d.StuckBytes > 0 {
		state.lost = true
		state.message += fmt.Sprintf(", and %s that nobody else has goes with them and is read from the source again: %s", bytesize.Format(d.StuckBytes), d.Message)
	}
	if len(gone) > 0 {
		state.lost = true
		state.message += fmt.Sprintf("; nothing could be had from %s, whose pods do not run", strings.Join(gone, ", "))
	}
	return state, nil
}

// untilGivenUp is how long it takes until nothing is hoped for from a worker's pod.
func (r *Reconciler) untilGivenUp(ctx context.Context, namespace, name string) (time.Duration, error) {
	pod := &corev1.Pod{}
	if err := r.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, pod); err != nil {
		return absentTime, client.IgnoreNotFound(err)
	}
	since := pod.CreationTimestamp.Time
	for _, c := range pod.Status.Conditions {
		if c.Type != corev1.PodReady {
			continue
		}
		if c.Status == corev1.ConditionTrue {
			return absentTime, nil
		}
		since = c.LastTransitionTime.Time
	}
	return time.Until(since.Add(absentTime)), nil
}

func toGo(workers []string) string {
	if len(workers) == 1 {
		return "worker " + workers[0] + " is to go"
	}
	return fmt.Sprintf("workers %s to %s are to go", workers[0], workers[len(workers)-1])
}
