package flow_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/millrace/millrace/controllers/internal/flow"
)

func TestPhasesRunInOrderUntilOneEndsTheRound(t *testing.T) {
	broken := errors.New("broken")
	conflict := fmt.Errorf("write: %w", apierrors.NewConflict(schema.GroupResource{Resource: "things"}, "x", broken))
	going := apierrors.NewForbidden(schema.GroupResource{Resource: "things"}, "x", broken)
	going.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
	type phase = flow.Phase[*int]
	says := func(o flow.Outcome, err error) phase {
		return func(_ context.Context, ran *int) (flow.Outcome, error) { *ran++; return o, err }
	}
	next := says(flow.Continue(), nil)
	for sentence, tc := range map[string]struct {
		phases []phase
		ran    int
		after  time.Duration
		err    error
	}{
		"all continue":                          {[]phase{next, next}, 2, 0, nil},
		"waiting ends the round":                {[]phase{next, says(flow.Wait(), nil), next}, 2, 0, nil},
		"waiting for time asks for it":          {[]phase{says(flow.WaitFor(time.Second), nil), next}, 1, time.Second, nil},
		"checking back goes on":                 {[]phase{says(flow.CheckBack(time.Second), nil), next}, 2, time.Second, nil},
		"the shortest time is kept":             {[]phase{says(flow.CheckBack(time.Minute), nil), says(flow.CheckBack(time.Second), nil), says(flow.CheckBack(time.Hour), nil)}, 3, time.Second, nil},
		"an error ends the round without time":  {[]phase{says(flow.CheckBack(time.Minute), nil), says(flow.Continue(), broken), next}, 2, 0, broken},
		"a namespace that goes ends it quietly": {[]phase{says(flow.Continue(), fmt.Errorf("apply: %w", going)), next}, 1, 0, nil},
		"an old copy is read anew":              {[]phase{says(flow.Continue(), conflict), next}, 1, 50 * time.Millisecond, nil},
	} {
		t.Run(sentence, func(t *testing.T) {
			ran := 0
			result, err := flow.Run(t.Context(), &ran, tc.phases...)
			if ran != tc.ran || result.RequeueAfter != tc.after || !errors.Is(err, tc.err) {
				t.Errorf("ran %d, after %s, error %v; want %d, %s, %v", ran, result.RequeueAfter, err, tc.ran, tc.after, tc.err)
			}
		})
	}
}
