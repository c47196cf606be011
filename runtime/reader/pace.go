package reader

import (
	"context"

	"golang.org/x/time/rate"
)

// paceBytes is what a mount with a bandwidth may take at once.
const paceBytes = blockBytes

// newPace is nil without a limit.
func newPace(bytesPerSecond int64) *rate.Limiter {
	if bytesPerSecond <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(bytesPerSecond), paceBytes)
}

// paced tells that the mount has a bandwidth.
func (r *Reader) paced() bool { return r.limit != nil }

// pace waits until n bytes that are not on this node may come.
func (r *Reader) pace(ctx context.Context, n int64) error {
	for ; r.limit != nil && n > 0; n -= paceBytes {
		if err := r.limit.WaitN(ctx, int(min(n, paceBytes))); err != nil {
			return err
		}
	}
	return nil
}
