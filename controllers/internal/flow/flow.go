// Package flow runs the phases of a reconcile in order and keeps waiting,
// retrying and stopping apart.
package flow

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
)

// Outcome of a phase that met no error.
type Outcome struct {
	stop  bool
	after time.Duration
}

// Continue goes on with the next phase.
func Continue() Outcome { return Outcome{} }

// Wait ends the round: a watched object will start the next one.
func Wait() Outcome { return Outcome{stop: true} }

// WaitFor ends the round; the next one starts after d at the latest. It is for
// what only time brings.
func WaitFor(d time.Duration) Outcome { return Outcome{stop: true, after: d} }

// CheckBack goes on with the next phase and starts another round after d.
func CheckBack(d time.Duration) Outcome { return Outcome{after: d} }

// Phase is one verb of a reconcile; S is the scope of the round.
type Phase[S any] func(ctx context.Context, s S) (Outcome, error)

// staleRead is how soon a round is repeated that worked on an old copy.
const staleRead = 50 * time.Millisecond

// Run runs phases until one waits or errs. The shortest time that a phase asked
// for is kept. A conflict is no error: the round read an old copy of the object.
// Neither is a namespace that goes: the object's own deletion follows.
func Run[S any](ctx context.Context, s S, phases ...Phase[S]) (ctrl.Result, error) {
	var result ctrl.Result
	for _, phase := range phases {
		outcome, err := phase(ctx, s)
		if apierrors.IsConflict(err) {
			return ctrl.Result{RequeueAfter: staleRead}, nil
		}
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return ctrl.Result{}, nil
		}
		if err != nil {
			return ctrl.Result{}, err
		}
		if outcome.after > 0 && (result.RequeueAfter == 0 || outcome.after < result.RequeueAfter) {
			result.RequeueAfter = outcome.after
		}
		if outcome.stop {
			break
		}
	}
	return result, nil
}
