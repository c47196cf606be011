package worker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/peers"
	"github.com/millrace/millrace/runtime/store"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

const (
	// reportEvery is how long changes are collected when nothing is urgent.
	reportEvery = 200 * time.Millisecond
	// usageEvery is how often usage and reads are told, if they changed.
	usageEvery = time.Second
	// Bounds of one message of holdings, well below gRPC's 4 MiB.
	maxHoldings     = 4096
	maxHoldingBytes = 1 << 20
)

// A worker tells its numbers within its half of the age of a status, or this
// does not compile.
const _ = uint64(contract.StatusAge/2 - reportEvery - usageEvery)

// attach keeps a session with the master until ctx ends.
func (w *Worker) attach(ctx context.Context) {
	wait := peers.NewBackOff()
	for ctx.Err() == nil {
		start := time.Now()
		err := w.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) > 5*time.Second {
			wait.Reset()
		}
		w.log.Info("the session with the master ended, connecting again", "err", err)
		peers.Sleep(ctx, wait.NextBackOff())
	}
}

// session is one stream: hello, all holdings, then changes.
func (w *Worker) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var orders sync.WaitGroup
	defer func() {
		cancel()
		orders.Wait()
	}()
	stream, err := w.master.Attach(ctx, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	s := &session{w: w, stream: stream, tasks: map[uint64]context.CancelFunc{}}
	if err := s.hello(); err != nil {
		return err
	}
	received := make(chan error, 1)
	orders.Go(func() { received <- s.hear(ctx, &orders) })
	every, usage := time.NewTicker(reportEvery), time.NewTicker(usageEvery)
	defer every.Stop()
	defer usage.Stop()
	for {
		select {
		case <-ctx.Done():
			return stream.CloseSend()
		case err := <-received:
			return err
		case <-w.report.urgent:
			err = s.changes()
		case <-every.C:
			err = s.changes()
		case <-usage.C:
			err = s.usage()
		}
		if err != nil {
			return err
		}
	}
}

// session is a stream to one master.
type session struct {
	w      *Worker
	stream wirepb.Master_AttachClient
	told   *wirepb.Usage

	mu    sync.Mutex
	tasks map[uint64]context.CancelFunc
}

// hello says who this is and all that it holds.
func (s *session) hello() error {
	w := s.w
	_, capacity := w.store.Usage()
	err := s.stream.Send(&wirepb.WorkerReport{Report: &wirepb.WorkerReport_Hello{Hello: &wirepb.Hello{
		Version: w.cfg.Version,
		Member: &wirepb.Member{
			Name: w.cfg.Name, Address: w.cfg.Advertise, Node: w.cfg.Node, CapacityBytes: capacity,
			SinceMs: w.view.Member(w.cfg.Name).GetSinceMs(),
		},
	}}})
	if err != nil {
		return err
	}
	w.report.reset()
	b := batch{stream: s.stream}
	w.store.Each(b.add)
	if err := b.flush(true); err != nil {
		return err
	}
	w.attached.Store(true)
	return s.usage()
}

// changes tells what changed; holdings go before the answers that tell of them.
func (s *session) changes() error {
	dirty, done, retired := s.w.report.take()
	b := batch{stream: s.stream}
	for key := range dirty {
		c, ok := s.w.store.State(key)
		c.Dropped = !ok
		b.add(c)
	}
	if err := b.flush(false); err != nil {
		return err
	}
	for _, d := range done {
		if err := s.stream.Send(d); err != nil {
			return err
		}
	}
	if retired {
		if err := s.usage(); err != nil {
			return err
		}
		return s.stream.Send(&wirepb.WorkerReport{Report: &wirepb.WorkerReport_Retired{Retired: &wirepb.Retired{}}})
	}
	return nil
}

// usage tells the account of the store and what readers were given.
func (s *session) usage() error {
	used, capacity := s.w.store.Usage()
	u := &wirepb.Usage{UsedBytes: used, CapacityBytes: capacity, Message: s.w.store.Message(), Live: *s.w.live.Load()}
	if told := s.told; told == nil || told.GetLive() != u.GetLive() || told.GetUsedBytes() != used || told.GetCapacityBytes() != capacity || told.GetMessage() != u.GetMessage() {
		if err := s.stream.Send(&wirepb.WorkerReport{Report: &wirepb.WorkerReport_Usage{Usage: u}}); err != nil {
			return err
		}
		s.told = u
	}
	if t := s.w.report.takeReads(); t != (tally{}) {
		return s.stream.Send(&wirepb.WorkerReport{Report: &wirepb.WorkerReport_Reads{Reads: &wirepb.ReaderStats{
			LocalBytes: t.local, RemoteBytes: t.remote, SourceBytes: t.source,
		}}})
	}
	return nil
}

