package component

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// masterWait is for how long a master that does not answer is waited for.
const masterWait = 10 * time.Minute

// Hopeless is an error that another try with the same load would meet again.
type Hopeless struct{ Err error }

func (h Hopeless) Error() string { return h.Err.Error() }

// Unwrap gives the error.
func (h Hopeless) Unwrap() error { return h.Err }

// Load starts or joins a load job, calls each with its progress, and returns
// the last of it when everything is cached. It goes on when the master is back.
func Load(ctx context.Context, client wirepb.MasterClient, r *wirepb.LoadRequest, each func(*wirepb.LoadProgress)) (*wirepb.LoadProgress, error) {
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = 200*time.Millisecond, 10*time.Second
	for silent := time.Now(); ; {
		last, err := follow(ctx, client, r, each)
		switch {
		case ctx.Err() != nil:
			return last, fmt.Errorf("load %s: stopped: %w", r.GetId(), ctx.Err())
		case last != nil && (last.GetPhase() == contract.LoadFailed || last.GetPhase() == contract.LoadCancelled):
			return last, Hopeless{errors.New(last.GetMessage())}
		case last != nil && last.GetPhase() == contract.LoadComplete:
			return last, nil
		case last != nil:
			silent = time.Now() // it was there, and goes on when it is back
			retry.Reset()
		case fatal(err):
			return nil, Hopeless{fmt.Errorf("load %s: %w", r.GetId(), err)}
		}
		if time.Since(silent) > masterWait {
			return nil, fmt.Errorf("the master does not answer: %w", err)
		}
		slog.WarnContext(ctx, "the master does not answer, trying again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(retry.NextBackOff()):
		}
	}
}

// fatal tells whether asking again cannot help.
func fatal(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.Unimplemented:
		return true
	}
	return false
}

// follow starts or joins the load until the stream ends.
func follow(ctx context.Context, client wirepb.MasterClient, r *wirepb.LoadRequest, each func(*wirepb.LoadProgress)) (last *wirepb.LoadProgress, err error) {
	stream, err := client.Load(ctx, r)
	if err != nil {
		return nil, err
	}
	for {
		p, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return last, nil
		}
		if err != nil {
			return last, err
		}
		last = p
		each(p)
	}
}

// SetLoadOptions has a request say what its options are.
func SetLoadOptions(r *wirepb.LoadRequest, o contract.LoadOptions) {
	r.BytesPerSecond, r.Parallelism, r.Priority = o.BytesPerSecond, o.Parallelism, o.Priority
	r.Keep = map[string]wirepb.KeepAction{
		contract.LoadKeepPin: wirepb.KeepAction_KEEP_ACTION_PIN, contract.LoadKeepUnpin: wirepb.KeepAction_KEEP_ACTION_UNPIN,
		contract.LoadKeepFree: wirepb.KeepAction_KEEP_ACTION_FREE,
	}[o.Keep]
}
