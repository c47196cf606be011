package dataload

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	ctrlevent "sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// uidIndex finds a DataLoad by its UID.
const uidIndex = "millrace.dataload.uid"

const reasonDeleted = "its DataLoad was deleted"

// Engines tells what the masters say of themselves, and has loads cancelled.
type Engines interface {
	Latest(key types.NamespacedName) (contract.Summary, time.Time, bool)
	Source(requests func(types.NamespacedName) []reconcile.Request) source.Source
	CancelLoad(ctx context.Context, key types.NamespacedName, id, reason string) error
}

// Canceller ends the loads in the engines whose DataLoads are gone. It needs no
// finalizer: a master that runs a load that nobody asks for any more is told so
// as soon as it is heard, and a DataLoad whose master is dead goes at once. The
// end of a loader's pod cancels nothing: the next one joins the load.
type Canceller struct {
	client.Client
	live    client.Reader // not of a cache
	engines Engines
}

// SetupCanceller registers the controller. Its requests are Datasets.
func SetupCanceller(mgr ctrl.Manager, engines Engines) error {
	c := &Canceller{Client: mgr.GetClient(), live: mgr.GetAPIReader(), engines: engines}
	if err := mgr.GetFieldIndexer().IndexField(context.Background(), &datav1alpha1.DataLoad{}, uidIndex, func(obj client.Object) []string {
		return []string{string(obj.GetUID())}
	}); err != nil {
		return fmt.Errorf("index dataloads: %w", err)
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("dataload-canceller").
		Watches(&datav1alpha1.DataLoad{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, obj client.Object) []reconcile.Request {
			return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.(*datav1alpha1.DataLoad).Spec.Dataset.Name}}}
		}), builder.WithPredicates(predicate.Funcs{
			CreateFunc: func(ctrlevent.CreateEvent) bool { return false },
			UpdateFunc: func(e ctrlevent.UpdateEvent) bool {
				return e.ObjectOld.GetDeletionTimestamp().IsZero() && !e.ObjectNew.GetDeletionTimestamp().IsZero()
			},
		})).
		WatchesRawSource(engines.Source(nil)).
		WithOptions(controller.Options{MaxConcurrentReconciles: 2}).
		Complete(c)
}

// Reconcile cancels what one master loads for nobody.
func (c *Canceller) Reconcile(ctx context.Context, req ctrl.Request) (_ ctrl.Result, err error) {
	summary, _, heard := c.engines.Latest(req.NamespacedName)
	if !heard {
		return ctrl.Result{}, nil
	}
	for _, load := range summary.Loads {
		uid, ours := ownerOf(load.ID)
		if !ours || load.Phase != contract.LoadRunning {
			continue
		}
		wanted, errWanted := c.wanted(ctx, req.Namespace, uid)
		if errWanted == nil && !wanted {
			errWanted = c.engines.CancelLoad(ctx, req.NamespacedName, load.ID, reasonDeleted)
		}
		err = errors.Join(err, errWanted)
	}
	return ctrl.Result{}, err
}

// lengthOfUID is that of a UID as the API server makes it.
const lengthOfUID = len("00000000-0000-0000-0000-000000000000")

// ownerOf is the UID of the DataLoad whose load has an id; ours is false for the
// load of somebody else.
func ownerOf(id string) (uid types.UID, ours bool) {
	if len(id) < lengthOfUID || len(id) > lengthOfUID && id[lengthOfUID] != '-' {
		return "", false
	}
	for i, c := range []byte(id[:lengthOfUID]) {
		switch dash := i == 8 || i == 13 || i == 18 || i == 23; {
		case dash && c == '-':
		case !dash && (c >= '0' && c <= '9' || c >= 'a' && c <= 'f'):
		default:
			return "", false
		}
	}
	return types.UID(id[:lengthOfUID]), true
}

// wanted tells whether there is a DataLoad that is not being deleted. What the
// cache does not have is looked for at the API server: it may be behind.
func (c *Canceller) wanted(ctx context.Context, namespace string, uid types.UID) (bool, error) {
	list := &datav1alpha1.DataLoadList{}
	if err := c.List(ctx, list, client.InNamespace(namespace), client.MatchingFields{uidIndex: string(uid)}); err != nil {
		return false, fmt.Errorf("find dataload %s: %w", uid, err)
	}
	if len(list.Items) > 0 {
		return list.Items[0].DeletionTimestamp.IsZero(), nil
	}
	list = &datav1alpha1.DataLoadList{}
	if err := c.live.List(ctx, list, client.InNamespace(namespace)); err != nil {
		return false, fmt.Errorf("find dataload %s: %w", uid, err)
	}
	for i := range list.Items {
		if list.Items[i].UID == uid {
			return list.Items[i].DeletionTimestamp.IsZero(), nil
		}
	}
	return false, nil
}
