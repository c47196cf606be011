package master

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// keepsOnly tells that the job loads nothing: it unpins or frees.
func (j *job) keepsOnly() bool {
	k := j.request.GetKeep()
	return k == wirepb.KeepAction_KEEP_ACTION_UNPIN || k == wirepb.KeepAction_KEEP_ACTION_FREE
}

// keepOnly unpins or frees the targets.
func (j *job) keepOnly(ctx context.Context, action wirepb.KeepAction) error {
	reply, err := j.keepAll(ctx, action)
	if err != nil {
		return err
	}
	done := "unpinned"
	if action == wirepb.KeepAction_KEEP_ACTION_FREE {
		done = "freed"
	}
	said := fmt.Sprintf("%s %d of %d files, %s in the cache", done, reply.GetCachedFiles(), len(j.files), FormatBytes(reply.GetCachedBytes()))
	if n := reply.GetPinnedFiles(); n > 0 {
		said += fmt.Sprintf("; %d are pinned and stay", n)
	}
	j.report(func(p *progress) {
		p.message = said
		p.bytesTotal, p.bytesDone, p.filesDone = reply.GetCachedBytes(), reply.GetCachedBytes(), p.filesTotal
	})
	return nil
}

// keepAll has the workers do one thing to all files of the job, once there are
// workers. One that is gone for a moment is waited for.
func (j *job) keepAll(ctx context.Context, action wirepb.KeepAction) (*wirepb.KeepReply, error) {
	keys := make([]key, 0, len(j.files))
	for _, f := range j.files {
		if !f.dropped {
			keys = append(keys, f.key)
		}
	}
	sum := &wirepb.KeepReply{}
	asked := time.Now()
	for some := range slices.Chunk(keys, keysAtOnce) {
		for {
			one := &wirepb.KeepReply{}
			err := status.Errorf(codes.Unavailable, "no worker was connected for %s; look at the pods of the workers", j.master.opts.WorkerWait)
			if len(j.master.currentMembers().GetWorkers()) > 0 {
				err = j.master.keep(ctx, action, some, one)
			}
			if err == nil {
				sum.CachedFiles += one.GetCachedFiles()
				sum.CachedBytes += one.GetCachedBytes()
				sum.PinnedFiles += one.GetPinnedFiles()
				break
			}
			passes := status.Code(err) == codes.Unavailable || status.Code(err) == codes.DeadlineExceeded
			if ctx.Err() != nil || !passes || time.Since(asked) > j.master.opts.WorkerWait {
				return nil, fmt.Errorf("reach the workers: %s", status.Convert(err).Message())
			}
			j.report(func(p *progress) { p.message = "waiting for the workers" })
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(progressPeriod):
			}
		}
	}
	return sum, nil
}
