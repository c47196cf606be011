// Package dataprocess tells what DataProcesses do: a pod of the user's own, or a
// script in an image, runs with the Dataset mounted. When it runs is told by the
// room operation.
package dataprocess

import (
	"context"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/operation"
)

// work is what a DataProcess does.
type work struct{}

var _ operation.Work = work{}

// SetupWithManager adds the controller of DataProcesses.
func SetupWithManager(mgr ctrl.Manager, observer operation.Observer, options operation.Options) error {
	return operation.SetupWithManager(mgr, observer, work{}, options)
}

// Object is an empty DataProcess.
func (work) Object() client.Object { return &datav1alpha1.DataProcess{} }

// JobName is <name>-processor-job.
func (work) JobName(name string) string { return contract.ProcessorJobName(name) }

// Finalizer that Fluid's controller sets.
func (work) Finalizer() string { return contract.FinalizerDataProcess }

// Reasons of the events.
func (work) Reasons() operation.Reasons {
	return operation.Reasons{Started: contract.EventDataProcessJobStarted, Complete: contract.EventDataProcessJobComplete, Failed: contract.EventDataProcessJobFailed}
}

// Refuse says why a DataProcess can never run.
func (work) Refuse(s *operation.Round) *operation.Problem {
	spec := &processOf(s).Spec
	script, job := spec.Processor.Script, spec.Processor.Job
	switch {
	case script == nil && (job == nil || job.PodSpec == nil):
		return &operation.Problem{Reason: contract.EventProcessorNotSpecified, Message: "spec.processor has neither a script nor a job with a podSpec: give one of them"}
	case script != nil && job != nil:
		return &operation.Problem{Reason: contract.EventMultipleProcessorSpecified, Message: "spec.processor has both a script and a job: leave one of them out"}
	case script != nil && script.Image == "":
		return &operation.Problem{Reason: contract.EventDataOperationNotValid, Message: "spec.processor.script.image is empty: name the image that the script runs in"}
	case script != nil && len(script.Source) > maxSource:
		return &operation.Problem{Reason: contract.EventDataOperationNotValid, Message: fmt.Sprintf(
			"spec.processor.script.source has %d bytes, and may have %d: put the script into the image, or into a ConfigMap that volumes mount", len(script.Source), maxSource)}
	}
	if what := conflict(spec); what != "" {
		return &operation.Problem{Reason: contract.EventConflictMountPath, Message: what}
	}
	return nil
}

// Job is the processor, with the Dataset mounted.
func (work) Job(_ context.Context, s *operation.Round) (*batchv1.Job, error) {
	return desiredJob(processOf(s)), nil
}

// Observe knows no more than the Job does.
func (work) Observe(context.Context, *operation.Round) (operation.News, error) {
	return operation.News{}, nil
}

// Done says how long it took.
func (work) Done(_ *operation.Round, took time.Duration) string {
	return fmt.Sprintf("processed in %s", took)
}

func processOf(s *operation.Round) *datav1alpha1.DataProcess {
	return s.Object.(*datav1alpha1.DataProcess)
}
