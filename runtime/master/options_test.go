package master

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

func TestTargetsMayBePatterns(t *testing.T) {
	files := newFlat(map[string]int64{"a.tar": 10, "b.tar": 20, "c.txt": 40, "odd[1].tar": 80})
	s := newStand(t, Options{TTL: time.Hour}, map[string]source.Store{"/m": files})
	s.attach("a", nil)
	for name, tc := range map[string]struct {
		targets []string
		bytes   int64
		message string
	}{
		"all that a pattern matches":              {targets: []string{"/m/*.tar"}, bytes: 110},
		"each file once":                          {targets: []string{"/m/?.tar", "/m/b*", "/*/c.txt"}, bytes: 70},
		"a name is itself before it is a pattern": {targets: []string{"/m/odd[1].tar"}, bytes: 80},
		"a pattern that matches nothing":          {targets: []string{"/m/*.zip"}, message: "load /m/*.zip: nothing matches: does not exist"},
		"a pattern that is none":                  {targets: []string{"/m/[a"}, message: "load /m/[a: "},
	} {
		t.Run(name, func(t *testing.T) {
			r := &wirepb.LoadRequest{Id: t.Name()}
			for _, target := range tc.targets {
				r.Targets = append(r.Targets, &wirepb.LoadTarget{Path: target})
			}
			p := s.load(r)
			if tc.message == "" && (p.GetPhase() != contract.LoadComplete || p.GetBytesDone() != tc.bytes) ||
				tc.message != "" && (p.GetPhase() != contract.LoadFailed || !strings.Contains(p.GetMessage(), tc.message)) {
				t.Errorf("ended %v", p)
			}
		})
	}
	files.put("new.tar", "v1", 1000)
	if p := s.load(&wirepb.LoadRequest{Id: "old", Targets: []*wirepb.LoadTarget{{Path: "/m/*.tar"}}}); p.GetBytesDone() != 110 {
		t.Errorf("the listing that is known: %v", p)
	}
	if p := s.load(&wirepb.LoadRequest{Id: "new", LoadMetadata: true, Targets: []*wirepb.LoadTarget{{Path: "/m/*.tar"}}}); p.GetBytesDone() != 1110 {
		t.Errorf("the source is looked at before: %v", p)
	}
}

func TestFilesThatFailAreCountedAndTheFirstAreNamed(t *testing.T) {
	sizes := map[string]int64{"good": 10}
	for i := range 25 {
		sizes[fmt.Sprintf("bad%02d", i)] = 100 // three parts, each of which fails
	}
	s := newStand(t, Options{}, map[string]source.Store{"/m": newFlat(sizes)})
	hold := make(chan struct{})
	s.attach("a", func(h *hand, task *wirepb.Task) {
		if task.GetObject().GetPath() != "good" {
			h.answer(task, wirepb.Status_STATUS_DENIED, 0, strings.Repeat("denied ", 100))
			return
		}
		go func() {
			<-hold
			h.keep(task)
		}()
	})
	stream, err := s.client.Load(t.Context(), &wirepb.LoadRequest{Id: "1"})
	if err != nil {
		t.Fatal(err)
	}
	s.until("the failures are told while it runs", func() bool {
		loads := s.Summary().Loads
		if len(loads) == 0 {
			return false
		}
		l := loads[0]
		return l.Phase == contract.LoadRunning && l.FilesFailed == 25 && len(l.Failures) == contract.MaxLoadFailures
	})
	close(hold)
	p := last(t, stream)
	if p.GetPhase() != contract.LoadFailed || p.GetFilesFailed() != 25 || p.GetFilesDone() != 1 || len(p.GetFailures()) != contract.MaxLoadFailures {
		t.Errorf("ended %v", p)
	}
	for _, f := range p.GetFailures() {
		if !strings.HasPrefix(f.GetPath(), "/m/bad") || !strings.HasPrefix(f.GetError(), "denied") || len(f.GetError()) > maxFailureBytes+3 {
			t.Errorf("%v", f)
		}
	}
	if m := p.GetMessage(); !strings.Contains(m, "25 of 26 files failed") || !strings.HasSuffix(m, "and 20 more") || len(m) > 4000 {
		t.Errorf("message %q", m)
	}
}

func TestAFileThatFailedAndCameAfterAllDidNotFail(t *testing.T) {
	s := newStand(t, Options{}, map[string]source.Store{"/": newFlat(someFiles)})
	s.attach("a", func(h *hand, task *wirepb.Task) {
		h.keep(task) // and still
		if task.GetObject().GetPath() == "mid" {
			h.answer(task, wirepb.Status_STATUS_DENIED, 0, "denied")
		}
	})
	if p := s.load(&wirepb.LoadRequest{Id: "1"}); p.GetPhase() != contract.LoadComplete || p.GetFilesFailed() != 0 || len(p.GetFailures()) != 0 {
		t.Errorf("ended %v", p)
	}
}

// counter says of a hand's tasks how many are under way and how many were at most.
type counter struct {
	mu        sync.Mutex
	now, most int
	bytes     int64
	sizes     []int64
}

func (c *counter) begin(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now++
	c.most = max(c.most, c.now)
	c.bytes += n
	c.sizes = append(c.sizes, n)
}

func (c *counter) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now--
}

