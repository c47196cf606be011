package master

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

const (
	// A worker has at most so many tasks of a job in hand, and so many bytes.
	maxTasks       = 64
	maxTaskBytes   = 512 << 20
	maxQueued      = 4096 // items placed ahead, over all workers
	firstTaskRetry = 500 * time.Millisecond
	lastTaskRetry  = 15 * time.Second
	maxAttempts    = 14 // about three minutes of a source that does not answer
	maxFaults      = 4  // of a worker that says it has an error of its own
	maxNewVersions = 5  // of one file during one job
	sourceWait     = 3 * time.Minute
	holdingsLag    = 5 * time.Second // for holdings to follow the tasks
	workerReturn   = time.Minute     // for a lost worker to come back when others have no room
	progressPeriod = 500 * time.Millisecond
	recountEvery   = 4096 // files between two looks at the context
)

// job is one load. Its state belongs to the goroutine of run; others see its
// progress and send it events.
type job struct {
	id      string
	master  *Master
	request *wirepb.LoadRequest
	events  *mailbox[any]
	cancel  context.CancelCauseFunc
	done    chan struct{} // closed at the end

	files    []*loadFile
	nextFile int
	nextPart int64
	again    []*part // to be placed (anew)
	later    []*part // to be placed when their time has come
	lanes    map[string]*lane
	queued   int
	inFlight map[uint64]*part
	looking  int // files that are being looked at at the source

	moved      bool  // a worker came or went since the parts were placed
	peak       int   // the most workers that were seen
	noSpace    int64 // bytes that workers had no room for
	firstError error
	trouble    string // the last one that is to pass
	rate       rate

	mu       sync.Mutex
	progress contract.LoadSummary
	ended    time.Time
	changed  chan struct{} // closed, and made anew, when progress changes
}

// loadFile is one file of a job.
type loadFile struct {
	ino      uint64
	key      key
	size     int64
	copies   int
	left     int64 // parts that are not finished
	done     int64 // bytes of finished parts
	versions int   // grows when the file turns out to be another
	dropped  bool
}

// part is the stretch of one file that lies in one stripe.
type part struct {
	file     *loadFile
	version  int // of file, when the part was made
	off, n   int64
	copies   int   // that are done
	best     int64 // bytes that the best copy has
	attempts int
	lane     string
	ready    time.Time
}

// lane is the work of one worker.
type lane struct {
	queue []*part
	tasks int
	bytes int64
}

// Events that others send to a job.
type (
	membersEvent struct{}
	lostEvent    struct{ worker string }
	doneEvent    struct {
		worker string
		done   *wirepb.TaskDone
	}
	lookedEvent struct {
		part  *part
		entry namespace.Entry
		err   error
	}
)

func newJob(m *Master, r *wirepb.LoadRequest) *job {
	return &job{
		id: r.GetId(), master: m, request: r, events: newMailbox[any](),
		lanes: map[string]*lane{}, inFlight: map[uint64]*part{}, changed: make(chan struct{}), done: make(chan struct{}),
		progress: contract.LoadSummary{ID: r.GetId(), Phase: contract.LoadRunning, Message: "listing the targets"},
	}
}

// run does the job to its end.
func (j *job) run(ctx context.Context) {
	err := j.collect(ctx)
	for again := err == nil; again; {
		if err = j.load(ctx); err == nil {
			again, err = j.settle(ctx)
		}
		again = again && err == nil
	}
	j.end(ctx, err)
}

// collect finds the files of all targets.
func (j *job) collect(ctx context.Context) error {
	targets := j.request.GetTargets()
	if len(targets) == 0 {
		targets = []*wirepb.LoadTarget{{Path: "/"}}
	}
	seen := map[uint64]*loadFile{}
	var bytes int64
	for _, target := range targets {
		entry, err := j.resolve(ctx, target.GetPath())
		if err != nil {
			return fmt.Errorf("load %s: %w", target.GetPath(), err)
		}
		copies := max(j.master.opts.Replicas, int(target.GetReplicas()))
		j.master.tree.Files(entry.Ino, func(e namespace.Entry) bool {
			if f := seen[e.Ino]; f != nil {
				f.copies = max(f.copies, copies)
				return true
			}
			f := &loadFile{ino: e.Ino, key: objectKey(e), size: e.Size, copies: copies}
			seen[e.Ino] = f
			j.files = append(j.files, f)
			bytes += e.Size
			return true
		})
	}
	for _, f := range j.files {
		f.left = j.parts(f.size)
	}
	j.report(func(p *contract.LoadSummary) {
		p.Message, p.BytesTotal, p.FilesTotal = "", bytes, int64(len(j.files))
	})
	j.master.log.InfoContext(ctx, "load started", "load", j.id, "files", len(j.files), "bytes", bytes)
	return nil
}

