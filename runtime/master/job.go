package master

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	cancelled      = "the runtime is being deleted"
)

// job is one load. Its state belongs to the goroutine of run; others see its
// progress and send it events.
type job struct {
	id      string
	master  *Master
	request *wirepb.LoadRequest
	events  *mailbox[any]
	cancel  context.CancelFunc
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

// load places every part with its owners, until none is left.
func (j *job) load(ctx context.Context) error {
	alone := time.Now() // since when there is no worker
	tick := time.NewTicker(progressPeriod)
	defer tick.Stop()
	for {
		members := j.master.currentMembers()
		j.peak = max(j.peak, len(members.GetWorkers()))
		if len(members.GetWorkers()) > 0 {
			alone = time.Now()
			if err := j.fill(ctx, members); err != nil {
				return err
			}
			if j.idle() {
				return nil
			}
		} else if j.idle() && j.exhausted() {
			return nil
		} else if time.Since(alone) > j.master.opts.WorkerWait {
			return fmt.Errorf("no worker was connected for %s; look at the pods of the workers", j.master.opts.WorkerWait)
		}
		j.note(len(members.GetWorkers()))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-j.events.ready:
			for _, event := range j.events.take() {
				j.handle(ctx, event)
			}
		}
	}
}

// idle tells that nothing is under way or waits.
func (j *job) idle() bool {
	return len(j.inFlight) == 0 && j.queued == 0 && len(j.again) == 0 && len(j.later) == 0 && j.looking == 0 && j.exhausted()
}

func (j *job) exhausted() bool { return j.nextFile >= len(j.files) }

// next gives a part that is to be placed, nil if there is none now.
func (j *job) next(now time.Time) *part {
	for i, p := range j.later {
		if !p.ready.After(now) {
			j.later = slices.Delete(j.later, i, i+1)
			return p
		}
	}
	if n := len(j.again); n > 0 {
		p := j.again[n-1]
		j.again = j.again[:n-1]
		return p
	}
	for j.nextFile < len(j.files) {
		f := j.files[j.nextFile]
		if f.dropped || f.versions > 0 || j.nextPart >= j.parts(f.size) {
			if f.size == 0 && !f.dropped && f.versions == 0 {
				j.fileDone()
			}
			j.nextFile, j.nextPart = j.nextFile+1, 0
			continue
		}
		j.nextPart++
		return j.partOf(f, j.nextPart-1)
	}
	return nil
}

func (j *job) partOf(f *loadFile, i int64) *part {
	off := i * j.master.opts.StripeBytes
	return &part{file: f, version: f.versions, off: off, n: min(j.master.opts.StripeBytes, f.size-off)}
}

// fill gives the workers as much as they may have in hand.
func (j *job) fill(ctx context.Context, members *wirepb.Members) error {
	place := newPlacement(members)
	now := time.Now()
	for count := 0; j.queued < maxQueued; count++ {
		if count%recountEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		p := j.next(now)
		if p == nil {
			break
		}
		if p.version == p.file.versions && !p.file.dropped {
			j.place(p, place)
		}
	}
	for name, l := range j.lanes {
		for len(l.queue) > 0 && l.tasks < maxTasks && l.bytes < maxTaskBytes {
			p := l.queue[0]
			if !j.send(name, l, p) {
				break // its stream is gone; it comes back or leaves
			}
		}
	}
	return nil
}

// place puts a part into the lane of the next owner that does not have it. It
// is finished when every owner has had its turn.
func (j *job) place(p *part, place placement) {
	owners := place.owners(p.file.key, p.off/j.master.opts.StripeBytes, p.file.copies)
	for ; p.copies < len(owners); p.copies++ {
		name := owners[p.copies].Name
		if have := j.master.heldBy(name, p.file.key, p.off, p.n); have >= p.n {
			p.best = p.n
			continue
		}
		l := j.lanes[name]
		if l == nil {
			l = &lane{}
			j.lanes[name] = l
		}
		p.lane = name
		l.queue = append(l.queue, p)
		j.queued++
		return
	}
	j.finish(p)
}

// send orders a task; false if the worker cannot be reached now.
func (j *job) send(name string, l *lane, p *part) bool {
	entry, ok := j.master.tree.Known(p.file.ino)
	if ok && objectKey(entry) != p.file.key || !ok {
		l.queue = l.queue[1:]
		j.queued--
		j.look(p)
		return true
	}
	id := j.master.taskIDs.Add(1)
	object := objectOf(entry)
	object.Key = keyText(p.file.key)
	j.inFlight[id] = p
	if !j.master.sendTask(name, j, &wirepb.Task{Id: id, Object: object, Offset: p.off, Length: p.n}) {
		delete(j.inFlight, id)
		return false
	}
	l.queue = l.queue[1:]
	j.queued--
	l.tasks++
	l.bytes += p.n
	return true
}

