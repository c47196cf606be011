package master

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

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
	// smoothStripes: a bound of fewer stripes a second is kept block by block.
	smoothStripes  = 8
	progressPeriod = 500 * time.Millisecond
	recountEvery   = 4096 // files between two looks at the context
)

// job is one load. Its state belongs to the goroutine of run; others see its
// progress and send it events.
type job struct {
	id     string
	master *Master
	// partBytes is what one task asks for at most: a stripe, or a block where what
	// is under way is bounded.
	partBytes int64
	request   *wirepb.LoadRequest
	events    *mailbox[any]
	cancel    context.CancelCauseFunc
	done      chan struct{} // closed at the end
	pace      *rate.Limiter // of reads from the source; nil: any rate
	resume    time.Duration // until pace lets the next part go; 0: it is not waited for
	busy      atomic.Bool   // it has work for the workers
	yields    bool          // to a load of higher priority

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
	rate       meter
	reasons    map[*loadFile]string // of the first files that failed
	order      []*loadFile          // of reasons

	mu       sync.Mutex
	progress progress
	failures []contract.LoadFailure // of progress; replaced, never changed
	ended    time.Time
	changed  chan struct{} // closed, and made anew, when progress changes
}

// progress is what is told of a job while it runs.
type progress struct {
	phase, message                     string
	bytesTotal, bytesDone              int64
	filesTotal, filesDone, filesFailed int64
	bytesPerSecond                     int64
	// listed grows with each change of the failures that are named.
	listed int64
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
	failed   bool // some of it could not be had
}

// part is a stretch of one file that lies in one stripe.
type part struct {
	file     *loadFile
	version  int // of file, when the part was made
	off, n   int64
	copies   int   // that are done
	best     int64 // bytes that the best copy has
	attempts int
	why      string // it could not be had, if it could not
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
	j := &job{
		id: r.GetId(), master: m, request: r, events: newMailbox[any](),
		lanes: map[string]*lane{}, inFlight: map[uint64]*part{}, changed: make(chan struct{}), done: make(chan struct{}),
		reasons:  map[*loadFile]string{},
		progress: progress{phase: contract.LoadRunning, message: "listing the targets"},
	}
	j.partBytes = m.opts.StripeBytes
	if bound := r.GetBytesPerSecond(); r.GetParallelism() > 0 || bound > 0 && bound < smoothStripes*m.opts.StripeBytes {
		j.partBytes = m.opts.BlockBytes
	}
	if bound := r.GetBytesPerSecond(); bound > 0 {
		j.pace = rate.NewLimiter(rate.Limit(bound), int(j.partBytes))
	}
	return j
}

// run does the job to its end.
func (j *job) run(ctx context.Context) {
	err := j.collect(ctx)
	switch keep := j.request.GetKeep(); {
	case err != nil:
	case keep == wirepb.KeepAction_KEEP_ACTION_UNPIN || keep == wirepb.KeepAction_KEEP_ACTION_FREE:
		err = j.keepOnly(ctx, keep)
	case keep == wirepb.KeepAction_KEEP_ACTION_PIN:
		// What is there is pinned before room is made for the rest, what comes when
		// it comes, and what came by other ways at the end.
		if _, err = j.keepAll(ctx, keep); err == nil {
			err = j.bring(ctx)
		}
		if err == nil {
			_, err = j.keepAll(ctx, keep)
		}
		if err == nil {
			err = j.recount(ctx)
		}
	default:
		err = j.bring(ctx)
	}
	j.end(ctx, err)
}

// bring has the workers load everything.
func (j *job) bring(ctx context.Context) (err error) {
	for again := true; again && err == nil; {
		err = j.load(ctx)
		j.rest()
		if err == nil {
			again, err = j.settle(ctx)
		}
	}
	return err
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
		entries, err := j.resolve(ctx, target.GetPath())
		if err != nil {
			return fmt.Errorf("load %s: %w", target.GetPath(), err)
		}
		copies := max(j.master.opts.Replicas, int(target.GetReplicas()))
		for _, entry := range entries {
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
	}
	for _, f := range j.files {
		f.left = j.parts(f.size)
	}
	j.report(func(p *progress) {
		p.message, p.bytesTotal, p.filesTotal = "", bytes, int64(len(j.files))
	})
	j.master.log.InfoContext(ctx, "load started", "load", j.id, "files", len(j.files), "bytes", bytes)
	return nil
}

func (j *job) parts(size int64) int64 { return (size + j.partBytes - 1) / j.partBytes }