func TestParallelismBoundsWhatIsUnderWay(t *testing.T) {
	s := newStand(t, Options{}, map[string]source.Store{"/": newFlat(someFiles)})
	c := &counter{}
	does := func(h *hand, task *wirepb.Task) {
		c.begin(task.GetLength())
		go func() {
			time.Sleep(time.Millisecond) // for others to begin, if they may
			c.end()
			h.keep(task)
		}()
	}
	s.attach("a", does)
	s.attach("b", does)
	if p := s.load(&wirepb.LoadRequest{Id: "1", Parallelism: 3}); p.GetPhase() != contract.LoadComplete || p.GetBytesDone() != someBytes {
		t.Errorf("ended %v", p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.most > 3 || slices.Max(c.sizes) > testBlock {
		t.Errorf("%d under way, of up to %d bytes", c.most, slices.Max(c.sizes))
	}
}

func TestBandwidthBoundsWhatIsReadFromTheSource(t *testing.T) {
	s := newStand(t, Options{}, map[string]source.Store{"/": newFlat(map[string]int64{"large": 1000})})
	s.attach("a", nil)
	s.attach("b", nil)
	start := time.Now()
	if p := s.load(&wirepb.LoadRequest{Id: "1", BytesPerSecond: 1000}); p.GetPhase() != contract.LoadComplete {
		t.Errorf("ended %v", p)
	}
	if took := time.Since(start); took < 990*time.Millisecond-testBlock*time.Millisecond {
		t.Errorf("1000 bytes at 1000 a second took %s", took)
	}
	// What is there, and what comes from another worker, is not of the source: at
	// this rate that would take days.
	if p := s.load(&wirepb.LoadRequest{Id: "2", BytesPerSecond: 1, Targets: []*wirepb.LoadTarget{{Path: "/", Replicas: 2}}}); p.GetPhase() != contract.LoadComplete {
		t.Errorf("the second copy: %v", p)
	}
}

func TestALoadOfHigherPriorityGoesFirst(t *testing.T) {
	s := newStand(t, Options{}, map[string]source.Store{"/": newFlat(map[string]int64{"low": 400, "high": 400, "same": 40})})
	gate := make(chan struct{})
	var mu sync.Mutex
	var order []string
	s.attach("a", func(h *hand, task *wirepb.Task) {
		mu.Lock()
		order = append(order, task.GetObject().GetPath())
		mu.Unlock()
		go func() {
			if task.GetObject().GetPath() == "high" {
				<-gate
			}
			h.keep(task)
		}()
	})
	load := func(name string, priority int32) wirepb.Master_LoadClient {
		t.Helper()
		stream, err := s.client.Load(t.Context(), &wirepb.LoadRequest{Id: name, Priority: priority, Targets: []*wirepb.LoadTarget{{Path: "/" + name}}})
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	count := func(name string) (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, o := range order {
			if o == name {
				n++
			}
		}
		return n
	}
	high := load("high", 10)
	s.until("the high one is under way", func() bool { return count("high") > 0 })
	low := load("low", -1)
	s.until("the low one waits and says so", func() bool {
		return slices.ContainsFunc(s.Summary().Loads, func(l contract.LoadSummary) bool {
			return l.ID == "low" && l.Message == "waiting for a load of higher priority"
		})
	})
	if p := s.load(&wirepb.LoadRequest{Id: "same", Priority: 10, Targets: []*wirepb.LoadTarget{{Path: "/same"}}}); p.GetPhase() != contract.LoadComplete {
		t.Errorf("one of the same priority: %v", p)
	}
	if n := count("low"); n != 0 {
		t.Errorf("%d tasks of the low one before the high one was done", n)
	}
	close(gate)
	if p := last(t, high); p.GetPhase() != contract.LoadComplete {
		t.Errorf("high: %v", p)
	}
	if p := last(t, low); p.GetPhase() != contract.LoadComplete {
		t.Errorf("low: %v", p)
	}
}

func TestALoadThatWaitsForItsSourceHoldsNobodyUp(t *testing.T) {
	s := newStand(t, Options{}, map[string]source.Store{"/": newFlat(map[string]int64{"low": 40, "high": 40})})
	s.attach("a", func(h *hand, task *wirepb.Task) {
		if task.GetObject().GetPath() == "high" {
			h.answer(task, wirepb.Status_STATUS_UNAVAILABLE, 0, "down")
			return
		}
		h.keep(task)
	})
	if _, err := s.client.Load(t.Context(), &wirepb.LoadRequest{Id: "high", Priority: 1, Targets: []*wirepb.LoadTarget{{Path: "/high"}}}); err != nil {
		t.Fatal(err)
	}
	s.until("the high one runs", func() bool { return len(s.Summary().Loads) == 1 })
	if p := s.load(&wirepb.LoadRequest{Id: "low", Targets: []*wirepb.LoadTarget{{Path: "/low"}}}); p.GetPhase() != contract.LoadComplete {
		t.Errorf("ended %v", p)
	}
}

func TestBoundsBelowZeroAreRefused(t *testing.T) {
	s := newStand(t, Options{}, map[string]source.Store{"/": newFlat(someFiles)})
	for _, r := range []*wirepb.LoadRequest{{Id: "1", Parallelism: -1}, {Id: "2", BytesPerSecond: -1}} {
		stream, err := s.client.Load(t.Context(), r)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", r, err)
		}
	}
}
