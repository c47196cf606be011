package notsupported

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/internal/conditions"
)

const reasonKind = "KindNotSupported"

// kind is one that is taken and not served.
type kind struct {
	name   string
	object func() client.Object
	// answer writes the status; what it returns is news and told in an event.
	answer func(obj client.Object) string
}

// kinds are those of Fluid that no other controller serves.
var kinds = []kind{
	{"JuiceFSRuntime", func() client.Object { return &datav1alpha1.JuiceFSRuntime{} }, func(obj client.Object) string {
		rt := obj.(*datav1alpha1.JuiceFSRuntime)
		return refuseRuntime(rt, &rt.Status, "JuiceFSRuntime", fmt.Sprintf(
			"delete it and create a CacheRuntime of class %s named %s, and mount the object store behind JuiceFS, or a PersistentVolumeClaim of its CSI driver as pvc://; the Dataset stays", contract.NativeClass, rt.Name))
	}},
	{"ThinRuntime", func() client.Object { return &datav1alpha1.ThinRuntime{} }, func(obj client.Object) string {
		rt := obj.(*datav1alpha1.ThinRuntime)
		return refuseRuntime(rt, &rt.Status, "ThinRuntime", fmt.Sprintf(
			"delete it and create a CacheRuntime of class %s named %s, with the file system mounted by a PersistentVolumeClaim as pvc://; the Dataset stays", contract.NativeClass, rt.Name))
	}},
	{"ThinRuntimeProfile", func() client.Object { return &datav1alpha1.ThinRuntimeProfile{} }, func(obj client.Object) string {
		profile := obj.(*datav1alpha1.ThinRuntimeProfile)
		profile.Status.ObservedGeneration = profile.Generation
		return news(&profile.Status.Conditions, profile, datav1alpha1.RuntimeNotSupported,
			"kind ThinRuntimeProfile is not supported, as ThinRuntime is not: nothing reads it, and it can be deleted")
	}},
	{"DataBackup", func() client.Object { return &datav1alpha1.DataBackup{} }, func(obj client.Object) string {
		op := obj.(*datav1alpha1.DataBackup)
		return refuseOperation(op, &op.Status, "DataBackup",
			"delete it: there is nothing to back up, as the cache lists its sources by itself and keeps that list over restarts")
	}},
}

func refuseRuntime(obj client.Object, st *datav1alpha1.RuntimeStatus, kind, remedy string) string {
	message := fmt.Sprintf("kind %s is not supported and caches nothing: %s", kind, remedy)
	st.ObservedGeneration = obj.GetGeneration()
	conditions.DropForeign(&st.Conditions)
	conditions.False(&st.Conditions, obj.GetGeneration(), datav1alpha1.RuntimeReady, reasonKind, message)
	return news(&st.Conditions, obj, datav1alpha1.RuntimeNotSupported, message)
}

// refuseOperation fails an operation, unless it has ended under Fluid: what was
// done then stays done.
func refuseOperation(obj client.Object, st *datav1alpha1.OperationStatus, kind, remedy string) string {
	if st.Phase == datav1alpha1.PhaseComplete || st.Phase == datav1alpha1.PhaseFailed {
		return ""
	}
	message := fmt.Sprintf("kind %s is not supported and nothing was done: %s", kind, remedy)
	st.ObservedGeneration, st.Phase, st.Duration = obj.GetGeneration(), datav1alpha1.PhaseFailed, "0s"
	conditions.True(&st.Conditions, obj.GetGeneration(), datav1alpha1.OperationFailed, contract.EventDataOperationNotSupport, message)
	conditions.False(&st.Conditions, obj.GetGeneration(), datav1alpha1.OperationReady, contract.EventDataOperationNotSupport, message)
	return news(&st.Conditions, obj, datav1alpha1.OperationNotSupported, message)
}

// news sets a condition and gives the message back if it was not there before.
func news(list *[]metav1.Condition, obj client.Object, conditionType, message string) string {
	if conditions.True(list, obj.GetGeneration(), conditionType, reasonKind, message) {
		return message
	}
	return ""
}
