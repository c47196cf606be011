// Package conditions sets conditions the same way everywhere.
package conditions

import (
	"regexp"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxMessage is the bound of a condition's message in the CRDs.
const maxMessage = 32768

// Set puts a condition into the list and tells whether its status or reason
// changed, which is when an event is due.
func Set(list *[]metav1.Condition, generation int64, conditionType string, status metav1.ConditionStatus, reason, message string) bool {
	if len(message) > maxMessage {
		message = message[:maxMessage]
	}
	before := meta.FindStatusCondition(*list, conditionType)
	changed := before == nil || before.Status != status || before.Reason != reason
	meta.SetStatusCondition(list, metav1.Condition{
		Type: conditionType, Status: status, Reason: reason, Message: message, ObservedGeneration: generation,
	})
	return changed
}

// True sets a condition to True.
func True(list *[]metav1.Condition, generation int64, conditionType, reason, message string) bool {
	return Set(list, generation, conditionType, metav1.ConditionTrue, reason, message)
}

// False sets a condition to False.
func False(list *[]metav1.Condition, generation int64, conditionType, reason, message string) bool {
	return Set(list, generation, conditionType, metav1.ConditionFalse, reason, message)
}

// reasons are what an API server takes as the reason of a condition.
var reasons = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$`)

// DropForeign removes conditions that another control plane wrote in a form
// that no API server takes as a condition any more: with a sentence as reason.
// Nobody keeps them up, so they would speak of what is long past.
func DropForeign(list *[]metav1.Condition) {
	*list = slices.DeleteFunc(*list, func(c metav1.Condition) bool { return !reasons.MatchString(c.Reason) })
}
