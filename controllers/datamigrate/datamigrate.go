// Package datamigrate tells what DataMigrates do: the pod of each run copies files
// between the storage of a Dataset, claims and object stores. When it runs is told
// by the room operation; how far it is by a stream of the pod.
package datamigrate

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/internal/bytesize"
	"github.com/millrace/millrace/controllers/operation"
)

// Observer hears the pods that copy, as it hears masters.
type Observer interface {
	operation.Observer
	Watch(key types.NamespacedName, address string)
	Forget(key types.NamespacedName)
}

// Options of the controller.
type Options struct {
	operation.Options
	// NativeImage runs `cache migrate`.
	NativeImage string
	PullPolicy  corev1.PullPolicy
	// Egress is what the administrator allows.
	Egress []string
	// Address is where a pod that copies serves its progress; nil is its port.
	Address func(pod *corev1.Pod) string
}

// work is what a DataMigrate does.
type work struct {
	client.Client
	observer Observer
	options  Options
}

var (
	_ operation.Work   = (*work)(nil)
	_ operation.Leaver = (*work)(nil)
)

// SetupWithManager adds the controller of DataMigrates.
func SetupWithManager(mgr ctrl.Manager, observer Observer, options Options) error {
	if options.Address == nil {
		options.Address = func(pod *corev1.Pod) string { return hostPort(pod.Status.PodIP) }
	}
	return operation.SetupWithManager(mgr, observer, &work{Client: mgr.GetClient(), observer: observer, options: options}, options.Options)
}

// Object is an empty DataMigrate.
func (*work) Object() client.Object { return &datav1alpha1.DataMigrate{} }

// JobName is <name>-migrate-migrate.
func (*work) JobName(name string) string { return contract.MigrateJobName(name) }

// Finalizer that Fluid's controller sets.
func (*work) Finalizer() string { return contract.FinalizerDataMigrate }

// Reasons of the events.
func (*work) Reasons() operation.Reasons {
	return operation.Reasons{Started: contract.EventDataMigrateJobStarted, Complete: contract.EventDataMigrateJobComplete, Failed: contract.EventDataMigrateJobFailed}
}

// Left ends the stream of a DataMigrate that is gone.
func (w *work) Left(key types.NamespacedName) {
	w.observer.Forget(operation.StreamOf("DataMigrate", key))
}

// Refuse says why a DataMigrate can never run.
func (*work) Refuse(s *operation.Round) *operation.Problem {
	dm := migrateOf(s)
	if problem := refuse(dm); problem != nil {
		return problem
	}
	if ignored := notServed(&dm.Spec); ignored != "" {
		s.Warn("these fields do nothing, and the copy runs without them: " + ignored)
	}
	return nil
}

// Job copies.
func (w *work) Job(ctx context.Context, s *operation.Round) (*batchv1.Job, error) {
	dm := migrateOf(s)
	if from := dm.Spec.From.DataSet; from != nil {
		if err := w.bound(ctx, dm.Namespace, from.Name); err != nil {
			return nil, err
		}
	}
	plan, problem := planOf(dm, s.Dataset)
	if problem != nil {
		return nil, problem
	}
	if err := w.haveSecrets(ctx, dm.Namespace, plan); err != nil {
		return nil, err
	}
	plan.migration.ID = idOf(s)
	if len(w.options.Egress) > 0 {
		plan.migration.Egress = &contract.EgressConfig{Allow: w.options.Egress}
	}
	return desiredJob(dm, plan, w.options.NativeImage, w.options.PullPolicy)
}

// idOf names the copy in its pod's Summary. It must not look like a load's, which
// ends when no DataLoad asks for it.
func idOf(s *operation.Round) string { return "migrate-" + s.Token() }

func (w *work) bound(ctx context.Context, namespace, name string) error {
	ds := &datav1alpha1.Dataset{}
	err := w.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, ds)
	if apierrors.IsNotFound(err) {
		return &operation.Problem{Reason: contract.EventTargetDatasetNotFound, Message: fmt.Sprintf("Dataset %s/%s of spec.from does not exist: the copy starts when it is created and bound", namespace, name)}
	}
	if err != nil {
		return fmt.Errorf("read dataset %s: %w", name, err)
	}
	switch ds.Status.Phase {
	case datav1alpha1.BoundDatasetPhase, datav1alpha1.UpdatingDatasetPhase, datav1alpha1.DataMigratingDatasetPhase:
		return nil
	}
	return &operation.Problem{Reason: contract.EventTargetDatasetNotReady, Message: fmt.Sprintf("Dataset %s/%s of spec.from is not bound (phase %q): the copy starts when it is", namespace, name, ds.Status.Phase)}
}

