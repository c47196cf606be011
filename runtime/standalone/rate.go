package standalone

import (
	"context"
	"sync"
	"time"
)

const (
	// rateEvery is how often the counter is looked at, rateOver the time that a
	// rate is the mean of.
	rateEvery = time.Second
	rateOver  = 5 * time.Second
)

// rate is how fast a counter grows: the mean of the last seconds.
type rate struct {
	mu   sync.Mutex
	seen []sample // the oldest first, none older than rateOver but the first
}

type sample struct {
	at time.Time
	n  int64
}

// run looks at the counter until ctx ends.
func (r *rate) run(ctx context.Context, counter func(context.Context) (int64, error)) {
	tick := time.NewTicker(rateEvery)
	defer tick.Stop()
	for {
		if n, err := counter(ctx); err == nil {
			r.add(n, time.Now())
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *rate) add(n int64, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.seen) > 0 && n < r.seen[len(r.seen)-1].n {
		r.seen = nil // the counter has begun anew
	}
	r.seen = append(r.seen, sample{now, n})
	for len(r.seen) > 2 && now.Sub(r.seen[1].at) >= rateOver {
		r.seen = r.seen[1:]
	}
}

// perSecond is the rate by now, when the counter stands at n.
func (r *rate) perSecond(n int64, now time.Time) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.seen) == 0 || now.Sub(r.seen[0].at) <= 0 {
		return 0
	}
	return max(0, int64(float64(n-r.seen[0].n)/now.Sub(r.seen[0].at).Seconds()))
}
