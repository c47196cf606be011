package operation

import (
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// Excludes says which operations of the same Dataset wait while one runs.
type Excludes string

// What an operation excludes.
const (
	ExcludesNone Excludes = "none" // it runs beside others
	ExcludesKind Excludes = "kind" // others of its kind wait
	ExcludesAll  Excludes = "all"  // every other one waits
)

// Facts are what operations of all kinds have in common.
type Facts struct {
	Kind string
	// Target is the Dataset that is worked on and owns the operation. One of
	// another namespace is refused.
	Target types.NamespacedName
	// Origin is the Dataset whose changed sources start a run of policy OnEvent;
	// its name is empty if there is none.
	Origin   types.NamespacedName
	Policy   datav1alpha1.Policy
	Schedule string
	RunAfter *datav1alpha1.OperationRef
	// TTLSeconds is how long one that runs once stays after its end; nil is for ever.
	TTLSeconds *int32
	Excludes   Excludes
	// Status is the object's own, to be written to.
	Status *datav1alpha1.OperationStatus
}

// repeats tells whether there can be several runs.
func (f *Facts) repeats() bool {
	return f.Policy == datav1alpha1.Cron || f.Policy == datav1alpha1.OnEvent
}

// finished tells whether the operation has ended for good.
func (f *Facts) finished() bool {
	return !f.repeats() && (f.complete() || meta.IsStatusConditionTrue(f.Status.Conditions, datav1alpha1.OperationFailed) ||
		f.Status.Phase == datav1alpha1.PhaseFailed)
}

// complete tells whether the operation, or a run of it, has ended well: also
// of what ended before Millrace came, whose conditions are not ours.
func (f *Facts) complete() bool {
	if f.repeats() && f.Status.LastSuccessfulTime != nil {
		return true // also while the next run is under way
	}
	return meta.IsStatusConditionTrue(f.Status.Conditions, datav1alpha1.OperationComplete) || f.Status.Phase == datav1alpha1.PhaseComplete
}

// kinds of operations.
var kinds = []struct {
	name string
	one  func() client.Object
	list func() client.ObjectList
}{
	{"DataLoad", func() client.Object { return &datav1alpha1.DataLoad{} }, func() client.ObjectList { return &datav1alpha1.DataLoadList{} }},
	{"DataMigrate", func() client.Object { return &datav1alpha1.DataMigrate{} }, func() client.ObjectList { return &datav1alpha1.DataMigrateList{} }},
	{"DataBackup", func() client.Object { return &datav1alpha1.DataBackup{} }, func() client.ObjectList { return &datav1alpha1.DataBackupList{} }},
	{"DataProcess", func() client.Object { return &datav1alpha1.DataProcess{} }, func() client.ObjectList { return &datav1alpha1.DataProcessList{} }},
}

// Kinds are an empty object of each kind of operations.
func Kinds() []client.Object {
	var out []client.Object
	for _, k := range kinds {
		out = append(out, k.one())
	}
	return out
}

// FactsOf reads an operation; ok is false of anything else.
func FactsOf(obj client.Object) (f Facts, ok bool) {
	within := func(name, namespace string) types.NamespacedName {
		if namespace == "" {
			namespace = obj.GetNamespace()
		}
		return types.NamespacedName{Namespace: namespace, Name: name}
	}
	switch op := obj.(type) {
	case *datav1alpha1.DataLoad:
		spec := &op.Spec
		target := within(spec.Dataset.Name, spec.Dataset.Namespace)
		return Facts{
			Kind: "DataLoad", Target: target, Origin: target, Policy: spec.Policy, Schedule: spec.Schedule, RunAfter: spec.RunAfter,
			TTLSeconds: spec.TTLSecondsAfterFinished, Excludes: ExcludesNone, Status: &op.Status,
		}, true
	case *datav1alpha1.DataMigrate:
		spec := &op.Spec
		f := Facts{
			Kind: "DataMigrate", Policy: spec.Policy, Schedule: spec.Schedule, RunAfter: spec.RunAfter,
			TTLSeconds: spec.TTLSecondsAfterFinished, Excludes: ExcludesKind, Status: &op.Status,
		}
		if spec.Block {
			f.Excludes = ExcludesAll
		}
		if from := spec.From.DataSet; from != nil {
			f.Origin = within(from.Name, from.Namespace)
			f.Target = f.Origin
		}
		if to := spec.To.DataSet; to != nil {
			f.Target = within(to.Name, to.Namespace)
		}
		return f, true
	case *datav1alpha1.DataBackup:
		spec := &op.Spec
		return Facts{
			Kind: "DataBackup", Target: within(spec.Dataset, ""), Policy: datav1alpha1.Once, RunAfter: spec.RunAfter,
			TTLSeconds: spec.TTLSecondsAfterFinished, Excludes: ExcludesKind, Status: &op.Status,
		}, true
	case *datav1alpha1.DataProcess:
		spec := &op.Spec
		return Facts{
			Kind: "DataProcess", Target: within(spec.Dataset.Name, spec.Dataset.Namespace), Policy: datav1alpha1.Once, RunAfter: spec.RunAfter,
			TTLSeconds: spec.TTLSecondsAfterFinished, Excludes: ExcludesNone, Status: &op.Status,
		}, true
	}
	return Facts{}, false
}

// refOf names an operation as spec.runAfter does.
func refOf(obj client.Object, kind string) datav1alpha1.ObjectRef {
	return datav1alpha1.ObjectRef{Kind: kind, Namespace: obj.GetNamespace(), Name: obj.GetName()}
}
