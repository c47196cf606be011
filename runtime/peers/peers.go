// Package peers is what a worker or a reader knows of the other workers: who
// they are, and who owns which bytes.
package peers

import (
	"context"
	"log/slog"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"

	"github.com/millrace/millrace/runtime/ring"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// View is the membership as the master last told it. When the master is gone,
// what was last known stays in force.
type View struct {
	state atomic.Pointer[state]
}

type state struct {
	byName  map[string]*wirepb.Member
	members []ring.Member
	// leaving are members that own nothing any more, and before is the ring in
	// which they still did; nil when nobody leaves.
	leaving  []*wirepb.Member
	before   []ring.Member
	replicas int
	stripe   int64
}

const (
	defaultStripe = 64 << 20
	// maxFormer is how many former owners are worth asking for a block.
	maxFormer = 3
)

// Set takes in a membership.
func (v *View) Set(m *wirepb.Members) {
	s := &state{byName: map[string]*wirepb.Member{}, replicas: max(1, int(m.GetReplicas())), stripe: m.GetStripeBytes()}
	if s.stripe <= 0 {
		s.stripe = defaultStripe
	}
	for _, w := range m.GetWorkers() {
		s.byName[w.GetName()] = w
		s.members = append(s.members, ring.Member{Name: w.GetName(), Weight: w.GetCapacityBytes(), Since: w.GetSinceMs()})
		if w.GetLeavingBytes() > 0 {
			s.leaving = append(s.leaving, w)
		}
	}
	if len(s.leaving) > 0 {
		s.before = slices.Clone(s.members)
		for i := range s.before {
			s.before[i].Weight = max(s.before[i].Weight, s.byName[s.before[i].Name].GetLeavingBytes())
		}
	}
	v.state.Store(s)
}

// Owners are the workers that own the byte at off of the file with this key,
// the first owner first; none while no membership is known.
func (v *View) Owners(key string, off int64) []*wirepb.Member {
	s := v.state.Load()
	if s == nil {
		return nil
	}
	return s.named(ring.Owners(key, off/s.stripe, s.members, s.replicas))
}

// Owns calls yield with each stripe of a file and whether the worker with this
// name owns it, until yield returns false.
func (v *View) Owns(name, key string, size int64, yield func(off, n int64, owned bool) bool) {
	s := v.state.Load()
	if s == nil {
		return
	}
	for i := int64(0); i*s.stripe < size; i++ {
		owned := slices.ContainsFunc(ring.Owners(key, i, s.members, s.replicas), func(m ring.Member) bool { return m.Name == name })
		if !yield(i*s.stripe, min(s.stripe, size-i*s.stripe), owned) {
			return
		}
	}
}

// OwnsAny tells whether a worker owns any stripe of a file.
func (v *View) OwnsAny(name, key string, size int64) (any bool) {
	v.Owns(name, key, size, func(_, _ int64, owned bool) bool {
		any = owned
		return !any
	})
	return any
}

// Expect is how much of so many bytes a worker may come to own: its share, and
// two standard deviations of what chance gives it.
func (v *View) Expect(name string, total int64) int64 {
	s := v.state.Load()
	if s == nil {
		return total
	}
	var all, own float64
	for _, m := range s.members {
		all += float64(m.Weight)
		if m.Name == name {
			own = float64(m.Weight)
		}
	}
	if all <= 0 {
		return total
	}
	mean := float64(total) * min(1, float64(s.replicas)*own/all)
	return min(total, int64(mean+2*math.Sqrt(mean*float64(s.stripe))))
}

// Present are Owners as they will be when those have left that are gone now:
// in place of each comes the next in rank.
func (v *View) Present(key string, off int64, gone func(address string) bool) []*wirepb.Member {
	s := v.state.Load()
	if s == nil {
		return nil
	}
	owners := s.named(ring.Owners(key, off/s.stripe, s.members, s.replicas))
	if !slices.ContainsFunc(owners, func(m *wirepb.Member) bool { return gone(m.GetAddress()) }) {
		return owners
	}
	here := slices.DeleteFunc(slices.Clone(s.members), func(m ring.Member) bool { return gone(s.byName[m.Name].GetAddress()) })
	return s.named(ring.Owners(key, off/s.stripe, here, s.replicas))
}

// Former are workers that may still have the byte at off because they owned it
// before they began to leave or before others joined, the last owner first.
func (v *View) Former(key string, off int64) []*wirepb.Member {
	s := v.state.Load()
	if s == nil {
		return nil
	}
	var out []*wirepb.Member
	if len(s.leaving) > 0 {
		out = slices.DeleteFunc(s.named(ring.Owners(key, off/s.stripe, s.before, s.replicas)),
			func(m *wirepb.Member) bool { return m.GetLeavingBytes() == 0 })
	}
	return append(out, s.named(ring.Former(key, off/s.stripe, s.members, s.replicas, maxFormer))...)
}

// Leaving are the workers that are about to go: they own nothing, and give what
// they have.
func (v *View) Leaving() []*wirepb.Member {
	if s := v.state.Load(); s != nil {
		return s.leaving
	}
	return nil
}

// Leaves tells whether the worker with this name is about to go.
func (v *View) Leaves(name string) bool { return v.Member(name).GetLeavingBytes() > 0 }

func (s *state) named(members []ring.Member) []*wirepb.Member {
	out := make([]*wirepb.Member, len(members))
	for i, m := range members {
		out[i] = s.byName[m.Name]
	}
	return out
}

// Member is what is known of one worker, nil if it is no member.
func (v *View) Member(name string) *wirepb.Member {
	if s := v.state.Load(); s != nil {
		return s.byName[name]
	}
	return nil
}

// Addresses are those of all members.
func (v *View) Addresses() map[string]bool {
	out := map[string]bool{}
	if s := v.state.Load(); s != nil {
		for _, m := range s.byName {
			out[m.GetAddress()] = true
		}
	}
	return out
}

// Count is how many workers are members.
func (v *View) Count() int {
	if s := v.state.Load(); s != nil {
		return len(s.byName)
	}
	return 0
}

// Index is the place of a worker among owners, -1 if it is none of them.
func Index(owners []*wirepb.Member, name string) int {
	return slices.IndexFunc(owners, func(m *wirepb.Member) bool { return m.GetName() == name })
}

// Watch hears the master's events until ctx ends, connecting again for ever.
// each is called with every event; the first of a connection has fresh set:
// what came before it may have been missed.
func Watch(ctx context.Context, master wirepb.MasterClient, who *wirepb.WatchRequest, log *slog.Logger, each func(event *wirepb.WatchEvent, fresh bool)) {
	wait := NewBackOff()
	for ctx.Err() == nil {
		stream, err := master.Watch(ctx, who, grpc.WaitForReady(true))
		for fresh := true; err == nil; fresh = false {
			var event *wirepb.WatchEvent
			if event, err = stream.Recv(); err == nil {
				wait.Reset()
				each(event, fresh)
			}
		}
		if ctx.Err() == nil {
			log.Debug("the master's events ended", "err", err)
		}
		Sleep(ctx, wait.NextBackOff())
	}
}

// NewBackOff paces those who try for ever.
func NewBackOff() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = 100*time.Millisecond, time.Second
	return b
}

// Sleep waits for d or the end of ctx.
func Sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
