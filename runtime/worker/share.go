package worker

import (
	"context"
	"sync"
	"time"

	"github.com/millrace/millrace/runtime/store"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

const (
	// settleFor is how long the members are left alone before the files are
	// looked through: they come and go in groups.
	settleFor = 500 * time.Millisecond
	// totalFor is for how long the size of the dataset is taken for right, and
	// lookEvery how often the files are looked through for want of room.
	totalFor  = 10 * time.Second
	lookEvery = 30 * time.Second
)

// share keeps the room of what this worker owns from what it does not own.
//
// The store evicts whole files, guests first. A file of which this worker owns a
// stripe is no guest; blocks of its other stripes, which were read on this node,
// stay with it. So these lodgers get only the room that is left when all that
// this worker is to own is there.
type share struct {
	w *Worker
	// moved has a token when the members are others, or the count may be old.
	moved chan struct{}

	mu      sync.Mutex
	tiers   []store.Tier
	lodgers int64 // bytes
	counted time.Time
	total   int64 // of the dataset, -1 if it is not known
	asked   time.Time
	asking  bool
}

func newShare(w *Worker) *share {
	return &share{w: w, moved: make(chan struct{}, 1), tiers: w.cfg.Tiers, total: -1}
}

func (s *share) resize(tiers []store.Tier) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tiers = tiers
}

func (s *share) look() {
	select {
	case s.moved <- struct{}{}:
	default:
	}
}

// run looks through the files whenever the members have changed.
func (s *share) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.moved:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(settleFor):
		}
		s.count()
	}
}

// count makes guests of the files of which this worker owns nothing any more,
// and counts the lodgers of the others. One that leaves keeps all as it is.
func (s *share) count() {
	w := s.w
	if w.view.Leaves(w.cfg.Name) {
		return
	}
	block := w.store.BlockBytes()
	var lodgers int64
	w.store.Each(func(c store.Change) {
		owner := false
		var foreign int64
		w.view.Owns(w.cfg.Name, string(c.Key), c.Size, func(off, n int64, owned bool) bool {
			owner = owner || owned
			for at := off; !owned && at < off+n; at += block {
				if c.Complete || wire.Bitmap(c.Bitmap).Has(at/block) {
					foreign += min(block, off+n-at)
				}
			}
			return true
		})
		w.store.SetGuest(c.Key, !owner)
		if owner {
			lodgers += foreign
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lodgers, s.counted = lodgers, time.Now()
}

// lodge takes in n bytes of a file that this worker owns another part of; false
// if there is no room for them. leave gives it back.
func (s *share) lodge(n int64) bool {
	used, capacity := s.w.store.Usage()
	s.mu.Lock()
	defer s.mu.Unlock()
	var high, low float64
	for _, t := range s.tiers {
		for _, d := range t.Dirs {
			high += mark(t.High) * float64(d.QuotaBytes)
			low += mark(t.Low) * float64(d.QuotaBytes)
		}
	}
	if time.Since(s.asked) > totalFor && !s.asking {
		s.asking = true
		s.w.fetch.wg.Go(s.ask)
	}
	fits := used+n <= min(int64(low), capacity)
	if s.total >= 0 {
		fits = s.lodgers+n <= min(int64(high), capacity)-s.w.view.Expect(s.w.cfg.Name, s.total)
	}
	if !fits {
		if time.Since(s.counted) > lookEvery { // some may have gone
			s.counted = time.Now()
			s.look()
		}
		return false
	}
	s.lodgers += n
	return true
}

func (s *share) leave(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lodgers -= n
}

// mark is a water mark; none is all.
func mark(f float64) float64 {
	if f <= 0 || f > 1 {
		return 1
	}
	return f
}

// ask learns the size of the dataset.
func (s *share) ask() {
	ctx, cancel := context.WithTimeout(s.w.fetch.ctx, 5*time.Second)
	defer cancel()
	reply, err := s.w.master.StatFS(ctx, &wirepb.StatFSRequest{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asking, s.asked = false, time.Now()
	if err == nil {
		s.total = reply.GetTotalBytes()
	}
}
