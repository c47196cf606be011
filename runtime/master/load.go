package master

import (
	"context"
	"fmt"
	"math"
	"path"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// Load starts or joins a load job and streams its progress. A job that has
// ended is started anew: what is there already costs nothing.
func (m *Master) Load(r *wirepb.LoadRequest, stream wirepb.Master_LoadServer) error {
	j, err := m.startLoad(r)
	if err != nil {
		return err
	}
	for {
		p, changed := j.watch()
		if m.ctx.Err() != nil { // not the job has ended but this master
			return status.Error(codes.Unavailable, "the master is going down")
		}
		err := stream.Send(progressMessage(p))
		if err != nil || p.Phase != contract.LoadRunning {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
		select { // news come in bursts
		case <-time.After(progressPeriod):
		case <-j.done:
		case <-stream.Context().Done():
			return nil
		}
	}
}

func progressMessage(p contract.LoadSummary) *wirepb.LoadProgress {
	out := &wirepb.LoadProgress{
		Phase: p.Phase, Message: p.Message, BytesTotal: p.BytesTotal, BytesDone: p.BytesDone,
		FilesTotal: p.FilesTotal, FilesDone: p.FilesDone, BytesPerSecond: p.BytesPerSecond, FilesFailed: p.FilesFailed,
	}
	for _, f := range p.Failures {
		out.Failures = append(out.Failures, &wirepb.LoadFailure{Path: f.Path, Error: f.Error})
	}
	return out
}

func (m *Master) startLoad(r *wirepb.LoadRequest) (*job, error) {
	if r.GetId() == "" {
		return nil, status.Error(codes.InvalidArgument, "a load needs an id")
	}
	if r.GetBytesPerSecond() < 0 || r.GetParallelism() < 0 {
		return nil, status.Error(codes.InvalidArgument, "bytes_per_second and parallelism of a load are 0, for no bound, or more")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.retired {
		return nil, status.Error(codes.FailedPrecondition, retiring)
	}
	if m.ctx.Err() != nil {
		return nil, status.Error(codes.Unavailable, "the master is going down")
	}
	if over, ok := m.over[r.GetId()]; ok {
		return nil, status.Error(codes.FailedPrecondition, over.why.Error())
	}
	if j := m.jobs[r.GetId()]; j != nil && j.running() {
		return j, nil
	}
	j := newJob(m, r)
	ctx, cancel := context.WithCancelCause(m.ctx)
	j.cancel = cancel
	m.jobs[j.id] = j
	m.bumpLocked()
	m.tasks.Go(func() {
		defer cancel(nil)
		j.run(ctx)
	})
	return j, nil
}

func (j *job) running() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.ended.IsZero()
}

// expired tells that the job has ended long ago.
func (j *job) expired(now time.Time) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return !j.ended.IsZero() && now.Sub(j.ended) > keepLoads
}

// sendTask gives a task to a worker; false if its stream is gone.
func (m *Master) sendTask(name string, j *job, task *wirepb.Task) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.workers[name]
	if w == nil || w.session == nil {
		return false
	}
	m.taskOf[task.GetId()] = j
	return w.order(&wirepb.WorkerOrder{Order: &wirepb.WorkerOrder_Task{Task: task}})
}

// cancelTask tells a worker that nobody wants a task any more.
func (m *Master) cancelTask(name string, id uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.workers[name]; w != nil {
		w.order(&wirepb.WorkerOrder{Order: &wirepb.WorkerOrder_Cancel{Cancel: &wirepb.CancelTask{Id: id}}})
	}
}

// taskDone brings an answer to its job.
func (m *Master) taskDone(w *worker, done *wirepb.TaskDone) {
	m.mu.Lock()
	defer m.mu.Unlock()
	j := m.taskOf[done.GetId()]
	delete(m.taskOf, done.GetId())
	if j != nil {
		j.events.put(doneEvent{w.member.GetName(), done})
	} else {
		m.drain.done(done)
	}
}

// lostTasks tells the jobs that a worker forgot its tasks; the caller holds m.mu.
func (m *Master) lostTasks(worker string) {
	for _, j := range m.jobs {
		j.events.put(lostEvent{worker})
	}
	m.drain.again()
}

// forgetTasks drops the routes of a job's tasks.
func (m *Master) forgetTasks(j *job) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, of := range m.taskOf {
		if of == j {
			delete(m.taskOf, id)
		}
	}
}

// currentMembers is the membership for placement, without those that leave:
// empty until it has begun.
func (m *Master) currentMembers() *wirepb.Members {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.settled {
		return &wirepb.Members{}
	}
	members := m.membersLocked()
	members.Workers = slices.DeleteFunc(members.Workers, func(w *wirepb.Member) bool { return w.GetLeavingBytes() > 0 })
	return members
}

// heldBy counts the bytes of a range that a worker has.
func (m *Master) heldBy(name string, k key, off, n int64) int64 {
	m.mu.Lock()
	w := m.workers[name]
	m.mu.Unlock()
	if w == nil {
		return 0
	}
	return m.ledger.held(&w.holder, k, off, n)
}

func joinMount(mount, rel string) string { return path.Join(mount, rel) }

// rateHalfLife is after how long a former rate counts half.
const rateHalfLife = 3 * time.Second

// meter is an exponentially weighted mean of bytes per second.
type meter struct {
	bytes int64 // since at
	at    time.Time
	mean  float64
}

func (r *meter) add(n int64) { r.bytes += n }

// perSecond takes in what was added since the last call.
func (r *meter) perSecond(now time.Time) int64 {
	passed := now.Sub(r.at)
	switch {
	case r.at.IsZero():
		r.at, r.bytes = now, 0
	case passed >= progressPeriod/2:
		old := math.Exp2(-passed.Seconds() / rateHalfLife.Seconds())
		seen := float64(r.bytes) / passed.Seconds()
		if r.mean == 0 {
			old = 0
		}
		r.mean = old*r.mean + (1-old)*seen
		r.at, r.bytes = now, 0
	}
	return int64(r.mean)
}

// FormatBytes prints a size as the status of a Dataset does: 443.89MiB.
func FormatBytes(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%.2fB", float64(n))
	}
	v, i := float64(n), -1
	for v >= 1024 && i < len(units)-1 {
		v /= 1024
		i++
	}
	return fmt.Sprintf("%.2f%ciB", v, units[i])
}
