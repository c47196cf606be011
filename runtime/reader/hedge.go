package reader

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// A hedge is a second request for the same bytes, sent to another owner when
// the first takes longer than nearly all did lately. The first answer wins.
const (
	// hedgeAfter is the quantile of recent fetches that one may take.
	hedgeAfter = 0.95
	// hedgeBudget is how many hedges there may be for a request, in the long
	// run; hedgeBurst at once.
	hedgeBudget, hedgeBurst = 0.05, 16
	// minHedgeDelay: below this a hedge costs more than it can save.
	minHedgeDelay = 2 * time.Millisecond
	// firstHedgeDelay serves until there are samples.
	firstHedgeDelay = 250 * time.Millisecond
	maxHedgeDelay   = 5 * time.Second
	samplesKept     = 256
	samplesNeeded   = 16
	// An owner that has lost so often in a row is asked last for a while.
	lossesToDemote = 3
	demotedFor     = 10 * time.Second
)

// hedger decides when to ask a second owner, and whom to ask first.
type hedger struct {
	mu     sync.Mutex
	budget float64
	// recent has how long fetches took, in a ring, by whether they were small.
	recent  [2][]time.Duration
	next    [2]int
	delay   [2]time.Duration // the quantile of recent, made now and then
	losers  map[string]*loser
	sorting []time.Duration
}

type loser struct {
	losses int
	until  time.Time
}

func newHedger() *hedger {
	return &hedger{
		budget: hedgeBurst, losers: map[string]*loser{},
		delay: [2]time.Duration{firstHedgeDelay, firstHedgeDelay},
	}
}

func class(n int64) int {
	if n <= mediumBytes {
		return 0
	}
	return 1
}

// began counts a request and tells after what time it may be hedged.
func (h *hedger) began(n int64) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.budget = min(h.budget+hedgeBudget, hedgeBurst)
	return h.delay[class(n)]
}

// allow takes one hedge from the budget.
func (h *hedger) allow() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.budget < 1 {
		return false
	}
	h.budget--
	return true
}

// took takes in how long an owner took to answer.
func (h *hedger) took(addr string, n int64, d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.losers, addr)
	c := class(n)
	if len(h.recent[c]) < samplesKept {
		h.recent[c] = append(h.recent[c], d)
	} else {
		h.recent[c][h.next[c]] = d
	}
	h.next[c] = (h.next[c] + 1) % samplesKept
	if len(h.recent[c]) >= samplesNeeded && h.next[c]%samplesNeeded == 0 {
		h.sorting = append(h.sorting[:0], h.recent[c]...)
		slices.Sort(h.sorting)
		q := h.sorting[int(float64(len(h.sorting)-1)*hedgeAfter)]
		h.delay[c] = min(max(q, minHedgeDelay), maxHedgeDelay)
	}
}

// lost says that a hedge was quicker than this owner.
func (h *hedger) lost(addr string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.losers[addr]
	if l == nil {
		l = &loser{}
		h.losers[addr] = l
	}
	if l.losses++; l.losses >= lossesToDemote {
		l.losses, l.until = 0, time.Now().Add(demotedFor)
	}
}

// order puts owners that are slow now behind the others.
func (h *hedger) order(owners []*wirepb.Member) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.losers) == 0 {
		return
	}
	slow := func(m *wirepb.Member) int {
		if l := h.losers[m.GetAddress()]; l != nil && time.Now().Before(l.until) {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(owners, func(a, b *wirepb.Member) int { return slow(a) - slow(b) })
}

// keep forgets owners that are not members any more.
func (h *hedger) keep(addresses map[string]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for addr := range h.losers {
		if !addresses[addr] {
			delete(h.losers, addr)
		}
	}
}

// answer is what an owner said.
type answer struct {
	owner int
	hedge bool
	data  []byte
	err   error
	took  time.Duration
}

// memory is what a hedge needs a second buffer from.
type memory interface {
	reserve(n int64) bool
	release(n int64)
}

// race fills p from the first of the owners that gives the bytes. ask asks one;
// it is told for how long the owner before has been silent when it is a hedge.
// race returns when all that was asked has ended. failed has the errors of the
// owners that were asked in vain; the bytes are there if ok.
func (h *hedger) race(ctx context.Context, owners []*wirepb.Member, p []byte, mem memory, ask func(ctx context.Context, m *wirepb.Member, p []byte, silent time.Duration) error) (ok, hedged, won bool, failed []error) {
	n := int64(len(p))
	delay := h.began(n)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, len(owners))
	running, next := 0, 0
	start := func(into []byte, silent time.Duration) {
		i := next
		next++
		running++
		go func() {
			begin := time.Now()
			err := ask(ctx, owners[i], into, silent)
			answers <- answer{i, silent > 0, into, err, time.Since(begin)}
		}()
	}
	start(p, 0)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	var best *answer
	for running > 0 {
		select {
		case <-timer.C:
			if best == nil && next < len(owners) && h.allow() && mem.reserve(n) {
				hedged = true
				defer mem.release(n)
				start(make([]byte, n), delay)
			}
		case a := <-answers:
			running--
			switch {
			case best != nil: // it lost, or was cancelled
				if !a.hedge && best.hedge {
					h.lost(owners[a.owner].GetAddress())
				}
			case a.err == nil:
				best = &a
				h.took(owners[a.owner].GetAddress(), n, a.took)
				cancel()
			default:
				failed = append(failed, a.err)
				if running == 0 && next < len(owners) && ctx.Err() == nil {
					start(p, 0)
				}
			}
		}
	}
	if best == nil {
		return false, hedged, false, failed
	}
	if best.hedge {
		copy(p, best.data) // the loser has ended: nobody else writes to p
	}
	return true, hedged, best.hedge, failed
}
