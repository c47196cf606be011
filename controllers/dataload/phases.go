package dataload

import (
	"context"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/internal/conditions"
	"github.com/millrace/millrace/controllers/internal/flow"
)

// lastNews is how long the end of a Job waits for the master's last word on the
// load, which is at most a second behind.
const lastNews = 5 * time.Second

// finished tells whether a DataLoad has ended, well or badly.
func finished(dl *datav1alpha1.DataLoad) bool {
	return meta.IsStatusConditionTrue(dl.Status.Conditions, datav1alpha1.OperationComplete) ||
		meta.IsStatusConditionTrue(dl.Status.Conditions, datav1alpha1.OperationFailed)
}

// removeJob ends the loader of a DataLoad that is being deleted.
func (r *Reconciler) removeJob(ctx context.Context, s *scope) (flow.Outcome, error) {
	job := &batchv1.Job{}
	err := r.Get(ctx, jobKey(s.load), job)
	switch {
	case apierrors.IsNotFound(err):
		return flow.Continue(), nil
	case err != nil:
		return flow.Outcome{}, fmt.Errorf("read job of dataload %s: %w", s.load.Name, err)
	case !metav1.IsControlledBy(job, s.load):
		return flow.Continue(), nil
	}
	if err := r.Delete(ctx, job, client.PropagationPolicy(metav1.DeletePropagationBackground)); client.IgnoreNotFound(err) != nil {
		return flow.Outcome{}, fmt.Errorf("delete job %s: %w", job.Name, err)
	}
	return flow.Continue(), nil
}

// dropFinalizer lets go of an object that carries the finalizer of Fluid's
// controller, from before Millrace. Ours needs none: the Job is owned.
func (r *Reconciler) dropFinalizer(ctx context.Context, s *scope) (flow.Outcome, error) {
	patch := client.MergeFrom(s.load.DeepCopy())
	if !controllerutil.RemoveFinalizer(s.load, contract.FinalizerDataLoad) {
		return flow.Continue(), nil
	}
	if err := r.Patch(ctx, s.load, patch); client.IgnoreNotFound(err) != nil {
		return flow.Outcome{}, fmt.Errorf("drop finalizer of dataload %s: %w", s.load.Name, err)
	}
	return flow.Continue(), nil
}

// expire deletes a DataLoad whose time after its end has passed.
func (r *Reconciler) expire(ctx context.Context, s *scope) (flow.Outcome, error) {
	if !finished(s.load) {
		return flow.Continue(), nil
	}
	ttl := s.load.Spec.TTLSecondsAfterFinished
	if ttl == nil {
		return flow.Wait(), nil
	}
	ended := endOf(s.load)
	if left := time.Until(ended.Add(time.Duration(*ttl) * time.Second)); left > 0 {
		return flow.WaitFor(left), nil
	}
	uid := s.load.UID
	err := r.Delete(ctx, s.load, client.Preconditions{UID: &uid}, client.PropagationPolicy(metav1.DeletePropagationBackground))
	if client.IgnoreNotFound(err) != nil {
		return flow.Outcome{}, fmt.Errorf("delete expired dataload %s: %w", s.load.Name, err)
	}
	return flow.Wait(), nil
}

