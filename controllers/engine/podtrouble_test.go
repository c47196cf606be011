package engine

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestTroubleOfAPodIsToldInItsWords(t *testing.T) {
	waiting := func(reason, message string, last *corev1.ContainerStateTerminated) corev1.PodStatus {
		return corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
			State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}},
			LastTerminationState: corev1.ContainerState{Terminated: last},
		}}}
	}
	for sentence, tc := range map[string]struct {
		status corev1.PodStatus
		want   string
	}{
		"a pod that starts has none":   {waiting("ContainerCreating", "", nil), ""},
		"a pod that runs has none":     {corev1.PodStatus{}, ""},
		"the scheduler finds no node":  {corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/2 nodes are available"}}}, "0/2 nodes are available"},
		"an image cannot be pulled":    {waiting("ImagePullBackOff", "Back-off pulling image", nil), "ImagePullBackOff: Back-off pulling image"},
		"a process says why it ended":  {waiting("CrashLoopBackOff", "back-off", &corev1.ContainerStateTerminated{ExitCode: 1, Message: "no\n tier"}), "CrashLoopBackOff: it ended with code 1: no tier"},
		"many words are cut to a size": {waiting("Error", strings.Repeat("x", 1000), nil), "Error: " + strings.Repeat("x", maxTrouble-len("Error: ")) + "…"},
	} {
		t.Run(sentence, func(t *testing.T) {
			if got := podTrouble(&corev1.Pod{Status: tc.status}); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
