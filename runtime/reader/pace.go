package reader

import (
	"context"

	"golang.org/x/time/rate"
)

// paceBytes is what a mount with a bandwidth may take at once.
const paceBytes = blockBytes

// newPace lets everything through without a limit.
func newPace(bytesPerSecond int64) *rate.Limiter {
	return rate.NewLimiter(paceOf(bytesPerSecond), paceBytes)
}

func paceOf(bytesPerSecond int64) rate.Limit {
	if bytesPerSecond <= 0 {
		return rate.Inf
	}
	return rate.Limit(bytesPerSecond)
}

// SetBandwidth bounds the bytes a second that come from other nodes and from the
// source, also of the reads that wait; 0 for no bound.
func (r *Reader) SetBandwidth(bytesPerSecond int64) { r.limit.SetLimit(paceOf(bytesPerSecond)) }

// paced tells that the mount has a bandwidth.
func (r *Reader) paced() bool { return r.limit.Limit() != rate.Inf }

// pace waits until n bytes that are not on this node may come.
func (r *Reader) pace(ctx context.Context, n int64) error {
	for ; n > 0 && r.paced(); n -= paceBytes {
		if err := r.limit.WaitN(ctx, int(min(n, paceBytes))); err != nil {
			return err
		}
	}
	return nil
}
