package master

import "time"

// wakeEvent has a job look again whether it is its turn.
type wakeEvent struct{}

// hasWork tells that there is something for the workers to do now: what waits
// for a source to come back holds nobody up.
func (j *job) hasWork() bool {
	return len(j.inFlight) > 0 || j.queued > 0 || len(j.again) > 0 || !j.exhausted()
}

// outranked tells that a load of higher priority has work.
func (m *Master) outranked(j *job) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, other := range m.jobs {
		if other != j && other.busy.Load() && other.request.GetPriority() > j.request.GetPriority() {
			return true
		}
	}
	return false
}

// rest says that the job has no work; others may have waited for that.
func (j *job) rest() {
	j.busy.Store(false)
	j.master.mu.Lock()
	defer j.master.mu.Unlock()
	for _, other := range j.master.jobs {
		if other != j && other.request.GetPriority() < j.request.GetPriority() && other.running() {
			other.events.put(wakeEvent{})
		}
	}
}

// affords tells whether the bounds of the load let a part go, and what it takes
// from the pace: what no worker has of it comes from the source.
func (j *job) affords(p *part, now time.Time) (cost int, ok bool) {
	if most := int(j.request.GetParallelism()); most > 0 && len(j.inFlight) >= most {
		return 0, false
	}
	if j.pace == nil {
		return 0, true
	}
	cost = int(p.n - min(p.n, j.master.ledger.held(nil, p.file.key, p.off, p.n)))
	if lacking := float64(cost) - j.pace.TokensAt(now); lacking > 0 {
		j.resume = time.Duration(lacking/float64(j.pace.Limit())*float64(time.Second)) + time.Millisecond
		return 0, false
	}
	return cost, true
}