// look asks the source what became of a file that is not what was listed.
func (j *job) look(p *part) {
	j.looking++
	j.master.tasks.Go(func() {
		ctx := j.master.ctx
		entry, err := j.master.tree.Refresh(ctx, p.file.ino, "")
		j.events.put(lookedEvent{p, entry, err})
	})
}

func (j *job) handle(ctx context.Context, event any) {
	switch e := event.(type) {
	case membersEvent: // what is queued is placed by the new ring
		j.moved = true
		for _, l := range j.lanes {
			for _, p := range l.queue {
				p.copies = 0
				j.again = append(j.again, p)
			}
			j.queued -= len(l.queue)
			l.queue = nil
		}
	case lostEvent:
		j.moved = true
		for id, p := range j.inFlight {
			if p.lane == e.worker {
				j.returned(id, p)
				p.copies = 0
				j.again = append(j.again, p)
			}
		}
	case doneEvent:
		if p := j.inFlight[e.done.GetId()]; p != nil {
			j.returned(e.done.GetId(), p)
			j.answered(ctx, p, e.done)
		}
	case lookedEvent:
		j.looking--
		j.looked(e)
	}
}

// returned takes a part out of a worker's hand.
func (j *job) returned(id uint64, p *part) {
	delete(j.inFlight, id)
	l := j.lanes[p.lane]
	l.tasks--
	l.bytes -= p.n
}

// answered takes in how a task ended.
func (j *job) answered(ctx context.Context, p *part, done *wirepb.TaskDone) {
	if p.version != p.file.versions || p.file.dropped {
		return
	}
	p.best = max(p.best, min(done.GetCachedBytes(), p.n))
	status := done.GetStatus()
	if status == wirepb.Status_STATUS_OK && done.GetCachedBytes() < p.n {
		status = wirepb.Status_STATUS_NO_SPACE
	}
	switch status {
	case wirepb.Status_STATUS_OK:
		p.copies++
		j.again = append(j.again, p)
	case wirepb.Status_STATUS_NO_SPACE:
		j.noSpace += p.n - min(done.GetCachedBytes(), p.n)
		p.copies++
		j.again = append(j.again, p)
	case wirepb.Status_STATUS_CHANGED, wirepb.Status_STATUS_NOT_EXIST:
		j.look(p)
	case wirepb.Status_STATUS_UNAVAILABLE, wirepb.Status_STATUS_INTERNAL:
		p.attempts++
		if p.attempts < maxAttempts && (status == wirepb.Status_STATUS_UNAVAILABLE || p.attempts < maxFaults) {
			j.trouble = done.GetMessage()
			wait := min(firstTaskRetry<<min(p.attempts-1, 10), lastTaskRetry)
			p.ready = time.Now().Add(wait)
			j.later = append(j.later, p)
			return
		}
		j.failed(ctx, p, done)
	default:
		j.failed(ctx, p, done)
	}
}

// failed gives a part up.
func (j *job) failed(ctx context.Context, p *part, done *wirepb.TaskDone) {
	if j.firstError == nil {
		path := fmt.Sprintf("inode %d", p.file.ino)
		if e, ok := j.master.tree.Known(p.file.ino); ok {
			path = joinMount(e.Mount, e.Path)
		}
		j.firstError = fmt.Errorf("%s: %s", path, done.GetMessage())
		j.master.log.WarnContext(ctx, "load task failed", "load", j.id, "path", path, "status", done.GetStatus().String(), "error", done.GetMessage())
	}
	j.finish(p)
}

// looked takes in what a file is now.
func (j *job) looked(e lookedEvent) {
	f := e.part.file
	if e.part.version != f.versions || f.dropped {
		return
	}
	switch {
	case errors.Is(e.err, source.ErrNotExist) || e.err == nil && !e.entry.IsFile():
		f.dropped = true
		j.report(func(p *contract.LoadSummary) {
			p.BytesTotal -= f.size
			p.BytesDone -= f.done
			p.FilesTotal--
		})
	case e.err != nil:
		e.part.attempts++
		if e.part.attempts >= maxAttempts {
			j.firstError = cmpError(j.firstError, e.err)
			j.finish(e.part)
			return
		}
		j.trouble = e.err.Error()
		e.part.ready = time.Now().Add(firstTaskRetry)
		j.later = append(j.later, e.part)
	case objectKey(e.entry) == f.key: // it is what it was
		e.part.attempts++
		if e.part.attempts >= maxNewVersions {
			j.firstError = cmpError(j.firstError, fmt.Errorf("%s: its source says that it changes and then that it did not", joinMount(e.entry.Mount, e.entry.Path)))
			j.finish(e.part)
			return
		}
		j.trouble = joinMount(e.entry.Mount, e.entry.Path) + " changed and changed back"
		e.part.ready = time.Now().Add(firstTaskRetry)
		j.later = append(j.later, e.part)
	case f.versions >= maxNewVersions:
		j.firstError = cmpError(j.firstError, fmt.Errorf("%s keeps changing at the source", joinMount(e.entry.Mount, e.entry.Path)))
		j.finish(e.part)
	default:
		j.report(func(p *contract.LoadSummary) {
			p.BytesTotal += e.entry.Size - f.size
			p.BytesDone -= f.done
		})
		f.versions++
		f.key, f.size, f.done = objectKey(e.entry), e.entry.Size, 0
		f.left = j.parts(f.size)
		if f.left == 0 {
			j.fileDone()
		}
		for i := range f.left {
			j.again = append(j.again, j.partOf(f, i))
		}
	}
}