// batch sends holdings in messages of a good size. After an error it does nothing.
type batch struct {
	stream   wirepb.Master_AttachClient
	holdings []*wirepb.Holding
	bytes    int
	err      error
}

func (b *batch) add(c store.Change) {
	b.holdings = append(b.holdings, &wirepb.Holding{
		Key: string(c.Key), Size: c.Size, Complete: c.Complete && !c.Dropped, Blocks: c.Bitmap, Dropped: c.Dropped,
	})
	if b.bytes += len(c.Bitmap); len(b.holdings) >= maxHoldings || b.bytes >= maxHoldingBytes {
		b.send(false)
	}
}

func (b *batch) send(synced bool) {
	if b.err == nil {
		b.err = b.stream.Send(&wirepb.WorkerReport{Report: &wirepb.WorkerReport_Holdings{
			Holdings: &wirepb.Holdings{Holdings: b.holdings, Synced: synced},
		}})
	}
	b.holdings, b.bytes = nil, 0
}

// flush sends the rest; synced ends a full set.
func (b *batch) flush(synced bool) error {
	if len(b.holdings) > 0 || synced {
		b.send(synced)
	}
	return b.err
}

// hear obeys the orders of the master.
func (s *session) hear(ctx context.Context, running *sync.WaitGroup) error {
	for {
		order, err := s.stream.Recv()
		if err != nil {
			return err
		}
		switch o := order.GetOrder().(type) {
		case *wirepb.WorkerOrder_Task:
			ctx := s.begin(ctx, o.Task.GetId())
			running.Go(func() {
				defer s.end(o.Task.GetId())
				s.w.report.taskDone(s.w.task(ctx, o.Task))
			})
		case *wirepb.WorkerOrder_Cancel:
			s.end(o.Cancel.GetId())
		case *wirepb.WorkerOrder_Forget:
			for _, key := range o.Forget.GetKeys() {
				s.w.store.Drop(store.Key(key))
			}
		case *wirepb.WorkerOrder_Keep:
			running.Go(func() { s.w.report.kept(s.w.keep(ctx, o.Keep)) })
		case *wirepb.WorkerOrder_Retire:
			s.w.dropAll()
			s.w.report.hasRetired()
		}
	}
}

func (s *session) begin(ctx context.Context, id uint64) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tasks[id] = cancel
	return ctx
}

// end releases a task's context, and so stops the task if it still runs.
func (s *session) end(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel := s.tasks[id]; cancel != nil {
		cancel()
		delete(s.tasks, id)
	}
}

// task brings a range into the store, as an owner of it: from wherever it is, or
// as a copy of what others have.
func (w *Worker) task(ctx context.Context, t *wirepb.Task) *wirepb.TaskDone {
	done := &wirepb.TaskDone{Id: t.GetId()}
	o := t.GetObject()
	err := func() error {
		if o.GetKey() != wire.ObjectKey(o) {
			return fmt.Errorf("load %s: the key is not that of the object", o.GetPath())
		}
		file, err := w.acquire(o, false)
		if err != nil {
			return err
		}
		defer file.Close()
		r := asOwner
		if t.GetCopy() {
			r = asCopy
		}
		_, err = w.fetch.ensure(ctx, file, o, t.GetOffset(), t.GetLength(), r)
		if err == nil && t.GetPin() {
			w.store.Pin(store.Key(o.GetKey())) // it is there: it is leased
		}
		done.CachedBytes = min(t.GetLength(), file.Size()-t.GetOffset())
		if err != nil {
			for _, block := range file.Missing(t.GetOffset(), t.GetLength()) {
				done.CachedBytes -= overlap(file, block, t.GetOffset(), t.GetLength())
			}
		}
		return err
	}()
	done.Status = wire.StatusOf(err)
	if err != nil {
		done.Message = err.Error()
	}
	return done
}