func endOf(dl *datav1alpha1.DataLoad) time.Time {
	for _, c := range dl.Status.Conditions {
		if (c.Type == datav1alpha1.OperationComplete || c.Type == datav1alpha1.OperationFailed) && c.Status == metav1.ConditionTrue {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// refuse ends what can never run, and says why.
func (r *Reconciler) refuse(_ context.Context, s *scope) (flow.Outcome, error) {
	spec := &s.load.Spec
	switch {
	case spec.Dataset.Name == "":
		s.fail(contract.EventDataOperationNotValid, "spec.dataset.name is empty: name the Dataset to load")
	case spec.Dataset.Namespace != "" && spec.Dataset.Namespace != s.load.Namespace:
		s.fail(contract.EventTargetDatasetNamespaceDiff, fmt.Sprintf("Dataset %s/%s is in another namespace: create the DataLoad in namespace %s",
			spec.Dataset.Namespace, spec.Dataset.Name, spec.Dataset.Namespace))
	case spec.Policy == datav1alpha1.Cron || spec.Policy == datav1alpha1.OnEvent:
		s.notSupported(fmt.Sprintf("spec.policy %s is not supported yet: use Once", spec.Policy))
	case spec.RunAfter != nil:
		s.notSupported("spec.runAfter is not supported yet: create the DataLoad when the other operation has ended")
	case len(validation.IsDNS1123Label(contract.LoaderJobName(s.load.Name))) > 0:
		s.fail(contract.EventDataOperationNotValid, fmt.Sprintf("the Job's name %s would not be valid: use a name of at most %d characters without dots",
			contract.LoaderJobName(s.load.Name), validation.DNS1123LabelMaxLength-len(contract.LoaderJobName(""))))
	default:
		for _, t := range spec.Target {
			if strings.Contains(t.Path, ":") {
				s.fail(contract.EventDataOperationNotValid, fmt.Sprintf("target path %q has a colon, which separates paths: load the directory above it", t.Path))
				return flow.Wait(), nil
			}
		}
		if len(spec.Options) > 0 {
			conditions.True(&s.load.Status.Conditions, s.load.Generation, datav1alpha1.OperationNotSupported, contract.EventDataOperationNotSupport,
				"spec.options are not used by the native engine; the load runs without them")
		}
		return flow.Continue(), nil
	}
	return flow.Wait(), nil
}

// resolveDataset waits for a Dataset that is bound.
func (r *Reconciler) resolveDataset(ctx context.Context, s *scope) (flow.Outcome, error) {
	key := types.NamespacedName{Namespace: s.load.Namespace, Name: s.load.Spec.Dataset.Name}
	dataset := &datav1alpha1.Dataset{}
	err := r.Get(ctx, key, dataset)
	switch {
	case apierrors.IsNotFound(err):
		s.wait(contract.EventTargetDatasetNotFound, fmt.Sprintf("Dataset %s does not exist: the load starts when it is created and bound", key))
		return flow.Wait(), nil
	case err != nil:
		return flow.Outcome{}, fmt.Errorf("read dataset %s: %w", key, err)
	}
	s.dataset = dataset
	if s.started() {
		return flow.Continue(), nil
	}
	switch dataset.Status.Phase {
	case datav1alpha1.BoundDatasetPhase, datav1alpha1.UpdatingDatasetPhase:
		return flow.Continue(), nil
	default:
		s.wait(contract.EventTargetDatasetNotReady, fmt.Sprintf("Dataset %s is not bound (phase %q): the load starts when it is", key, dataset.Status.Phase))
		return flow.Wait(), nil
	}
}

// adopt makes the Dataset own its operation, so that both go together.
func (r *Reconciler) adopt(ctx context.Context, s *scope) (flow.Outcome, error) {
	patch := client.MergeFromWithOptions(s.load.DeepCopy(), client.MergeFromWithOptimisticLock{})
	for _, ref := range s.load.OwnerReferences {
		if ref.UID == s.dataset.UID {
			return flow.Continue(), nil
		}
	}
	if err := controllerutil.SetOwnerReference(s.dataset, s.load, r.Scheme()); err != nil {
		return flow.Outcome{}, fmt.Errorf("own dataload %s: %w", s.load.Name, err)
	}
	// The patch's answer replaces the object: the status of this round is kept.
	status := s.load.Status.DeepCopy()
	if err := r.Patch(ctx, s.load, patch); err != nil {
		return flow.Outcome{}, fmt.Errorf("own dataload %s: %w", s.load.Name, err)
	}
	s.load.Status = *status
	return flow.Continue(), nil
}

// startJob makes the Job. One that was deleted under a running load is made
// again: the loader joins its load by id.
func (r *Reconciler) startJob(ctx context.Context, s *scope) (flow.Outcome, error) {
	job := &batchv1.Job{}
	err := r.Get(ctx, jobKey(s.load), job)
	switch {
	case err == nil && !metav1.IsControlledBy(job, s.load):
		s.fail(contract.EventDataOperationNotValid, fmt.Sprintf("Job %s exists and belongs to somebody else: delete it or use another name", job.Name))
		return flow.Wait(), nil
	case err == nil:
		s.job = job
		return flow.Continue(), nil
	case !apierrors.IsNotFound(err):
		return flow.Outcome{}, fmt.Errorf("read job of dataload %s: %w", s.load.Name, err)
	}
	image, err := r.image(ctx, s)
	if err != nil {
		return flow.Outcome{}, err
	}
	job = desiredJob(s.load, image)
	if err := r.Create(ctx, job); apierrors.IsAlreadyExists(err) {
		return flow.WaitFor(time.Second), nil // the cache is behind
	} else if apierrors.IsInvalid(err) {
		s.fail(contract.EventDataOperationNotValid, fmt.Sprintf("the loader's Job is not valid: %v", err))
		return flow.Wait(), nil
	} else if err != nil {
		return flow.Outcome{}, fmt.Errorf("create job %s: %w", job.Name, err)
	}
	s.job = job
	s.start(fmt.Sprintf("Job %s loads Dataset %s", job.Name, s.dataset.Name))
	return flow.Continue(), nil
}

// image is the one that the Dataset's master runs.
func (r *Reconciler) image(ctx context.Context, s *scope) (engineImage, error) {
	set := &appsv1.StatefulSet{}
	key := types.NamespacedName{Namespace: s.load.Namespace, Name: contract.MasterName(s.dataset.Name)}
	if err := r.Get(ctx, key, set); apierrors.IsNotFound(err) || err == nil && len(set.Spec.Template.Spec.Containers) == 0 {
		return engineImage{Image: r.options.NativeImage, PullPolicy: r.options.PullPolicy}, nil
	} else if err != nil {
		return engineImage{}, fmt.Errorf("read master of dataset %s: %w", s.dataset.Name, err)
	}
	master := set.Spec.Template.Spec
	return engineImage{Image: master.Containers[0].Image, PullPolicy: master.Containers[0].ImagePullPolicy, PullSecrets: master.ImagePullSecrets}, nil
}

// observeJob takes in how far the load is and how its Job ended.
func (r *Reconciler) observeJob(ctx context.Context, s *scope) (flow.Outcome, error) {
	summary, _, heard := r.observer.Latest(client.ObjectKeyFromObject(s.dataset))
	load, known := contract.LoadSummary{}, false
	for _, l := range summary.Loads {
		if heard && l.ID == string(s.load.UID) {
			load, known = l, true
		}
	}
	if known {
		s.load.Status.Progress = progressOf(load)
	}
	switch end := jobEnd(s.job); {
	case end == nil:
		why, err := r.lastWords(ctx, s.job)
		if err != nil {
			return flow.Outcome{}, err
		}
		s.execute(why)
		return flow.Continue(), nil
	case end.Type == batchv1.JobFailed:
		why, err := r.lastWords(ctx, s.job)
		if err != nil {
			return flow.Outcome{}, err
		}
		if why == "" {
			why = firstOf(load.Message, end.Message)
		}
		s.fail(contract.EventDataLoadJobFailed, why)
		return flow.Wait(), nil
	case heard && (!known || load.Phase == contract.LoadRunning) && time.Since(end.LastTransitionTime.Time) < lastNews:
		s.execute("")
		return flow.WaitFor(500 * time.Millisecond), nil
	default:
		s.complete()
		return flow.Wait(), nil
	}
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

// lastWords is what the last loader that failed said; "" if none did.
func (r *Reconciler) lastWords(ctx context.Context, job *batchv1.Job) (string, error) {
	if job.Status.Failed == 0 {
		return "", nil
	}
	pods := &corev1.PodList{}
	if err := r.List(ctx, pods, client.InNamespace(job.Namespace), client.MatchingLabels{batchv1.JobNameLabel: job.Name}); err != nil {
		return "", fmt.Errorf("list pods of job %s: %w", job.Name, err)
	}
	var last time.Time
	words := ""
	for _, pod := range pods.Items {
		for _, status := range pod.Status.ContainerStatuses {
			if t := status.State.Terminated; t != nil && t.ExitCode != 0 && t.Message != "" && !t.FinishedAt.Time.Before(last) {
				last, words = t.FinishedAt.Time, strings.TrimSpace(t.Message)
			}
		}
	}
	return words, nil
}

func jobKey(dl *datav1alpha1.DataLoad) types.NamespacedName {
	return types.NamespacedName{Namespace: dl.Namespace, Name: contract.LoaderJobName(dl.Name)}
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}
