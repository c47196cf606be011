package master

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// worker is one member of the cache. All but holder is guarded by Master.mu.
type worker struct {
	holder  holder // guarded by the ledger
	member  *wirepb.Member
	usage   *wirepb.Usage
	session *session // nil while its stream is gone
	grace   *time.Timer
	// synced: it has told all that it holds since it attached.
	synced  bool
	retired bool
}

// session is one stream of a worker.
type session struct {
	orders *mailbox[*wirepb.WorkerOrder]
	cancel context.CancelFunc
}

// order sends an order, unless the worker's stream is gone; then the worker
// will be told anew what is still true when it comes back.
func (w *worker) order(o *wirepb.WorkerOrder) bool {
	if w.session == nil {
		return false
	}
	w.session.orders.put(o)
	return true
}

func (w *worker) stopGrace() {
	if w.grace != nil {
		w.grace.Stop()
		w.grace = nil
	}
}

// Attach serves one worker's session.
func (m *Master) Attach(stream wirepb.Master_AttachServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello.GetMember().GetName() == "" {
		return status.Error(codes.InvalidArgument, "the first report of a worker must be a hello with its name")
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	w, s := m.join(hello, cancel)
	defer m.leave(w, s)
	reports := make(chan error, 1)
	go func() { reports <- m.hear(stream, w, s) }()
	for {
		select {
		case <-s.orders.ready:
			for _, o := range s.orders.take() {
				if err := stream.Send(o); err != nil {
					return err
				}
			}
		case err := <-reports:
			return err
		case <-ctx.Done():
			return status.Error(codes.Aborted, "the worker has attached anew")
		case <-m.ctx.Done():
			return status.Error(codes.Unavailable, "the master is going down")
		}
	}
}

// join makes the worker a member, in place of its own former session if there is one.
func (m *Master) join(hello *wirepb.Hello, cancel context.CancelFunc) (*worker, *session) {
	member := hello.GetMember()
	s := &session{orders: newMailbox[*wirepb.WorkerOrder](), cancel: cancel}
	m.mu.Lock()
	w := m.workers[member.GetName()]
	if w == nil {
		w = &worker{}
		m.workers[member.GetName()] = w
	}
	w.stopGrace()
	if w.session != nil {
		w.session.cancel()
	}
	moved := w.member.GetAddress() != member.GetAddress() || w.member.GetNode() != member.GetNode() ||
		w.member.GetCapacityBytes() != member.GetCapacityBytes()
	// A worker joins when placement has begun. Before that it is told anew to a
	// master that was restarted, or is one of the first.
	switch {
	case w.member != nil:
		member.SinceMs = w.member.GetSinceMs()
	case m.settled:
		member.SinceMs = time.Now().UnixMilli()
	}
	w.session, w.member, w.synced, w.retired = s, member, false, false
	if m.retired {
		w.order(&wirepb.WorkerOrder{Order: &wirepb.WorkerOrder_Retire{Retire: &wirepb.Retire{}}})
	}
	if moved {
		m.membersChanged()
	}
	m.lostTasks(member.GetName())
	m.lostAnswers(member.GetName())
	m.bumpLocked()
	m.mu.Unlock()
	m.ledger.beginSync(&w.holder)
	m.log.Info("worker attached", "worker", member.GetName(), "node", member.GetNode(), "address", member.GetAddress(),
		"capacityBytes", member.GetCapacityBytes(), "version", hello.GetVersion())
	return w, s
}

// leave ends a session; its worker stays a member for the grace.
func (m *Master) leave(w *worker, s *session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w.session != s {
		return
	}
	name := w.member.GetName()
	w.session = nil
	m.lostTasks(name)
	m.lostAnswers(name)
	m.log.Info("worker's stream ended", "worker", name)
	if m.ctx.Err() != nil {
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(m.opts.Grace, func() { m.expel(w, name, &timer) })
	w.grace = timer
	m.bumpLocked()
}

// expel takes a worker that did not come back out of the membership.
func (m *Master) expel(w *worker, name string, timer **time.Timer) {
	m.mu.Lock()
	if w.session != nil || m.workers[name] != w || w.grace != *timer {
		m.mu.Unlock()
		return
	}
	delete(m.workers, name)
	m.membersChanged()
	m.mu.Unlock()
	m.ledger.forget(&w.holder)
	m.bump()
	m.log.Info("worker left", "worker", name)
}

// hear takes in the reports of one session until it ends.
func (m *Master) hear(stream wirepb.Master_AttachServer, w *worker, s *session) error {
	for {
		report, err := stream.Recv()
		if err != nil {
			return err
		}
		m.mu.Lock()
		current := w.session == s
		m.mu.Unlock()
		if !current {
			return nil
		}
		switch r := report.GetReport().(type) {
		case *wirepb.WorkerReport_Holdings:
			m.hold(w, r.Holdings)
		case *wirepb.WorkerReport_Done:
			m.taskDone(w, r.Done)
		case *wirepb.WorkerReport_Kept:
			m.answered(w, r.Kept)
		case *wirepb.WorkerReport_Usage:
			m.mu.Lock()
			if w.usage.GetCapacityBytes() != r.Usage.GetCapacityBytes() && r.Usage.GetCapacityBytes() > 0 {
				w.member.CapacityBytes = r.Usage.GetCapacityBytes()
				m.membersChanged()
			}
			w.usage = r.Usage
			m.bumpLocked()
			m.mu.Unlock()
		case *wirepb.WorkerReport_Reads:
			m.reads.local.Add(r.Reads.GetLocalBytes())
			m.reads.remote.Add(r.Reads.GetRemoteBytes())
			m.reads.source.Add(r.Reads.GetSourceBytes())
			m.bump()
		case *wirepb.WorkerReport_Retired:
			m.mu.Lock()
			w.retired = true
			m.bumpLocked()
			m.mu.Unlock()
			m.log.Info("worker retired", "worker", w.member.GetName())
		}
	}
}

// hold takes in a set of holdings.
func (m *Master) hold(w *worker, h *wirepb.Holdings) {
	stale := false
	for _, one := range h.GetHoldings() {
		k, ok := parseKey(one.GetKey())
		if !ok {
			m.log.Warn("worker reported what is no key", "worker", w.member.GetName(), "key", one.GetKey())
			continue
		}
		blocks := one.GetBlocks()
		if one.GetDropped() {
			blocks = nil
		}
		current := m.ledger.hold(&w.holder, k, one.GetSize(), one.GetComplete() && !one.GetDropped(), blocks)
		stale = stale || !current && !one.GetDropped()
	}
	if h.GetSynced() {
		m.ledger.endSync(&w.holder)
		m.mu.Lock()
		w.synced = true
		m.drain.again()
		m.mu.Unlock()
	}
	if stale {
		m.forgetStale(w)
	}
	m.bump()
}

// membersLocked is the membership; the caller holds m.mu.
func (m *Master) membersLocked() *wirepb.Members {
	members := &wirepb.Members{Epoch: m.epoch, Replicas: int32(m.opts.Replicas), StripeBytes: m.opts.StripeBytes}
	for name, w := range m.workers {
		member := &wirepb.Member{
			Name: w.member.GetName(), Address: w.member.GetAddress(), Node: w.member.GetNode(), CapacityBytes: w.member.GetCapacityBytes(),
			SinceMs: w.member.GetSinceMs(),
		}
		if _, leaves := m.leaving[name]; leaves {
			member.CapacityBytes, member.LeavingBytes = 0, max(1, member.GetCapacityBytes())
		}
		members.Workers = append(members.Workers, member)
	}
	slices.SortFunc(members.Workers, func(a, b *wirepb.Member) int { return strings.Compare(a.GetName(), b.GetName()) })
	return members
}

// settle begins the placement; the caller holds m.mu.
func (m *Master) settle() {
	if !m.settled && m.ctx.Err() == nil {
		m.settled = true
		m.membersChanged()
	}
}

// membersChanged tells all who must know; the caller holds m.mu.
func (m *Master) membersChanged() {
	if len(m.workers) >= m.opts.Workers && m.opts.Workers > 0 {
		m.settled = true
	}
	if !m.settled {
		m.bumpLocked()
		return
	}
	m.epoch++
	for w := range m.watchers {
		w.membersChanged()
	}
	for _, j := range m.jobs {
		j.events.put(membersEvent{})
	}
	m.drain.again()
	m.bumpLocked()
}
