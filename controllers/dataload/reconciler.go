// Package dataload tells what DataLoads do: the pod of each run asks the engine's
// master to bring paths into the cache. When it runs is told by the room
// operation; how far it is comes from the master's Summary.
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
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/operation"
)

// Options of the controller.
type Options struct {
	operation.Options
	// NativeImage runs `cache load` where the master's image is not known.
	NativeImage string
	PullPolicy  corev1.PullPolicy
}

// work is what a DataLoad does.
type work struct {
	client.Client
	observer operation.Observer
	options  Options
}

var _ operation.Work = (*work)(nil)

// SetupWithManager adds the controller of DataLoads.
func SetupWithManager(mgr ctrl.Manager, observer operation.Observer, options Options) error {
	return operation.SetupWithManager(mgr, observer, &work{Client: mgr.GetClient(), observer: observer, options: options}, options.Options)
}

// Object is an empty DataLoad.
func (*work) Object() client.Object { return &datav1alpha1.DataLoad{} }

// JobName is <name>-loader-job.
func (*work) JobName(name string) string { return contract.LoaderJobName(name) }

// Finalizer that Fluid's controller sets.
func (*work) Finalizer() string { return contract.FinalizerDataLoad }

// Reasons of the events.
func (*work) Reasons() operation.Reasons {
	return operation.Reasons{Started: contract.EventDataLoadJobStarted, Complete: contract.EventDataLoadJobComplete, Failed: contract.EventDataLoadJobFailed}
}

// Refuse says why a DataLoad can never run.
func (*work) Refuse(s *operation.Round) *operation.Problem {
	spec := &loadOf(s).Spec
	for _, t := range spec.Target {
		if strings.Contains(t.Path, ":") {
			return &operation.Problem{Reason: contract.EventDataOperationNotValid, Message: fmt.Sprintf("target path %q has a colon, which separates paths: write ? in its place, which matches it", t.Path)}
		}
	}
	if _, _, err := contract.ParseLoadOptions(spec.Options); err != nil {
		return &operation.Problem{Reason: contract.EventDataOperationNotValid, Message: "spec.options." + err.Error()}
	}
	return nil
}

// Job asks the master for the load, or has the engine's class say how it loads.
// A Dataset that refers to another has nothing to load.
func (w *work) Job(ctx context.Context, s *operation.Round) (*batchv1.Job, error) {
	if problem := referring(s.Dataset); problem != nil {
		return nil, problem
	}
	if config, err := w.foreign(ctx, s); err != nil {
		return nil, err
	} else if config != nil {
		return w.foreignJob(ctx, s, config)
	}
	image, err := w.image(ctx, s)
	if err != nil {
		return nil, err
	}
	dl := loadOf(s)
	if _, unknown, _ := contract.ParseLoadOptions(dl.Spec.Options); len(unknown) > 0 {
		s.Warn(fmt.Sprintf("the native engine has no option %s in spec.options and loads without: it knows bandwidth, keep, parallelism and priority", strings.Join(unknown, ", ")))
	}
	return desiredJob(dl, s.Token(), image), nil
}

// referring is why a Dataset that refers to another cannot be loaded; nil for
// every other.
func referring(ds *datav1alpha1.Dataset) *operation.Problem {
	if len(ds.Spec.Mounts) != 1 {
		return nil
	}
	to, refers := contract.ParseReference(ds.Spec.Mounts[0].MountPoint)
	if !refers {
		return nil
	}
	return &operation.Problem{Reason: contract.EventDataOperationNotSupport, Hopeless: true, Message: fmt.Sprintf(
		"Dataset %s refers to Dataset %s of namespace %s and has no cache of its own: load that one, in its namespace", ds.Name, to.Name, to.Namespace)}
}

// image is the one that the Dataset's master runs.
func (w *work) image(ctx context.Context, s *operation.Round) (engineImage, error) {
	set := &appsv1.StatefulSet{}
	key := types.NamespacedName{Namespace: s.Dataset.Namespace, Name: contract.MasterName(s.Dataset.Name)}
	if err := w.Get(ctx, key, set); apierrors.IsNotFound(err) || err == nil && len(set.Spec.Template.Spec.Containers) == 0 {
		return engineImage{Image: w.options.NativeImage, PullPolicy: w.options.PullPolicy}, nil
	} else if err != nil {
		return engineImage{}, fmt.Errorf("read master of dataset %s: %w", s.Dataset.Name, err)
	}
	master := set.Spec.Template.Spec
	return engineImage{Image: master.Containers[0].Image, PullPolicy: master.Containers[0].ImagePullPolicy, PullSecrets: master.ImagePullSecrets}, nil
}

// Observe takes in how far the load is.
func (w *work) Observe(_ context.Context, s *operation.Round) (operation.News, error) {
	summary, _, heard := w.observer.Latest(client.ObjectKeyFromObject(s.Dataset))
	if !heard {
		return operation.News{}, nil
	}
	if summary.Engine != nil {
		s.Status.Progress = foreignProgress(loadOf(s), &summary)
		return operation.News{}, nil
	}
	load, known := runOf(s, &summary)
	if !known {
		return operation.News{Behind: true}, nil
	}
	s.Status.Progress = operation.ProgressOf(load)
	return operation.News{Failure: load.Message, Behind: load.Phase == contract.LoadRunning}, nil
}

// runOf is what a master says of a run, if it knows it.
func runOf(s *operation.Round, summary *contract.Summary) (contract.LoadSummary, bool) {
	for _, load := range summary.Loads {
		if load.ID == s.Token() {
			return load, true
		}
	}
	return contract.LoadSummary{}, false
}

// Done says that everything asked for is cached: that is what exit code 0 of a
// loader means, so the last numbers seen are made whole.
func (w *work) Done(s *operation.Round, took time.Duration) string {
	p := s.Status.Progress
	summary, _, heard := w.observer.Latest(client.ObjectKeyFromObject(s.Dataset))
	if heard && summary.Engine != nil {
		return foreignDone(p, took)
	}
	if p == nil {
		return fmt.Sprintf("loaded in %s", took)
	}
	said := ""
	if load, known := runOf(s, &summary); heard && known && load.Phase == contract.LoadComplete {
		said = load.Message
	}
	return completed(loadOf(s), p, took, said)
}

func loadOf(s *operation.Round) *datav1alpha1.DataLoad {
	return s.Object.(*datav1alpha1.DataLoad)
}
