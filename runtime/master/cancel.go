package master

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/millrace/millrace/runtime/wire/wirepb"
)

const (
	retiring = "the runtime is being deleted"
	// maxReason bounds what a caller has to say, in bytes.
	maxReason = 512
)

var errRetiring = errors.New(retiring)

// cancelled ends a load that nobody wants any more.
type cancelled struct{ reason string }

func (c cancelled) Error() string {
	if c.reason == "" {
		return "cancelled"
	}
	return "cancelled: " + c.reason
}

// over is a load that must not begin again.
type over struct {
	why   error
	since time.Time
}

// CancelLoad ends a load and returns when it has ended. Who asks for it again
// begins a new one, unless it was cancelled for good.
func (m *Master) CancelLoad(ctx context.Context, r *wirepb.CancelLoadRequest) (*wirepb.CancelLoadReply, error) {
	if r.GetId() == "" {
		return nil, status.Error(codes.InvalidArgument, "say the id of the load")
	}
	why := cancelled{r.GetReason()[:min(len(r.GetReason()), maxReason)]}
	m.mu.Lock()
	j := m.jobs[r.GetId()]
	if r.GetForGood() {
		m.endForGood(r.GetId(), why)
	}
	m.mu.Unlock()
	if j == nil || !j.running() {
		return &wirepb.CancelLoadReply{}, nil
	}
	j.cancel(why)
	select {
	case <-j.done:
		return &wirepb.CancelLoadReply{Cancelled: true}, nil
	case <-ctx.Done():
		return nil, statusOf(ctx.Err())
	}
}

// endForGood has a load refused for as long as a loader may still ask for it;
// the caller holds m.mu.
func (m *Master) endForGood(id string, why error) {
	now := time.Now()
	for old, o := range m.over {
		if now.Sub(o.since) > keepLoads {
			delete(m.over, old)
		}
	}
	m.over[id] = over{why, now}
}
