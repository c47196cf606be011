package fuse

import (
	"sync"
	"sync/atomic"
	"testing"
)

// Loops that end at one moment once counted each other as waiting, so that all
// of them could end, and the mount with them. With one that is enough it shows
// in a quarter of the rounds.
func TestALoopStaysHoweverManyEndAtOnce(t *testing.T) {
	for range 200 {
		p := &protocol{}
		var stayed atomic.Int32
		var loops sync.WaitGroup
		for range 16 { // all busy
			loops.Go(func() {
				for range 2000 {
					if !p.waitAgain(1) {
						return
					}
					p.idle.Add(-1) // a request came
				}
				stayed.Add(1)
			})
		}
		loops.Wait()
		if stayed.Load() == 0 || p.idle.Load() != 0 {
			t.Fatalf("%d loops stayed, %d are counted as waiting", stayed.Load(), p.idle.Load())
		}
	}
}