func cmpError(first, err error) error {
	if first != nil {
		return first
	}
	return err
}

// finish counts a part that has had all its turns.
func (j *job) finish(p *part) {
	f := p.file
	f.left--
	f.done += p.best
	j.rate.add(p.best)
	j.report(func(s *contract.LoadSummary) { s.BytesDone += p.best })
	if f.left == 0 && f.done >= f.size {
		j.fileDone()
	}
}

func (j *job) fileDone() { j.report(func(p *contract.LoadSummary) { p.FilesDone++ }) }

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

// settle counts what is really there. When workers came or went meanwhile, the
// parts that were lost with them are to be loaded again.
func (j *job) settle(ctx context.Context) (again bool, err error) {
	if err := j.recount(ctx); err != nil {
		return false, err
	}
	p := j.snapshot()
	if p.BytesDone >= p.BytesTotal {
		return false, nil
	}
	if len(j.master.currentMembers().GetWorkers()) < j.peak {
		// A worker that was restarted brings back what it had.
		j.report(func(p *contract.LoadSummary) { p.Message = "waiting for a worker to come back" })
		deadline := time.NewTimer(workerReturn)
		defer deadline.Stop()
		for len(j.master.currentMembers().GetWorkers()) < j.peak {
			select {
			case <-ctx.Done():
				return false, ctx.Err()
			case <-deadline.C:
				j.peak = 0
			case <-j.events.ready:
				for _, event := range j.events.take() {
					j.handle(ctx, event)
				}
			}
		}
	}
	if !j.moved {
		return false, nil
	}
	j.moved, j.noSpace, j.firstError = false, 0, nil
	var whole int64 // bytes of files that need nothing
	for _, f := range j.files {
		if f.dropped {
			continue
		}
		if j.master.ledger.held(nil, f.key, 0, f.size) >= f.size {
			whole += f.size
			continue
		}
		f.left, f.done = j.parts(f.size), 0
		for i := range f.left {
			j.again = append(j.again, j.partOf(f, i))
		}
	}
	j.report(func(p *contract.LoadSummary) { p.BytesDone = whole })
	return true, nil
}

// recount sets the progress to what the workers hold. Their holdings may come a
// moment after their answers.
func (j *job) recount(ctx context.Context) error {
	deadline := time.Now().Add(holdingsLag)
	for {
		changed := j.master.changedSignal()
		var bytes, total, done, files int64
		for _, f := range j.files {
			if f.dropped {
				continue
			}
			have := j.master.ledger.held(nil, f.key, 0, f.size)
			bytes += have
			total += f.size
			files++
			if have >= f.size {
				done++
			}
		}
		if bytes >= j.snapshot().BytesDone || j.moved || time.Now().After(deadline) {
			j.report(func(p *contract.LoadSummary) {
				p.BytesDone, p.BytesTotal, p.FilesDone, p.FilesTotal = bytes, total, done, files
			})
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-time.After(progressPeriod):
		}
	}
}

// end says how the job ended.
func (j *job) end(ctx context.Context, err error) {
	if ctx.Err() != nil {
		err = errors.New(cancelled)
	}
	j.mu.Lock()
	j.ended = time.Now()
	p := &j.progress
	p.BytesPerSecond = 0
	switch {
	case err != nil:
		p.Phase, p.Message = contract.LoadFailed, err.Error()
	case p.BytesDone >= p.BytesTotal:
		p.Phase, p.Message = contract.LoadComplete, ""
	default:
		p.Phase = contract.LoadFailed
		p.Message = fmt.Sprintf("cached %s of %s (%.1f%%): %s", formatBytes(p.BytesDone), formatBytes(p.BytesTotal),
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
		return fmt.Sprintf("the cache has no room for %s, and %v", formatBytes(j.noSpace), j.firstError)
	case j.firstError != nil:
		return j.firstError.Error()
	case j.noSpace > 0:
		return "the cache has no room for the rest; raise the quota or the replicas"
	default:
		return "the rest was evicted or lost with a worker meanwhile; raise the quota or load again"
	}
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
