package worker

import (
	"sync"

	"github.com/millrace/millrace/runtime/store"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// report collects what the master has still to be told. It holds names of
// files, not their state: that is looked up when it is sent, so it is never old.
type report struct {
	urgent chan struct{} // has a token when something should not wait

	mu      sync.Mutex
	dirty   map[store.Key]struct{}
	done    []*wirepb.WorkerReport // answers, which the holdings go before
	retired bool
	reads   tally
}

func newReport() *report {
	return &report{urgent: make(chan struct{}, 1), dirty: map[store.Key]struct{}{}}
}

func (r *report) changed(key store.Key) {
	r.mu.Lock()
	r.dirty[key] = struct{}{}
	r.mu.Unlock()
}

func (r *report) taskDone(d *wirepb.TaskDone) {
	r.mu.Lock()
	r.done = append(r.done, &wirepb.WorkerReport{Report: &wirepb.WorkerReport_Done{Done: d}})
	r.mu.Unlock()
	r.wake()
}

func (r *report) kept(k *wirepb.Kept) {
	r.mu.Lock()
	r.done = append(r.done, &wirepb.WorkerReport{Report: &wirepb.WorkerReport_Kept{Kept: k}})
	r.mu.Unlock()
	r.wake()
}

func (r *report) hasRetired() {
	r.mu.Lock()
	r.retired = true
	r.mu.Unlock()
	r.wake()
}

func (r *report) wake() {
	select {
	case r.urgent <- struct{}{}:
	default:
	}
}

func (r *report) gave(t tally) {
	r.mu.Lock()
	r.reads.local += t.local
	r.reads.remote += t.remote
	r.reads.source += t.source
	r.mu.Unlock()
}

// reset forgets what a new session will be told anyway: all holdings are sent,
// and the master gives tasks anew and asks for nothing of a former session.
func (r *report) reset() {
	r.mu.Lock()
	clear(r.dirty)
	r.done, r.retired = nil, false
	r.mu.Unlock()
}

// take gives what there is to tell.
func (r *report) take() (dirty map[store.Key]struct{}, done []*wirepb.WorkerReport, retired bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	dirty, done, retired = r.dirty, r.done, r.retired
	r.dirty, r.done, r.retired = map[store.Key]struct{}{}, nil, false
	return dirty, done, retired
}

func (r *report) takeReads() tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.reads
	r.reads = tally{}
	return t
}
