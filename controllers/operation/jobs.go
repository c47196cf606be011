package operation

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// What a Job of an operation carries.
const (
	labelOperation = "cache.millrace.io/operation-uid"
	labelDataset   = "cache.millrace.io/operation-dataset-uid"
	labelExcludes  = "cache.millrace.io/operation-excludes"
	// annotationDataset names the Dataset.
	annotationDataset = "cache.millrace.io/operation-dataset"
)

// jobPolicyCron is the value of contract.LabelJobPolicy that Fluid's users select on.
const jobPolicyCron = "cron"

// dressed puts on a Job what the Jobs of all operations have.
func dressed(job *batchv1.Job, s *Round, place *corev1.NodeAffinity) *batchv1.Job {
	job.Namespace, job.Name = s.Object.GetNamespace(), s.Run.Job
	job.Labels = merged(job.Labels, map[string]string{
		labelOperation: string(s.Object.GetUID()), labelDataset: string(s.Dataset.UID), labelExcludes: string(s.Excludes),
	})
	if s.Policy == datav1alpha1.Cron {
		job.Labels[contract.LabelJobPolicy] = jobPolicyCron
	}
	job.Annotations = merged(job.Annotations, map[string]string{annotationDataset: s.Dataset.Name})
	job.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(s.Object, datav1alpha1.GroupVersion.WithKind(s.Kind))}
	job.Spec.Template.Spec.Affinity = withPlace(job.Spec.Template.Spec.Affinity, place)
	return job
}

func merged(layers ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, layer := range layers {
		maps.Copy(out, layer)
	}
	return out
}

// jobEnd is the condition that ended a Job; nil while it runs.
func jobEnd(job *batchv1.Job) *batchv1.JobCondition {
	for i, c := range job.Status.Conditions {
		if c.Status == corev1.ConditionTrue && (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) {
			return &job.Status.Conditions[i]
		}
	}
	return nil
}

// endsOfJobs lets pass that a Job has ended or gone.
func endsOfJobs() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, ok := e.ObjectOld.(*batchv1.Job)
			after, also := e.ObjectNew.(*batchv1.Job)
			return ok && also && jobEnd(before) == nil && jobEnd(after) != nil
		},
	}
}

func onlyDeletions() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(event.UpdateEvent) bool { return false },
	}
}

// tried is what the pods of a Job tell of it.
type tried struct {
	// words of the last container that failed; "" if none did.
	words string
	// node of the pod that succeeded, or else of the last one.
	node string
}

func (r *Reconciler) pods(ctx context.Context, job *batchv1.Job) (tried, error) {
	pods := &corev1.PodList{}
	if err := r.List(ctx, pods, client.InNamespace(job.Namespace), client.MatchingLabels{batchv1.JobNameLabel: job.Name}); err != nil {
		return tried{}, fmt.Errorf("list pods of job %s: %w", job.Name, err)
	}
	out, last, succeeded := tried{}, time.Time{}, false
	for _, pod := range pods.Items {
		if !succeeded && pod.Spec.NodeName != "" {
			out.node, succeeded = pod.Spec.NodeName, pod.Status.Phase == corev1.PodSucceeded
		}
		for _, status := range pod.Status.ContainerStatuses {
			if t := status.State.Terminated; t != nil && t.ExitCode != 0 && !t.FinishedAt.Time.Before(last) {
				last, out.words = t.FinishedAt.Time, wordsOf(pod.Name, status.Name, t)
			}
		}
	}
	return out, nil
}

// wordsOf is what a container that failed said, or how it ended if it said nothing.
func wordsOf(pod, container string, t *corev1.ContainerStateTerminated) string {
	if said := strings.TrimSpace(t.Message); said != "" {
		return said
	}
	how := fmt.Sprintf("container %s ended with exit code %d", container, t.ExitCode)
	if t.Reason != "" && t.Reason != "Error" {
		how += " (" + t.Reason + ")"
	}
	return how + ": kubectl logs " + pod + " -c " + container + " tells why"
}

func owns(dataset *datav1alpha1.Dataset, obj client.Object) bool {
	for _, ref := range obj.GetOwnerReferences() {
		if ref.UID == dataset.UID {
			return true
		}
	}
	return false
}