// haveSecrets names the first Secret or key that is missing.
func (w *work) haveSecrets(ctx context.Context, namespace string, p *plan) error {
	for _, name := range p.secretNames() {
		secret := &corev1.Secret{}
		err := w.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, secret)
		if apierrors.IsNotFound(err) {
			return &operation.Problem{Reason: contract.EventDataOperationWaiting, Message: fmt.Sprintf("Secret %s does not exist: the copy starts when it is created", name)}
		}
		if err != nil {
			return fmt.Errorf("read secret %s: %w", name, err)
		}
		for _, key := range p.secrets[name] {
			if _, ok := secret.Data[key]; !ok {
				return &operation.Problem{Reason: contract.EventDataOperationWaiting, Message: fmt.Sprintf("Secret %s has no key %s: the copy starts when it has", name, key)}
			}
		}
	}
	return nil
}

// Observe takes in how far the copy is: from its pod while that runs, and from
// what the pod said at its end.
func (w *work) Observe(ctx context.Context, s *operation.Round) (operation.News, error) {
	key := operation.StreamOf(s.Kind, client.ObjectKeyFromObject(s.Object))
	pods := &corev1.PodList{}
	if err := w.List(ctx, pods, client.InNamespace(s.Object.GetNamespace()), client.MatchingLabels{batchv1.JobNameLabel: s.Run.Job}); err != nil {
		return operation.News{}, fmt.Errorf("list pods of job %s: %w", s.Run.Job, err)
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.Status.Phase == corev1.PodRunning && pod.Status.PodIP != "" && pod.DeletionTimestamp == nil && !s.Ended() {
			w.observer.Watch(key, w.options.Address(pod))
		}
		for _, status := range pod.Status.ContainerStatuses {
			said := contract.Migrated{}
			if t := status.State.Terminated; t != nil && t.ExitCode == 0 && json.Unmarshal([]byte(t.Message), &said) == nil {
				s.Status.Progress = ended(said)
				s.Status.Infos = map[string]string{infoKept: fmt.Sprint(said.KeptFiles), infoLinks: fmt.Sprint(said.Links)}
				w.observer.Forget(key)
				return operation.News{}, nil
			}
		}
	}
	if s.Ended() {
		w.observer.Forget(key)
		return operation.News{Behind: true}, nil // the pod's last words are on their way
	}
	summary, _, heard := w.observer.Latest(key)
	for _, copying := range summary.Loads {
		if heard && copying.ID == idOf(s) {
			s.Status.Progress = operation.ProgressOf(copying)
		}
	}
	return operation.News{}, nil
}

// What status.infos tells of the latest run.
const (
	infoKept  = "FilesKept"
	infoLinks = "LinksLeftOut"
)

func ended(said contract.Migrated) *datav1alpha1.OperationProgress {
	return &datav1alpha1.OperationProgress{
		Percent: bytesize.Percent(said.Bytes, said.Bytes, true), BytesDone: said.Bytes, BytesTotal: said.Bytes, FilesDone: said.Files, FilesTotal: said.Files,
	}
}

// Done says what is at the target now.
func (*work) Done(s *operation.Round, took time.Duration) string {
	p := s.Status.Progress
	if p == nil {
		return fmt.Sprintf("copied in %s", took)
	}
	p.BytesPerSecond = int64(float64(p.BytesDone) / took.Seconds())
	message := fmt.Sprintf("copied %s in %d files in %s", bytesize.Format(p.BytesDone), p.FilesDone, took)
	if kept := s.Status.Infos[infoKept]; kept != "" && kept != "0" {
		message += fmt.Sprintf("; %s of them were there already", kept)
	}
	if links := s.Status.Infos[infoLinks]; links != "" && links != "0" {
		message += fmt.Sprintf("; %s symbolic links were left out", links)
	}
	return message
}

func migrateOf(s *operation.Round) *datav1alpha1.DataMigrate {
	return s.Object.(*datav1alpha1.DataMigrate)
}
