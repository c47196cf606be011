package master

import (
	"context"
	"time"
)

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
		j.report(func(p *progress) { p.message = "waiting for a worker to come back" })
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
	j.forgive()
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
	j.report(func(p *progress) { p.bytesDone = whole })
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
			j.recountFailed()
			j.report(func(p *progress) {
				p.bytesDone, p.bytesTotal, p.filesDone, p.filesTotal = bytes, total, done, files
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
