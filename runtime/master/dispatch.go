package master

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

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
		var resume <-chan time.Time
		if j.resume > 0 {
			resume = time.After(j.resume)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-resume:
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
	off := i * j.partBytes
	return &part{file: f, version: f.versions, off: off, n: min(j.partBytes, f.size-off)}
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
	j.sendAll(now)
	return nil
}

// sendAll orders what the workers, and the bounds of the load, have room for: one
// task of each worker in turn.
func (j *job) sendAll(now time.Time) {
	j.resume = 0
	j.busy.Store(j.hasWork())
	if j.yields = j.master.outranked(j); j.yields {
		return
	}
	for more := true; more; {
		more = false
		for name, l := range j.lanes {
			if len(l.queue) == 0 || l.tasks >= maxTasks || l.bytes >= maxTaskBytes {
				continue
			}
			p := l.queue[0]
			cost, ok := j.affords(p, now)
			if !ok {
				return
			}
			if j.send(name, l, p) { // else its stream is gone; it comes back or leaves
				more = true
				if cost > 0 {
					j.pace.ReserveN(now, cost)
				}
			}
		}
	}
}

// place puts a part into the lane of the next owner that does not have it. It
// is finished when every owner has had its turn.
func (j *job) place(p *part, place placement) {
	owners := place.owners(p.file.key, p.off/j.master.opts.StripeBytes, p.file.copies)
	if len(owners) == 0 {
		j.noSpace += p.n
	}
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
	pin := j.request.GetKeep() == wirepb.KeepAction_KEEP_ACTION_PIN
	if !j.master.sendTask(name, j, &wirepb.Task{Id: id, Object: object, Offset: p.off, Length: p.n, Pin: pin}) {
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
	p.why = done.GetMessage()
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
		j.unfail(f)
		j.report(func(p *progress) {
			p.bytesTotal -= f.size
			p.bytesDone -= f.done
			p.filesTotal--
		})
	case e.err != nil:
		e.part.attempts++
		if e.part.attempts >= maxAttempts {
			j.giveUp(e.part, e.err.Error(), e.err)
			return
		}
		j.trouble = e.err.Error()
		e.part.ready = time.Now().Add(firstTaskRetry)
		j.later = append(j.later, e.part)
	case objectKey(e.entry) == f.key: // it is what it was
		e.part.attempts++
		if e.part.attempts >= maxNewVersions {
			const why = "its source says that it changes and then that it did not"
			j.giveUp(e.part, why, fmt.Errorf("%s: "+why, joinMount(e.entry.Mount, e.entry.Path)))
			return
		}
		j.trouble = joinMount(e.entry.Mount, e.entry.Path) + " changed and changed back"
		e.part.ready = time.Now().Add(firstTaskRetry)
		j.later = append(j.later, e.part)
	case f.versions >= maxNewVersions:
		j.giveUp(e.part, "it keeps changing at the source", fmt.Errorf("%s keeps changing at the source", joinMount(e.entry.Mount, e.entry.Path)))
	default:
		j.report(func(p *progress) {
			p.bytesTotal += e.entry.Size - f.size
			p.bytesDone -= f.done
		})
		f.versions++
		j.unfail(f)
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

// giveUp ends a part that cannot be had.
func (j *job) giveUp(p *part, why string, err error) {
	p.why = why
	j.firstError = cmpError(j.firstError, err)
	j.finish(p)
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
	j.report(func(s *progress) { s.bytesDone += p.best })
	if p.best < p.n {
		j.fail(f, cmp.Or(p.why, whyNoRoom))
	}
	if f.left == 0 && f.done >= f.size {
		j.fileDone()
	}
}

func (j *job) fileDone() { j.report(func(p *progress) { p.filesDone++ }) }