// resolve gives what a target names when all below it is known. A source that
// does not answer gets some time to come back.
func (j *job) resolve(ctx context.Context, path string) ([]match, error) {
	deadline := time.Now().Add(sourceWait)
	for {
		found, err := j.find(ctx, path)
		if err == nil {
			return found, nil
		}
		if !errors.Is(err, source.ErrUnavailable) || time.Now().After(deadline) {
			return nil, err
		}
		j.report(func(p *progress) { p.message = "waiting for the source: " + err.Error() })
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func (j *job) find(ctx context.Context, path string) ([]match, error) {
	tree := j.master.tree
	if j.request.GetLoadMetadata() {
		at := path
		if _, err := tree.Resolve(ctx, path); err != nil {
			at = withoutPattern(path)
		}
		if err := tree.Scan(ctx, at); err != nil {
			return nil, err
		}
	}
	found, err := j.master.expand(ctx, path)
	for i := 0; err == nil && i < len(found); i++ {
		err = tree.WaitKnown(ctx, found[i].path)
	}
	return found, err
}

// withoutPattern is the directory below which all is that a pattern can match.
func withoutPattern(pattern string) string {
	pattern = path.Clean("/" + pattern)
	first := strings.IndexAny(pattern, patternChars)
	if first < 0 {
		return pattern
	}
	return path.Dir(pattern[:first] + "x")
}

// end says how the job ended.
func (j *job) end(ctx context.Context, err error) {
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
		for id, p := range j.inFlight {
			j.master.cancelTask(p.lane, id)
		}
	}
	said := ""
	if err == nil && !j.keepsOnly() {
		said = j.shortCopies()
		if said == "" && j.request.GetKeep() == wirepb.KeepAction_KEEP_ACTION_PIN {
			said = "all is pinned"
		}
	}
	j.mu.Lock()
	j.ended = time.Now()
	p := &j.progress
	p.bytesPerSecond = 0
	switch {
	case errors.As(err, &cancelled{}):
		p.phase, p.message = contract.LoadCancelled, err.Error()
	case err != nil:
		p.phase, p.message = contract.LoadFailed, err.Error()
	case p.bytesDone >= p.bytesTotal:
		p.phase = contract.LoadComplete
		if !j.keepsOnly() {
			p.message = said
		}
	default:
		p.phase = contract.LoadFailed
		p.message = fmt.Sprintf("cached %s of %s (%.1f%%), %d of %d files failed: %s", FormatBytes(p.bytesDone), FormatBytes(p.bytesTotal),
			100*float64(p.bytesDone)/float64(p.bytesTotal), p.filesFailed, p.filesTotal, j.shortage()) + listed(j.failures, p.filesFailed)
	}
	done := *p
	j.files, j.lanes, j.inFlight, j.again, j.later, j.reasons, j.order = nil, nil, nil, nil, nil, nil, nil
	j.bumpLocked()
	j.mu.Unlock()
	close(j.done)
	j.master.forgetTasks(j)
	j.master.bump()
	j.master.log.InfoContext(ctx, "load ended", "load", j.id, "phase", done.phase, "message", done.message,
		"bytes", done.bytesDone, "bytesTotal", done.bytesTotal, "files", done.filesDone, "filesTotal", done.filesTotal, "filesFailed", done.filesFailed)
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
	j.report(func(p *progress) {
		p.bytesPerSecond = j.rate.perSecond(now)
		p.message = ""
		switch {
		case workers == 0:
			p.message = "waiting for a worker"
		case j.yields:
			p.message = "waiting for a load of higher priority"
		case len(j.later) > 0 && len(j.inFlight) == 0:
			p.message = "trying again: " + j.trouble
		}
	})
}

// report changes the progress.
func (j *job) report(change func(*progress)) {
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

// snapshot is the progress as the contract has it.
func (j *job) snapshot() contract.LoadSummary {
	s, _ := j.watch()
	return s
}

// watch gives the progress and a channel that is closed when it changes.
func (j *job) watch() (contract.LoadSummary, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	p := j.progress
	return contract.LoadSummary{
		ID: j.id, Phase: p.phase, Message: p.message, BytesTotal: p.bytesTotal, BytesDone: p.bytesDone,
		FilesTotal: p.filesTotal, FilesDone: p.filesDone, BytesPerSecond: p.bytesPerSecond,
		FilesFailed: p.filesFailed, Failures: j.failures,
	}, j.changed
}
