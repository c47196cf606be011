package worker

import (
	"context"
	"testing"
	"testing/synctest"
)

func TestACrewRunsAllAtOnceAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := newCrew(ctx)
		for range 3 {
			const n = 50
			here, all := make(chan struct{}), make(chan struct{})
			for range n {
				c.run(func() {
					here <- struct{}{}
					<-all // until everybody is here: none waits for another to end
				})
			}
			for range n {
				<-here
			}
			close(all)
			synctest.Wait()
		}
		cancel()
		c.run(func() {}) // what comes late is still run
		c.wg.Wait()
	})
}
