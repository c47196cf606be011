package operation

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// Turns decides which operations run beside each other. Who runs is told by the
// Jobs that have not ended, so nothing is left behind by a manager that dies;
// beside them it remembers whom it let run and whose Job it may not have seen
// yet. One is shared by the controllers of all kinds.
type Turns struct {
	mu    sync.Mutex
	taken map[types.UID]turn
}

// turn is that of one run.
type turn struct {
	kind, job string
	key       types.NamespacedName
	dataset   types.UID
	excludes  Excludes
}

// NewTurns makes the Turns of one manager.
func NewTurns() *Turns { return &Turns{taken: map[types.UID]turn{}} }

// take gives a round's run its turn, or names those that it has to wait for.
func (t *Turns) take(ctx context.Context, c client.Reader, s *Round) (others []string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	me := turn{kind: s.Kind, job: s.Run.Job, key: client.ObjectKeyFromObject(s.Object), dataset: s.Dataset.UID, excludes: s.Excludes}
	for uid, other := range t.taken {
		if still, err := stillRuns(ctx, c, uid, other); err != nil {
			return nil, err
		} else if !still {
			delete(t.taken, uid)
		} else if uid != s.Object.GetUID() && me.excluded(other) {
			others = append(others, other.kind+" "+other.key.Name)
		}
	}
	jobs := &batchv1.JobList{}
	if err := c.List(ctx, jobs, client.InNamespace(s.Object.GetNamespace()), client.MatchingLabels{labelDataset: string(s.Dataset.UID)}); err != nil {
		return nil, fmt.Errorf("list jobs of operations on dataset %s: %w", s.Dataset.Name, err)
	}
	for i := range jobs.Items {
		job := &jobs.Items[i]
		owner := metav1.GetControllerOf(job)
		if owner == nil || owner.UID == s.Object.GetUID() || jobEnd(job) != nil {
			continue
		}
		other := turn{kind: owner.Kind, dataset: s.Dataset.UID, excludes: Excludes(job.Labels[labelExcludes])}
		if me.excluded(other) {
			others = append(others, owner.Kind+" "+owner.Name)
		}
	}
	if len(others) == 0 {
		t.taken[s.Object.GetUID()] = me
		return nil, nil
	}
	slices.Sort(others)
	return slices.Compact(others), nil
}

// giveBack ends the turn of an operation that could not start.
func (t *Turns) giveBack(uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.taken, uid)
}

// excluded tells whether a turn has to wait for another.
func (t turn) excluded(other turn) bool {
	if t.dataset != other.dataset {
		return false
	}
	if t.kind == other.kind && (t.excludes != ExcludesNone || other.excludes != ExcludesNone) {
		return true
	}
	return t.excludes == ExcludesAll || other.excludes == ExcludesAll
}

// stillRuns tells whether a turn's operation is there and its run has not ended.
func stillRuns(ctx context.Context, c client.Reader, uid types.UID, t turn) (bool, error) {
	for _, k := range kinds {
		if k.name != t.kind {
			continue
		}
		obj := k.one()
		if err := c.Get(ctx, t.key, obj); apierrors.IsNotFound(err) {
			return false, nil
		} else if err != nil {
			return false, fmt.Errorf("read %s %s: %w", t.kind, t.key, err)
		}
		f, _ := FactsOf(obj)
		if obj.GetUID() != uid || f.finished() {
			return false, nil
		}
		if f.repeats() {
			run := underWay(f.Status)
			return run != nil && run.Job == t.job, nil
		}
		return true, nil
	}
	return false, nil
}

// Running names the operations on a Dataset that are at work: kind to names,
// sorted and joined by commas, as dataset.status.operationRef has them. It asks
// for those kinds that are installed. migrating
// tells that one of them has the Dataset for itself.
func Running(ctx context.Context, c client.Reader, dataset types.NamespacedName, installed []client.Object) (running map[string]string, migrating bool, err error) {
	for _, kind := range installed {
		facts, _ := FactsOf(kind)
		list := listOf(facts.Kind)
		if err := c.List(ctx, list, client.InNamespace(dataset.Namespace)); err != nil {
			return nil, false, fmt.Errorf("list operations of kind %s on %s: %w", facts.Kind, dataset, err)
		}
		var names []string
		for _, obj := range itemsOf(list) {
			if f, ok := FactsOf(obj); ok && f.Target == dataset && f.Status.Phase == datav1alpha1.PhaseExecuting {
				names = append(names, obj.GetName())
				migrating = migrating || f.Excludes == ExcludesAll
			}
		}
		if len(names) > 0 {
			slices.Sort(names)
			if running == nil {
				running = map[string]string{}
			}
			running[facts.Kind] = strings.Join(names, ",")
		}
	}
	return running, migrating, nil
}

// listOf is an empty list of a kind.
func listOf(kind string) client.ObjectList {
	for _, k := range kinds {
		if k.name == kind {
			return k.list()
		}
	}
	return nil
}

// itemsOf are the operations in a list of one kind.
func itemsOf(list client.ObjectList) []client.Object {
	var out []client.Object
	switch l := list.(type) {
	case *datav1alpha1.DataLoadList:
		for i := range l.Items {
			out = append(out, &l.Items[i])
		}
	case *datav1alpha1.DataMigrateList:
		for i := range l.Items {
			out = append(out, &l.Items[i])
		}
	case *datav1alpha1.DataBackupList:
		for i := range l.Items {
			out = append(out, &l.Items[i])
		}
	case *datav1alpha1.DataProcessList:
		for i := range l.Items {
			out = append(out, &l.Items[i])
		}
	}
	return out
}
