package worker

import (
	"context"
	"sync"
	"time"
)

// crewIdle is for how long a goroutine of a crew waits for more to do.
const crewIdle = 10 * time.Second

// crew runs functions on goroutines that it keeps for a while. A fetch goes deep
// into the client of its source: a new goroutine would grow its stack for each,
// which was an eighth of the CPU time of a load of small files.
type crew struct {
	// ctx ends those who wait.
	ctx  context.Context
	wg   sync.WaitGroup
	next chan func()
}

func newCrew(ctx context.Context) *crew { return &crew{ctx: ctx, next: make(chan func())} }

// run has f run; it does not wait for it.
func (c *crew) run(f func()) {
	select {
	case c.next <- f:
	default:
		c.wg.Go(func() { c.work(f) })
	}
}

func (c *crew) work(f func()) {
	idle := time.NewTimer(crewIdle)
	defer idle.Stop()
	for {
		f()
		idle.Reset(crewIdle)
		select {
		case f = <-c.next:
		case <-idle.C:
			return
		case <-c.ctx.Done():
			return
		}
	}
}
