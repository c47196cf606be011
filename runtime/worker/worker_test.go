package worker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/posix"
	"github.com/millrace/millrace/runtime/store"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		runChild(text)
		return
	}
	goleak.VerifyTestMain(m)
}

const block = 64 << 10 // small blocks keep the tests quick

// boss is a master that does only what a test tells it, so that a test sees
// every report and can give any order. The readers' tests have the real one.
type boss struct {
	wirepb.UnimplementedMasterServer
	t       *testing.T
	addr    string
	server  *grpc.Server
	members *wirepb.Members

	mu      sync.Mutex
	streams []*bossStream
}

type bossStream struct {
	wirepb.Master_AttachServer
	boss    *boss
	reports []*wirepb.WorkerReport // under boss.mu
	end     chan struct{}
}

func newBoss(t *testing.T, members ...*wirepb.Member) *boss {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &boss{t: t, addr: l.Addr().String(), server: grpc.NewServer(), members: &wirepb.Members{Workers: members, Replicas: 1, StripeBytes: 4 * block}}
	wirepb.RegisterMasterServer(b.server, b)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.server.Serve(l)
	}()
	t.Cleanup(func() {
		b.server.Stop()
		<-done
	})
	return b
}

func (b *boss) Watch(_ *wirepb.WatchRequest, s wirepb.Master_WatchServer) error {
	if err := s.Send(&wirepb.WatchEvent{Members: b.members}); err != nil {
		return err
	}
	<-s.Context().Done()
	return nil
}

func (b *boss) Attach(s wirepb.Master_AttachServer) error {
	stream := &bossStream{Master_AttachServer: s, boss: b, end: make(chan struct{})}
	b.mu.Lock()
	b.streams = append(b.streams, stream)
	b.mu.Unlock()
	failed := make(chan error, 1)
	go func() {
		for {
			r, err := s.Recv()
			if err != nil {
				failed <- err
				return
			}
			b.mu.Lock()
			stream.reports = append(stream.reports, r)
			b.mu.Unlock()
		}
	}()
	select {
	case err := <-failed:
		return err
	case <-stream.end:
		return fmt.Errorf("the test ends the session")
	}
}

// session waits for the i-th session of the worker.
func (b *boss) session(i int) *bossStream {
	b.t.Helper()
	var s *bossStream
	until(b.t, "no session", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.streams) > i {
			s = b.streams[i]
		}
		return s != nil
	})
	return s
}

// all gives the reports so far.
func (s *bossStream) all() []*wirepb.WorkerReport {
	s.boss.mu.Lock()
	defer s.boss.mu.Unlock()
	return append([]*wirepb.WorkerReport(nil), s.reports...)
}

// held is what the worker has told that it holds.
func (s *bossStream) held() map[string]*wirepb.Holding {
	held := map[string]*wirepb.Holding{}
	for _, r := range s.all() {
		for _, h := range r.GetHoldings().GetHoldings() {
			held[h.GetKey()] = h
		}
	}
	return held
}

func (s *bossStream) synced() bool {
	for _, r := range s.all() {
		if r.GetHoldings().GetSynced() {
			return true
		}
	}
	return false
}

// done waits for the end of a task, and tells what the worker held by then.
func (s *bossStream) done(id uint64) (*wirepb.TaskDone, map[string]*wirepb.Holding) {
	s.boss.t.Helper()
	var done *wirepb.TaskDone
	held := map[string]*wirepb.Holding{}
	until(s.boss.t, "the task does not end", func() bool {
		clear(held)
		for _, r := range s.all() {
			for _, h := range r.GetHoldings().GetHoldings() {
				held[h.GetKey()] = h
			}
			if done = r.GetDone(); done.GetId() == id {
				return true
			}
		}
		return false
	})
	return done, held
}

func (s *bossStream) order(o *wirepb.WorkerOrder) {
	s.boss.t.Helper()
	if err := s.Send(o); err != nil {
		s.boss.t.Fatal(err)
	}
}

