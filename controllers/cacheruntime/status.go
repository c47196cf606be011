package cacheruntime

import (
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
)

// Report fills the status of a CacheRuntime.
func (k *kind) Report(runtime client.Object, seen *engine.Seen) {
	rt := runtime.(*datav1alpha1.CacheRuntime)
	s := &rt.Status
	s.ObservedGeneration = rt.Generation
	s.Phase = seen.Phase()
	s.Master = componentStatus(seen, contract.ComponentMaster, seen.Master)
	s.Worker = componentStatus(seen, contract.ComponentWorker, seen.Worker)
	s.Client = componentStatus(seen, contract.ComponentClient, seen.Client)
	s.Selector = seen.Selector
	switch {
	case seen.Mute:
		s.CacheStates = engine.MuteCacheStates()
	case seen.Heard:
		s.CacheStates = engine.CacheStates(&seen.Summary)
	}
	if seen.Serving {
		s.Mounts = seen.Mounts
		if s.SetupDuration == "" {
			s.SetupDuration = seen.Age.Round(time.Second).String()
		}
	}
}

func componentStatus(seen *engine.Seen, of contract.ComponentType, c engine.ComponentSeen) datav1alpha1.RuntimeComponentStatus {
	if seen.Absent[of] {
		return datav1alpha1.RuntimeComponentStatus{}
	}
	return datav1alpha1.RuntimeComponentStatus{
		Phase: c.Phase(), ReadyReplicas: c.Ready, CurrentReplicas: c.Current, DesiredReplicas: c.Desired,
		AvailableReplicas: c.Available, UnavailableReplicas: c.Unavailable(),
	}
}