func (j *job) parts(size int64) int64 {
	return (size + j.master.opts.StripeBytes - 1) / j.master.opts.StripeBytes
}

// resolve returns when all below a target is known. A source that does not
// answer gets some time to come back.
func (j *job) resolve(ctx context.Context, path string) (namespace.Entry, error) {
	tree := j.master.tree
	deadline := time.Now().Add(sourceWait)
	for {
		entry, err := tree.Resolve(ctx, path)
		if err == nil && j.request.GetLoadMetadata() {
			err = tree.Scan(ctx, path)
		} else if err == nil {
			err = tree.WaitKnown(ctx, path)
		}
		if err == nil {
			return entry, nil
		}
		if !errors.Is(err, source.ErrUnavailable) || time.Now().After(deadline) {
			return namespace.Entry{}, err
		}
		j.report(func(p *contract.LoadSummary) { p.Message = "waiting for the source: " + err.Error() })
		select {
		case <-ctx.Done():
			return namespace.Entry{}, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// end says how the job ended.
func (j *job) end(ctx context.Context, err error) {
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
		for id, p := range j.inFlight {
			j.master.cancelTask(p.lane, id)
		}
	}
	short := ""
	if err == nil {
		short = j.shortCopies()
	}
	j.mu.Lock()
	j.ended = time.Now()
	p := &j.progress
	p.BytesPerSecond = 0
	switch {
	case errors.As(err, &cancelled{}):
		p.Phase, p.Message = contract.LoadCancelled, err.Error()
	case err != nil:
		p.Phase, p.Message = contract.LoadFailed, err.Error()
	case p.BytesDone >= p.BytesTotal:
		p.Phase, p.Message = contract.LoadComplete, short
	default:
		p.Phase = contract.LoadFailed
		p.Message = fmt.Sprintf("cached %s of %s (%.1f%%): %s", FormatBytes(p.BytesDone), FormatBytes(p.BytesTotal),
			100*float64(p.BytesDone)/float64(p.BytesTotal), j.shortage())
	}
	done := *p
	j.files, j.lanes, j.inFlight, j.again, j.later = nil, nil, nil, nil, nil
	j.bumpLocked()
	j.mu.Unlock()
	close(j.done)
	j.master.forgetTasks(j)
	j.master.bump()
	j.master.log.InfoContext(ctx, "load ended", "load", j.id, "phase", done.Phase, "message", done.Message,
		"bytes", done.BytesDone, "bytesTotal", done.BytesTotal, "files", done.FilesDone, "filesTotal", done.FilesTotal)
}

// shortage says why not all is cached, and what to do.
func (j *job) shortage() string {
	switch {
	case j.firstError != nil && j.noSpace > 0:
		return fmt.Sprintf("the cache has no room for %s, and %v", FormatBytes(j.noSpace), j.firstError)
	case j.firstError != nil:
		return j.firstError.Error()
	case j.noSpace > 0:
		return "the cache has no room for the rest; raise the quota or the replicas"
	default:
		return "the rest was evicted or lost with a worker meanwhile; raise the quota or load again"
	}
}

// note brings the slow parts of the progress up to date.
func (j *job) note(workers int) {
	now := time.Now()
	j.report(func(p *contract.LoadSummary) {
		p.BytesPerSecond = j.rate.perSecond(now)
		p.Message = ""
		switch {
		case workers == 0:
			p.Message = "waiting for a worker"
		case len(j.later) > 0 && len(j.inFlight) == 0:
			p.Message = "trying again: " + j.trouble
		}
	})
}

// report changes the progress.
func (j *job) report(change func(*contract.LoadSummary)) {
	j.mu.Lock()
	before := j.progress
	change(&j.progress)
	same := before == j.progress
	if !same {
		j.bumpLocked()
	}
	j.mu.Unlock()
	if !same {
		j.master.bump()
	}
}

func (j *job) bumpLocked() {
	close(j.changed)
	j.changed = make(chan struct{})
}

func (j *job) snapshot() contract.LoadSummary {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.progress
}

// watch gives the progress and a channel that is closed when it changes.
func (j *job) watch() (contract.LoadSummary, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.progress, j.changed
}