func (s *bossStream) task(id uint64, o *wirepb.Object, off, n int64) {
	s.order(&wirepb.WorkerOrder{Order: &wirepb.WorkerOrder_Task{Task: &wirepb.Task{Id: id, Object: o, Offset: off, Length: n}}})
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// place is a directory as the source.
type place struct {
	dir  string
	gate chan struct{} // closed: reads pass
	// opened is how many reads were asked for.
	opened atomic.Int64
}

type gated struct {
	source.Store
	o *place
}

func (g gated) Open(ctx context.Context, o source.Object, off, n int64) (io.ReadCloser, error) {
	g.o.opened.Add(1)
	select {
	case <-g.o.gate:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return g.Store.Open(ctx, o, off, n)
}

func newPlace(t *testing.T) *place {
	o := &place{dir: t.TempDir(), gate: make(chan struct{})}
	close(o.gate)
	return o
}

func (o *place) mounts() []namespace.Mount {
	return []namespace.Mount{{Path: "/", URI: "pvc://x", Open: func(context.Context) (source.Store, error) {
		st, err := posix.Open(o.dir, "pvc://x")
		return gated{st, o}, err
	}}}
}

// put writes a file and gives the object that it is.
func (o *place) put(t *testing.T, name string, data []byte) *wirepb.Object {
	t.Helper()
	path := filepath.Join(o.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	out := &wirepb.Object{Mount: "/", Path: name, Size: st.Size(), MtimeNs: st.ModTime().UnixNano()}
	out.Key = wire.ObjectKey(out)
	return out
}

// start runs a worker until stop or the end of the test.
func start(t *testing.T, b *boss, o *place, dir string, quota int64) (stop func()) {
	t.Helper()
	registry := prometheus.NewRegistry()
	w, err := New(Config{
		Name: "w", Node: "n", Listen: "127.0.0.1:0", Socket: filepath.Join(t.TempDir(), "s"), Master: b.addr, Mounts: o.mounts(), BlockBytes: block,
		Tiers:      []store.Tier{{Medium: "SSD", Dirs: []store.Dir{{Path: dir, QuotaBytes: quota}}}},
		Registerer: registry, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		if _, err := registry.Gather(); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func TestAWorkerSaysWhoItIsAndAllThatItHolds(t *testing.T) {
	b, o, dir := newBoss(t), newPlace(t), t.TempDir()
	stop := start(t, b, o, dir, 1<<20)
	first := b.session(0)
	until(t, "the first report is late", first.synced)
	hello := first.all()[0].GetHello().GetMember()
	if hello.GetName() != "w" || hello.GetNode() != "n" || hello.GetAddress() == "" || hello.GetCapacityBytes() != 1<<20 {
		t.Errorf("hello %+v", hello)
	}
	whole, part := o.put(t, "whole", make([]byte, 3*block)), o.put(t, "part", make([]byte, 3*block+1))
	first.task(1, whole, 0, 3*block)
	first.task(2, part, block, block)
	for id, key := range map[uint64]string{1: whole.GetKey(), 2: part.GetKey()} {
		if done, held := first.done(id); done.GetStatus() != wirepb.Status_STATUS_OK || held[key] == nil {
			t.Errorf("task %d ended with %+v, before its holdings", id, done)
		}
	}
	until(t, "no usage", func() bool {
		for _, r := range first.all() {
			if r.GetUsage().GetUsedBytes() == 4*block {
				return true
			}
		}
		return false
	})
	close(first.end)
	check := func(s *bossStream) {
		t.Helper()
		until(t, "a later report is late", s.synced)
		held := s.held()
		if len(held) != 2 || !held[whole.GetKey()].GetComplete() || held[part.GetKey()].GetComplete() || !bytes.Equal(held[part.GetKey()].GetBlocks(), []byte{0b0010}) {
			t.Errorf("held %v", held)
		}
	}
	check(b.session(1)) // after the session was lost
	stop()
	start(t, b, o, dir, 1<<20)
	check(b.session(2)) // after a restart
}

func TestATaskEndsWithWhatTheSourceSays(t *testing.T) {
	b, o := newBoss(t), newPlace(t)
	start(t, b, o, t.TempDir(), 4*block)
	s := b.session(0)
	gone, changed := o.put(t, "gone", make([]byte, block)), o.put(t, "changed", make([]byte, block))
	os.Remove(filepath.Join(o.dir, "gone"))
	o.put(t, "changed", make([]byte, block+1))
	big := o.put(t, "big", make([]byte, 8*block))
	wrong := o.put(t, "wrong", make([]byte, block))
	wrong.Key = gone.GetKey()
	for i, tc := range []struct {
		object *wirepb.Object
		want   wirepb.Status
	}{
		{gone, wirepb.Status_STATUS_NOT_EXIST}, {changed, wirepb.Status_STATUS_CHANGED}, {wrong, wirepb.Status_STATUS_INTERNAL},
		{big, wirepb.Status_STATUS_NO_SPACE},
	} {
		id := uint64(i + 1)
		s.task(id, tc.object, 0, tc.object.GetSize())
		done, _ := s.done(id)
		if done.GetStatus() != tc.want || done.GetMessage() == "" {
			t.Errorf("%s: %+v, want %s", tc.object.GetPath(), done, tc.want)
		}
		if tc.object == big && done.GetCachedBytes() != 4*block {
			t.Errorf("%d bytes of the big one", done.GetCachedBytes())
		}
	}
}

func TestACancelledTaskEndsAndAForgottenFileIsDropped(t *testing.T) {
	b, o := newBoss(t), newPlace(t)
	start(t, b, o, t.TempDir(), 1<<20)
	s := b.session(0)
	f := o.put(t, "f", make([]byte, block))
	s.task(1, f, 0, block)
	s.done(1)
	o.gate = make(chan struct{})
	g := o.put(t, "g", make([]byte, block))
	s.task(2, g, 0, block)
	s.order(&wirepb.WorkerOrder{Order: &wirepb.WorkerOrder_Cancel{Cancel: &wirepb.CancelTask{Id: 2}}})
	if done, _ := s.done(2); done.GetStatus() == wirepb.Status_STATUS_OK {
		t.Errorf("%+v", done)
	}
	close(o.gate)
	s.order(&wirepb.WorkerOrder{Order: &wirepb.WorkerOrder_Forget{Forget: &wirepb.Forget{Keys: []string{f.GetKey(), "no key"}}}})
	until(t, "it is not dropped", func() bool { return s.held()[f.GetKey()].GetDropped() })
}

func TestWhatWaitsOfACancelledTaskIsNotRead(t *testing.T) {
	b, o := newBoss(t), newPlace(t)
	start(t, b, o, t.TempDir(), 1<<30)
	s := b.session(0)
	o.gate = make(chan struct{})
	const blocks = 10 * defaultSourceReads
	f := o.put(t, "f", make([]byte, blocks*block))
	s.task(1, f, 0, f.GetSize())
	until(t, "the source is not read", func() bool { return o.opened.Load() == defaultSourceReads })
	s.order(&wirepb.WorkerOrder{Order: &wirepb.WorkerOrder_Cancel{Cancel: &wirepb.CancelTask{Id: 1}}})
	s.done(1)
	close(o.gate)
	g := o.put(t, "g", make([]byte, block))
	s.task(2, g, 0, block)
	if done, _ := s.done(2); done.GetStatus() != wirepb.Status_STATUS_OK {
		t.Errorf("a task after it: %+v", done)
	}
	if n := o.opened.Load(); n != defaultSourceReads+1 {
		t.Errorf("%d reads of the source, want those under way, %d, and one", n, defaultSourceReads)
	}
	// Somebody else may want it.
	s.task(3, f, 0, f.GetSize())
	if done, _ := s.done(3); done.GetCachedBytes() != f.GetSize() {
		t.Errorf("the same range again: %+v", done)
	}
}

func TestARetiredWorkerKeepsNothing(t *testing.T) {
	b, o := newBoss(t), newPlace(t)
	start(t, b, o, t.TempDir(), 1<<20)
	s := b.session(0)
	f := o.put(t, "f", make([]byte, block))
	s.task(1, f, 0, block)
	s.done(1)
	s.order(&wirepb.WorkerOrder{Order: &wirepb.WorkerOrder_Retire{Retire: &wirepb.Retire{}}})
	until(t, "it does not say that it retired", func() bool {
		for _, r := range s.all() {
			if r.GetRetired() != nil {
				return true
			}
		}
		return false
	})
	if !s.held()[f.GetKey()].GetDropped() {
		t.Error("it retired before it told what it dropped")
	}
	s.task(2, f, 0, block)
	if done, _ := s.done(2); done.GetStatus() != wirepb.Status_STATUS_NO_SPACE || done.GetCachedBytes() != 0 {
		t.Errorf("%+v", done)
	}
}

// TestWorkersThatDisagreeOnTheMembershipNeverWaitForEachOther has two workers
// that each take the other for the only owner.
func TestWorkersThatDisagreeOnTheMembershipNeverWaitForEachOther(t *testing.T) {
	o := newPlace(t)
	data := bytes.Repeat([]byte("x"), 6*block)
	f := o.put(t, "f", data)
	addresses := make([]string, 2)
	for i := range addresses {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addresses[i] = l.Addr().String()
		l.Close()
	}
	sockets := make([]string, 2)
	for i := range addresses {
		b := newBoss(t, &wirepb.Member{Name: "other", Address: addresses[1-i], CapacityBytes: 1})
		sockets[i] = filepath.Join(t.TempDir(), "s")
		w, err := New(Config{
			Name: "me", Listen: addresses[i], Socket: sockets[i], Master: b.addr, Mounts: o.mounts(), BlockBytes: block, SourceReads: 1, PeerReads: 1,
			Tiers: []store.Tier{{Dirs: []store.Dir{{Path: t.TempDir(), QuotaBytes: 1 << 20}}}}, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			<-done
		})
		until(t, "no members", func() bool { return w.view.Count() == 1 })
	}
	var wg sync.WaitGroup
	for _, socket := range sockets {
		wg.Go(func() {
			l, err := wire.DialLocal(t.Context(), socket, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			file, err := l.Open(ctx, f, 6*block)
			if err != nil {
				t.Error(err)
				return
			}
			defer file.Close()
			got := make([]byte, len(data))
			if _, err := file.File().ReadAt(got, 0); err != nil || !file.Complete() || !bytes.Equal(got, data) {
				t.Errorf("complete %t, %v", file.Complete(), err)
			}
		})
	}
	wg.Wait()
}

// heldPeer owns everything and answers when open is closed.
type heldPeer struct {
	came chan wire.Range
	open chan struct{}
	file *os.File
}

type heldContent struct{ file *os.File }

func (c heldContent) File() *os.File { return c.file }
func (heldContent) Close() error     { return nil }

func (p *heldPeer) Keep(wire.Range) error { return wire.ErrNoSpace }

func (p *heldPeer) ServeRange(ctx context.Context, r wire.Range) (wire.Content, error) {
	p.came <- r
	select {
	case <-p.open:
		return heldContent{p.file}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestManySmallBlocksComeFromPeersInPlaceOfAWholeOne: what bounds them is memory.
func TestManySmallBlocksComeFromPeersInPlaceOfAWholeOne(t *testing.T) {
	o := newPlace(t)
	data := bytes.Repeat([]byte("x"), block)
	all, err := os.Create(filepath.Join(t.TempDir(), "all"))
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	if _, err := all.Write(data); err != nil {
		t.Fatal(err)
	}
	peer := &heldPeer{came: make(chan wire.Range, 100), open: make(chan struct{}), file: all}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	defer served.Wait()
	defer cancel()
	served.Go(func() { _ = wire.NewServer(peer, wire.ServerOptions{}).Serve(ctx, l) })

	b := newBoss(t, &wirepb.Member{Name: "other", Address: l.Addr().String(), CapacityBytes: 1})
	socket := filepath.Join(t.TempDir(), "s")
	w, err := New(Config{
		Name: "me", Listen: "127.0.0.1:0", Socket: socket, Master: b.addr, Mounts: o.mounts(), BlockBytes: block, PeerReads: 1,
		Tiers: []store.Tier{{Dirs: []store.Dir{{Path: t.TempDir(), QuotaBytes: 1 << 30}}}}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	defer func() {
		cancel()
		<-done
	}()
	until(t, "no members", func() bool { return w.view.Count() == 1 })
	local, err := wire.DialLocal(t.Context(), socket, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	var opened sync.WaitGroup
	open := func(name string, size int) {
		f := o.put(t, name, data[:size])
		opened.Go(func() {
			file, err := local.Open(t.Context(), f, int64(size))
			if err != nil {
				t.Error(err)
				return
			}
			defer file.Close()
			got := make([]byte, size)
			if _, err := file.File().ReadAt(got, 0); err != nil || !file.Complete() || !bytes.Equal(got, data[:size]) {
				t.Errorf("%s: complete %t, %v", name, file.Complete(), err)
			}
		})
	}
	const small = smallPeerReads
	for i := range small {
		open(fmt.Sprintf("small-%d", i), 100+i)
	}
	for range small {
		select {
		case <-peer.came:
		case <-time.After(time.Minute):
			t.Fatal("small blocks wait for each other")
		}
	}
	if w.fetch.peer.TryAcquire(1) {
		t.Error("they are not counted")
	}
	open("whole", block)
	close(peer.open)
	opened.Wait()
}
