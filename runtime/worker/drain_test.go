package worker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/master"
)

// drained waits until nothing is left that could be moved.
func (c *cluster) drained() contract.DrainSummary {
	c.t.Helper()
	var last contract.DrainSummary
	c.until("the workers are not relieved of what they have", func() bool {
		if d := c.master.Summary().Drain; d != nil {
			last = *d
		}
		return last.Done && len(last.Absent) == 0
	})
	return last
}

// readers read at random until stop, and fail no read.
func (c *cluster) readers(files map[string]int, workers int, of ...string) (reads *atomic.Int64, stop func()) {
	c.t.Helper()
	reads = &atomic.Int64{}
	ctx, cancel := context.WithCancel(c.t.Context())
	var wg sync.WaitGroup
	for i, of := range of {
		r := c.reader(of, workers)
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 3))
			for ctx.Err() == nil {
				name := fmt.Sprint("f", random.IntN(len(files)))
				if err := check(context.WithoutCancel(ctx), r, name, pattern(name, files[name])); err != nil {
					c.t.Error(err)
					return
				}
				reads.Add(1)
			}
		})
	}
	return reads, sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
}

func TestAWorkerThatIsToGoLosesNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		replicas int
		leaving  []string
	}{
		"one of three":             {1, []string{"c"}},
		"two of three":             {1, []string{"b", "c"}},
		"one of three, two copies": {2, []string{"c"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files, total := dataset(40)
			c := newCluster(t, func(o *master.Options) { o.Workers, o.Replicas, o.Grace = 3, tc.replicas, time.Second }, files)
			workers := map[string]*exec.Cmd{}
			for _, name := range []string{"a", "b", "c"} {
				workers[name] = c.worker(name, 1<<30)
			}
			if p := c.load(0); p.GetBytesDone() != total {
				t.Fatalf("load: %v", p)
			}
			reads, stop := c.readers(files, 3, "", "a", "c")
			defer stop()
			c.until("nobody reads", func() bool { return reads.Load() > 20 })
			before := c.read.Load()
			c.master.SetLeaving(tc.leaving)
			d := c.drained()
			if d.StuckBytes != 0 || d.LeftBytes != 0 {
				t.Errorf("not all was moved: %+v", d)
			}
			for _, name := range tc.leaving {
				workers[name].Process.Kill()
				c.until("it does not leave", func() bool { return c.summary(name).Name == "" })
			}
			then := reads.Load()
			c.until("nobody reads on", func() bool { return reads.Load() > then+50 })
			stop()
			c.master.SetLeaving(nil)
			if s := c.master.Summary(); s.CachedBytes != total || s.Drain != nil {
				t.Errorf("%d of %d bytes are cached: %+v", s.CachedBytes, total, s)
			}
			c.epoch(c.reader("", 3-len(tc.leaving)), files, 9)
			if again := c.read.Load() - before; again != 0 {
				t.Errorf("%d bytes of %d were read of the source again", again, total)
			}
			t.Logf("%d reads; %+v", reads.Load(), d)
		})
	}
}

// TestADrainSurvivesWhatIsKilledInIt kills the worker that is to go, one that
// takes over, and keeps the first after all, each in the middle.
func TestADrainSurvivesWhatIsKilledInIt(t *testing.T) {
	for name, tc := range map[string]struct {
		victim string // killed and started again in the middle
		stays  bool   // c is to go no more then
	}{
		"the one that is to go":       {victim: "c"},
		"one that takes over":         {victim: "a"},
		"the one is not to go at all": {stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files, total := dataset(40)
			c := newCluster(t, func(o *master.Options) { o.Workers, o.Grace, o.DrainBytes = 3, time.Second, 2<<20 }, files)
			workers := map[string]*exec.Cmd{}
			for _, name := range []string{"a", "b", "c"} {
				workers[name] = c.worker(name, 1<<30)
			}
			if p := c.load(0); p.GetBytesDone() != total {
				t.Fatalf("load: %v", p)
			}
			before := c.read.Load()
			c.master.SetLeaving([]string{"c"})
			c.until("nothing is moved", func() bool { return c.master.Summary().Drain.MovedBytes > 0 })
			if d := c.master.Summary().Drain; d.Done {
				t.Fatalf("all was moved at once: %+v", d)
			}
			if tc.victim != "" {
				c.again(workers[tc.victim], tc.victim, 1<<30)
			}
			c.master.SetDrainBytes(1 << 30)
			reads, stop := c.readers(files, 3, "", "b")
			defer stop()
			if tc.stays {
				c.master.SetLeaving(nil)
				if c.master.Summary().Drain != nil || c.summary("c").Leaving {
					t.Errorf("it is still to go: %+v", c.master.Summary())
				}
			} else if d := c.drained(); d.StuckBytes != 0 {
				t.Errorf("not all was moved: %+v", d)
			}
			c.until("nobody reads", func() bool { return reads.Load() > 20 })
			stop()
			if s := c.master.Summary(); s.CachedBytes != total {
				t.Errorf("%d of %d bytes are cached", s.CachedBytes, total)
			}
			c.epoch(c.reader("", 3), files, 9)
			if again := c.read.Load() - before; again != 0 {
				t.Errorf("%d bytes of %d were read of the source again", again, total)
			}
		})
	}
}

func TestWhatDoesNotFitIsSaidAndStays(t *testing.T) {
	t.Parallel()
	files := map[string]int{}
	var total int64
	for i := range 40 {
		files[fmt.Sprint("f", i)] = unit
		total += unit
	}
	c := newCluster(t, func(o *master.Options) { o.Workers = 2 }, files)
	c.worker("a", total*6/10)
	c.worker("b", 1<<30)
	if p := c.load(0); p.GetBytesDone() != total {
		t.Fatalf("load: %v", p)
	}
	c.master.SetLeaving([]string{"b"})
	d := c.drained()
	s := c.master.Summary()
	if d.StuckBytes == 0 || d.StuckBytes+c.summary("a").CachedBytes != total || !strings.Contains(d.Message, "a has no room") || s.CachedBytes != total {
		t.Errorf("%+v of %+v", d, s)
	}
	if a := c.summary("a"); a.UsedBytes > a.CapacityBytes {
		t.Errorf("%+v is over its quota", a)
	}
	c.epoch(c.reader("b", 2), files, 1) // what is there is read from where it is
}

// TestAMasterThatStartsKnowsWhoIsToGo has one that is told before any worker is there.
func TestAMasterThatStartsKnowsWhoIsToGo(t *testing.T) {
	t.Parallel()
	files, total := dataset(20)
	c := newCluster(t, func(o *master.Options) { o.Workers, o.Leaving = 3, []string{"c"} }, files)
	for _, name := range []string{"a", "b", "c"} {
		c.worker(name, 1<<30)
	}
	if p := c.load(0); p.GetBytesDone() != total {
		t.Fatalf("load: %v", p)
	}
	if d, got := c.drained(), c.summary("c"); got.CachedBytes != 0 || !got.Leaving || d.MovedBytes != 0 {
		t.Errorf("%+v was given something; %+v", got, d)
	}
}
