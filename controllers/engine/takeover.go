package engine

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/controllers/internal/flow"
)

// roomPause is when it is looked again whether what Fluid left is gone: only
// what carries our labels is watched.
const roomPause = time.Second

// leftByFluid tells an object of this very runtime that another control plane
// made: it belongs to the runtime, and we never applied it. Its selectors and
// templates cannot become ours, so that it is replaced and not changed.
func (r *Reconciler) leftByFluid(s *round, live client.Object) bool {
	ours := slices.ContainsFunc(live.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool { return f.Manager == r.fieldOwner })
	if ours {
		return false
	}
	if owners := live.GetOwnerReferences(); len(owners) > 0 {
		return slices.ContainsFunc(owners, func(o metav1.OwnerReference) bool { return o.UID == s.runtime.GetUID() })
	}
	// Releases of older versions of Fluid have no owner.
	labels, engine := live.GetLabels(), string(r.kind.Type())
	return labels["app"] == engine && labels["release"] == s.key.Name && strings.HasPrefix(labels["role"], engine+"-")
}

// makeRoom removes an object that Fluid left under a name of ours.
func (r *Reconciler) makeRoom(ctx context.Context, s *round, live client.Object) (flow.Outcome, error) {
	if live.GetDeletionTimestamp().IsZero() {
		uid := live.GetUID()
		err := r.Delete(ctx, live, client.Preconditions{UID: &uid}, client.PropagationPolicy(metav1.DeletePropagationBackground))
		if client.IgnoreNotFound(err) != nil {
			return flow.Wait(), fmt.Errorf("replace %s %s of Fluid's: %w", kindOf(live), live.GetName(), err)
		}
		if err := r.clearWorkerLabels(ctx, s); err != nil {
			return flow.Wait(), err
		}
		ctrl.LoggerFrom(ctx).Info("replaced what Fluid made for the runtime", "kind", kindOf(live), "name", live.GetName())
	}
	s.problem = &Problem{ReasonTakeover, fmt.Sprintf("%s %s of Fluid's is being replaced by the native engine's", kindOf(live), live.GetName())}
	return flow.CheckBack(roomPause), nil
}

// clearWorkerLabels takes off every node what Fluid wrote there for workers that
// are no more. Labels for workers of ours are written again by their controller.
func (r *Reconciler) clearWorkerLabels(ctx context.Context, s *round) error {
	uid, t := string(s.dataset.UID), r.kind.Type()
	worker := contract.RuntimeNodeLabel(t, s.key.Namespace, s.key.Name, uid)
	keys := []string{worker, contract.DatasetLabel(s.key.Namespace, s.key.Name, uid)}
	for _, medium := range []contract.Medium{contract.MediumMemory, contract.MediumDisk, contract.MediumTotal} {
		keys = append(keys, contract.CapacityNodeLabel(t, medium, s.key.Namespace, s.key.Name, uid))
	}
	return r.relabelNodes(ctx, worker, func(labels map[string]string) {
		for _, key := range keys {
			delete(labels, key)
		}
		if labels[contract.LabelExclusive] == contract.ExclusiveValue(s.key.Namespace, s.key.Name) {
			delete(labels, contract.LabelExclusive)
		}
		if n, err := strconv.Atoi(labels[contract.LabelDatasetNum]); err != nil || n <= 1 {
			delete(labels, contract.LabelDatasetNum)
		} else {
			labels[contract.LabelDatasetNum] = strconv.Itoa(n - 1)
		}
	})
}

func kindOf(obj client.Object) string {
	switch obj.(type) {
	case *appsv1.StatefulSet:
		return "StatefulSet"
	case *appsv1.DaemonSet:
		return "DaemonSet"
	case *corev1.Service:
		return "Service"
	default:
		return "ConfigMap"
	}
}
