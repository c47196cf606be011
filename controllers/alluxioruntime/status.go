package alluxioruntime

import (
	"time"

	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
)

func report(rt *datav1alpha1.AlluxioRuntime, seen *engine.Seen) {
	s := &rt.Status
	s.ObservedGeneration = rt.Generation
	s.MasterPhase, s.WorkerPhase, s.FusePhase = seen.Master.Phase(), seen.Worker.Phase(), seen.Client.Phase()
	s.DesiredMasterNumberScheduled, s.CurrentMasterNumberScheduled, s.MasterNumberReady = seen.Master.Desired, seen.Master.Current, seen.Master.Ready
	s.DesiredWorkerNumberScheduled, s.CurrentWorkerNumberScheduled, s.WorkerNumberReady = seen.Worker.Desired, seen.Worker.Current, seen.Worker.Ready
	s.WorkerNumberAvailable, s.WorkerNumberUnavailable = seen.Worker.Available, seen.Worker.Unavailable()
	s.DesiredFuseNumberScheduled, s.CurrentFuseNumberScheduled, s.FuseNumberReady = seen.Client.Desired, seen.Client.Current, seen.Client.Ready
	s.FuseNumberAvailable, s.FuseNumberUnavailable = seen.Client.Available, seen.Client.Unavailable()
	s.Selector = seen.Selector
	if seen.Heard {
		s.CacheStates = engine.CacheStates(&seen.Summary)
	}
	if seen.Serving {
		s.Mounts = seen.Mounts
		if s.SetupDuration == "" {
			s.SetupDuration = seen.Age.Round(time.Second).String()
		}
	}
}
