package master

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testBlock  = 10
	testStripe = 40
)

// flat is a source of files without directories, in memory.
type flat struct {
	mu    sync.Mutex
	files map[string]source.Object
	err   error
}

func newFlat(sizes map[string]int64) *flat {
	s := &flat{files: map[string]source.Object{}}
	for name, size := range sizes {
		s.put(name, "v1", size)
	}
	return s
}

func (s *flat) put(name, etag string, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[name] = source.Object{Path: name, Size: size, ETag: etag}
}

func (s *flat) Stat(_ context.Context, p string) (source.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p == "" {
		return source.Object{Dir: true}, s.err
	}
	o, ok := s.files[p]
	if !ok {
		return o, source.ErrNotExist
	}
	return o, s.err
}

func (s *flat) List(_ context.Context, _ string, each func(source.Object) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		if err := each(s.files[name]); err != nil {
			return err
		}
	}
	return nil
}

func (s *flat) Open(context.Context, source.Object, int64, int64) (io.ReadCloser, error) {
	return nil, source.ErrUnavailable
}
func (s *flat) String() string { return "mem://flat" }
func (s *flat) Close() error   { return nil }

// stand is a master behind a real socket.
type stand struct {
	*Master
	t      *testing.T
	client wirepb.MasterClient
}

func newStand(t *testing.T, opts Options, sources map[string]source.Store) *stand {
	t.Helper()
	for at, s := range sources {
		opts.Mounts = append(opts.Mounts, namespace.Mount{Path: at, URI: s.String(), Open: func(context.Context) (source.Store, error) { return s, nil }})
	}
	opts.BlockBytes, opts.StripeBytes = testBlock, testStripe
	if opts.Grace == 0 {
		opts.Grace = 50 * time.Millisecond
	}
	m, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	m.Register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		m.Close()
		server.Stop()
		<-served
	})
	s := &stand{m, t, wirepb.NewMasterClient(conn)}
	s.until("the sources are walked", func() bool {
		for _, mount := range m.tree.MountStates() {
			if !mount.Tried || mount.Err == nil && !mount.Walked {
				return false
			}
		}
		return true
	})
	return s
}

func (s *stand) until(what string, ok func() bool) {
	s.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			s.t.Fatalf("never: %s; summary %+v", what, s.Summary())
		}
		time.Sleep(time.Millisecond)
	}
}

// hand is a worker of a test: it holds what it is told to load, unless does says otherwise.
type hand struct {
	name   string
	stream wirepb.Master_AttachClient
	cancel context.CancelFunc
	ended  chan struct{}
	does   func(*hand, *wirepb.Task)

	mu        sync.Mutex
	blocks    map[string][]byte
	tasks     int
	cancelled []uint64
	forgot    []string
	retired   bool
}

func (s *stand) attach(name string, does func(*hand, *wirepb.Task), holdings ...*wirepb.Holding) *hand {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := s.client.Attach(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	h := &hand{name: name, stream: stream, cancel: cancel, ended: make(chan struct{}), does: does, blocks: map[string][]byte{}}
	if h.does == nil {
		h.does = (*hand).keep
	}
	h.report(&wirepb.WorkerReport{Report: &wirepb.WorkerReport_Hello{Hello: &wirepb.Hello{Member: &wirepb.Member{
		Name: name, Address: name + ":1", Node: "node-" + name, CapacityBytes: 1000,
	}}}})
	h.report(&wirepb.WorkerReport{Report: &wirepb.WorkerReport_Holdings{Holdings: &wirepb.Holdings{Holdings: holdings, Synced: true}}})
	go h.run()
	s.t.Cleanup(h.leave)
	s.until(name+" is a member", func() bool { return slices.Contains(s.workers0(), name) })
	return h
}

func (s *stand) workers0() []string {
	var names []string
	for _, w := range s.Summary().Workers {
		names = append(names, w.Name)
	}
	return names
}

func (h *hand) leave() {
	h.cancel()
	<-h.ended
}

func (h *hand) report(r *wirepb.WorkerReport) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_ = h.stream.Send(r)
}

func (h *hand) run() {
	defer close(h.ended)
	for {
		order, err := h.stream.Recv()
		if err != nil {
			return
		}
		switch {
		case order.GetTask() != nil:
			h.mu.Lock()
			h.tasks++
			h.mu.Unlock()
			h.does(h, order.GetTask())
		case order.GetCancel() != nil:
			h.mu.Lock()
			h.cancelled = append(h.cancelled, order.GetCancel().GetId())
			h.mu.Unlock()
		case order.GetForget() != nil:
			h.mu.Lock()
			h.forgot = append(h.forgot, order.GetForget().GetKeys()...)
			h.mu.Unlock()
			var gone []*wirepb.Holding
			for _, k := range order.GetForget().GetKeys() {
				gone = append(gone, &wirepb.Holding{Key: k, Dropped: true})
			}
			h.report(&wirepb.WorkerReport{Report: &wirepb.WorkerReport_Holdings{Holdings: &wirepb.Holdings{Holdings: gone}}})
		case order.GetRetire() != nil:
			h.mu.Lock()
			h.retired = true
			h.mu.Unlock()
			h.report(&wirepb.WorkerReport{Report: &wirepb.WorkerReport_Retired{Retired: &wirepb.Retired{}}})
		}
	}
}

// keep does a task: the answer first, the holdings after.
func (h *hand) keep(t *wirepb.Task) {
	h.answer(t, wirepb.Status_STATUS_OK, t.GetLength(), "")
	h.mu.Lock()
	size := t.GetObject().GetSize()
	blocks := h.blocks[t.GetObject().GetKey()]
	if blocks == nil {
		blocks = make([]byte, (size/testBlock+8)/8)
		h.blocks[t.GetObject().GetKey()] = blocks
	}
	for at := t.GetOffset(); at < t.GetOffset()+t.GetLength(); at += testBlock {
		blocks[at/testBlock/8] |= 1 << (at / testBlock % 8)
	}
	said := slices.Clone(blocks)
	h.mu.Unlock()
	h.report(&wirepb.WorkerReport{Report: &wirepb.WorkerReport_Holdings{Holdings: &wirepb.Holdings{
		Holdings: []*wirepb.Holding{{Key: t.GetObject().GetKey(), Size: size, Blocks: said}},
	}}})
}

func (h *hand) answer(t *wirepb.Task, how wirepb.Status, cached int64, message string) {
	h.report(&wirepb.WorkerReport{Report: &wirepb.WorkerReport_Done{Done: &wirepb.TaskDone{
		Id: t.GetId(), Status: how, CachedBytes: cached, Message: message,
	}}})
}

func (h *hand) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tasks
}

// load runs a load to its end.
func (s *stand) load(r *wirepb.LoadRequest) *wirepb.LoadProgress {
	s.t.Helper()
	stream, err := s.client.Load(s.t.Context(), r)
	if err != nil {
		s.t.Fatal(err)
	}
	var last *wirepb.LoadProgress
	for {
		p, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return last
		}
		if err != nil {
			s.t.Fatal(err)
		}
		last = p
	}
}

var someFiles = map[string]int64{"empty": 0, "small": 7, "block": 10, "mid": 95, "large": 1003}

const someBytes = 0 + 7 + 10 + 95 + 1003

func TestALoadBringsEverythingIntoTheCache(t *testing.T) {
	s := newStand(t, Options{}, map[string]source.Store{"/": newFlat(someFiles), "/b": newFlat(map[string]int64{"x": 50})})
	a, b := s.attach("a", nil), s.attach("b", nil)
	p := s.load(&wirepb.LoadRequest{Id: "1"})
	if p.GetPhase() != contract.LoadComplete || p.GetBytesDone() != someBytes+50 || p.GetBytesTotal() != someBytes+50 || p.GetFilesDone() != 6 || p.GetFilesTotal() != 6 {
		t.Errorf("ended %v", p)
	}
	sum := s.Summary()
	if sum.CachedBytes != someBytes+50 || sum.UFSTotalBytes != sum.CachedBytes || sum.FileNum != 6 || !sum.MetadataComplete {
		t.Errorf("summary %+v", sum)
	}
	if one := sum.Workers[0].CachedBytes + sum.Workers[1].CachedBytes; one != someBytes+50 {
		t.Errorf("workers hold %d", one)
	}
	if a.count() == 0 || b.count() == 0 {
		t.Errorf("tasks: a %d, b %d", a.count(), b.count())
	}
	before := a.count() + b.count()
	if p := s.load(&wirepb.LoadRequest{Id: "2", LoadMetadata: true}); p.GetPhase() != contract.LoadComplete {
		t.Errorf("again: %v", p)
	}
	if after := a.count() + b.count(); after != before {
		t.Errorf("%d tasks for what was there", after-before)
	}
	if p := s.load(&wirepb.LoadRequest{Id: "3", Targets: []*wirepb.LoadTarget{{Path: "/b", Replicas: 2}}}); p.GetPhase() != contract.LoadComplete || p.GetBytesTotal() != 50 {
		t.Errorf("a directory, twice: %v", p)
	}
	s.until("both copies are counted", func() bool {
		sum := s.Summary()
		return sum.CachedBytes == someBytes+50 && sum.Workers[0].CachedBytes+sum.Workers[1].CachedBytes == someBytes+100
	})
}

func TestALoadThatCannotEndSaysWhy(t *testing.T) {
	noSpace := func(h *hand, t *wirepb.Task) {
		if t.GetObject().GetPath() == "mid" {
			h.answer(t, wirepb.Status_STATUS_NO_SPACE, 0, "full")
			return
		}
		h.keep(t)
	}
	denied := func(h *hand, t *wirepb.Task) {
		h.answer(t, wirepb.Status_STATUS_DENIED, 0, "mem://flat/mid: access denied")
	}
	cases := map[string]struct {
		does    func(*hand, *wirepb.Task)
		target  string
		message string
	}{
		"the cache has no room":     {noSpace, "/", "cached 1020.00B of 1.09KiB (91.5%), 1 of 5 files failed: the cache has no room for the rest; raise the quota or the replicas"},
		"the source says no":        {denied, "/mid", "cached 0.00B of 95.00B (0.0%), 1 of 1 files failed: /mid: mem://flat/mid: access denied"},
		"there is no such path":     {nil, "/nowhere", "load /nowhere: /nowhere: does not exist"},
		"the path goes over a file": {nil, "/mid/x", "load /mid/x: /mid is not a directory: does not exist"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, Options{}, map[string]source.Store{"/": newFlat(someFiles)})
			s.attach("a", tc.does)
			p := s.load(&wirepb.LoadRequest{Id: "1", Targets: []*wirepb.LoadTarget{{Path: tc.target}}})
			if p.GetPhase() != contract.LoadFailed || p.GetMessage() != tc.message {
				t.Errorf("ended %v", p)
			}
		})
	}
}

func TestALoadOutlivesItsWorkersAndItsLoader(t *testing.T) {
	s := newStand(t, Options{}, map[string]source.Store{"/": newFlat(map[string]int64{"large": 4000})})
	var a *hand
	died := make(chan struct{})
	a = s.attach("a", func(h *hand, task *wirepb.Task) {
		h.keep(task)
		if h.count() == 5 {
			close(died)
			h.cancel()
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := s.client.Load(ctx, &wirepb.LoadRequest{Id: "1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel() // the loader's pod is gone
	<-died
	<-a.ended
	s.until("a left", func() bool { return len(s.Summary().Workers) == 0 })
	if n := s.Summary().CachedBytes; n != 0 {
		t.Errorf("%d bytes are held by nobody", n)
	}
	s.attach("b", nil)
	if p := s.load(&wirepb.LoadRequest{Id: "1"}); p.GetPhase() != contract.LoadComplete || p.GetBytesDone() != 4000 {
		t.Errorf("ended %v", p)
	}
}

func TestALoadFollowsChangesOfItsFiles(t *testing.T) {
	files := newFlat(someFiles)
	s := newStand(t, Options{}, map[string]source.Store{"/": files})
	once := sync.OnceFunc(func() {
		files.put("large", "v2", 500)
		files.mu.Lock()
		delete(files.files, "mid")
		files.mu.Unlock()
	})
	s.attach("a", func(h *hand, task *wirepb.Task) {
		once()
		o := task.GetObject()
		if o.GetPath() == "mid" {
			h.answer(task, wirepb.Status_STATUS_NOT_EXIST, 0, "gone")
		} else if o.GetPath() == "large" && o.GetEtag() == "v1" {
			h.answer(task, wirepb.Status_STATUS_CHANGED, 0, "changed")
		} else {
			h.keep(task)
		}
	})
	p := s.load(&wirepb.LoadRequest{Id: "1"})
	if want := int64(7 + 10 + 500); p.GetPhase() != contract.LoadComplete || p.GetBytesDone() != want || p.GetBytesTotal() != want || p.GetFilesDone() != 4 {
		t.Errorf("ended %v", p)
	}
	if sum := s.Summary(); sum.UFSTotalBytes != sum.CachedBytes || sum.FileNum != 4 {
		t.Errorf("summary %+v", sum)
	}
}

func TestAWorkerTellsAnewWhatItHas(t *testing.T) {
	files := newFlat(someFiles)
	s := newStand(t, Options{Grace: time.Hour}, map[string]source.Store{"/": files})
	key := func(name string) string {
		e, err := s.tree.Resolve(t.Context(), "/"+name)
		if err != nil {
			t.Fatal(err)
		}
		return keyText(objectKey(e))
	}
	stale := strings.Repeat("ab", 16)
	mid := key("mid")
	a := s.attach("a", nil,
		&wirepb.Holding{Key: key("small"), Size: 7, Complete: true},
		&wirepb.Holding{Key: mid, Size: 95, Blocks: []byte{0b00000011, 0b10}},
		&wirepb.Holding{Key: stale, Size: 12, Complete: true})
	s.until("the holdings are counted", func() bool { return s.Summary().CachedBytes == 7+20+5 })
	s.until("the stale file is to be forgotten", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return slices.Contains(a.forgot, stale)
	})
	b := s.attach("b", nil, &wirepb.Holding{Key: mid, Size: 95, Blocks: []byte{0b00000110}})
	s.until("the union is counted", func() bool { return s.Summary().CachedBytes == 7+30+5 })
	a.leave()
	b.leave()
	if sum := s.Summary(); len(sum.Workers) != 2 || sum.CachedBytes != 7+30+5 {
		t.Errorf("in the grace: %+v", sum)
	}
	a = s.attach("a", nil, &wirepb.Holding{Key: mid, Size: 95, Complete: true})
	s.until("the new report replaces the old", func() bool { return s.Summary().CachedBytes == 95 })
	files.put("mid", "v2", 90)
	if _, err := s.client.Refresh(t.Context(), &wirepb.LookupRequest{Ino: namespace.RootIno, Name: "mid"}); err != nil {
		t.Fatal(err)
	}
	s.until("the old version is to be forgotten", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return slices.Contains(a.forgot, mid) && s.Summary().CachedBytes == 0
	})
}

func TestWatchersHearOfMembersAndChanges(t *testing.T) {
	files := newFlat(someFiles)
	s := newStand(t, Options{}, map[string]source.Store{"/": files})
	if err := s.tree.WaitKnown(t.Context(), "/"); err != nil {
		t.Fatal(err)
	}
	stream, err := s.client.Watch(t.Context(), &wirepb.WatchRequest{Client: "test"})
	if err != nil {
		t.Fatal(err)
	}
	next := func() *wirepb.WatchEvent {
		t.Helper()
		e, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	first := next().GetMembers()
	for first == nil { // the end of the walk may be told before the members are
		first = next().GetMembers()
	}
	if len(first.GetWorkers()) != 0 || first.GetStripeBytes() != testStripe || first.GetReplicas() != 1 {
		t.Fatalf("first event %v", first)
	}
	a := s.attach("a", nil)
	if e := next().GetMembers(); len(e.GetWorkers()) != 1 || e.GetWorkers()[0].GetAddress() != "a:1" || e.GetEpoch() <= first.GetEpoch() {
		t.Errorf("after a came: %v", e)
	}
	a.leave()
	if e := next().GetMembers(); e == nil || len(e.GetWorkers()) != 0 {
		t.Errorf("after a left: %v", e)
	}
	files.put("new", "v1", 1)
	if _, err := s.client.Refresh(t.Context(), &wirepb.LookupRequest{Ino: namespace.RootIno, Name: "new"}); err != nil {
		t.Fatal(err)
	}
	if e := next(); len(e.GetInvalidations()) != 1 || e.GetInvalidations()[0].GetName() != "new" {
		t.Errorf("after a change: %v", e)
	}
}

func TestASlowWatcherIsToldToResync(t *testing.T) {
	w := &watcher{ready: make(chan struct{}, 1), pending: map[namespace.Invalidation]struct{}{}}
	for i := range maxPending + 10 {
		w.invalidate([]namespace.Invalidation{{Ino: uint64(i)}})
	}
	_, resync, pending := w.take()
	if !resync || len(pending) > 10 {
		t.Errorf("resync %v, %d pending", resync, len(pending))
	}
}

func TestTheSourcesOwnAnswerReachesTheCaller(t *testing.T) {
	bad := newFlat(nil)
	bad.err = fmt.Errorf("list mem://flat: %w", source.ErrDenied)
	s := newStand(t, Options{}, map[string]source.Store{"/good": newFlat(someFiles), "/bad": bad})
	root, err := s.client.Lookup(t.Context(), &wirepb.LookupRequest{Ino: namespace.RootIno, Name: "bad"})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := s.client.ReadDir(t.Context(), &wirepb.ReadDirRequest{Ino: root.GetIno()})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("below the bad mount: %v", err)
	}
	mounts := s.Summary().Mounts
	if mounts[0].Ready || mounts[0].Reason != contract.MountDenied || !strings.Contains(mounts[0].Message, "mem://flat") || !strings.Contains(mounts[0].Message, "encryptOptions") {
		t.Errorf("bad: %+v", mounts[0])
	}
	if !mounts[1].Ready || mounts[1].Reason != contract.MountReady || mounts[1].Bytes != someBytes || mounts[1].Files != 5 {
		t.Errorf("good: %+v", mounts[1])
	}
	if s.Summary().MetadataComplete {
		t.Error("the metadata is not complete")
	}
	if p := s.load(&wirepb.LoadRequest{Id: "1"}); p.GetPhase() != contract.LoadFailed || !strings.Contains(p.GetMessage(), "denied") {
		t.Errorf("load %v", p)
	}
}

func TestALoadWaitsForASourceThatDoesNotAnswer(t *testing.T) {
	s := newStand(t, Options{}, map[string]source.Store{"/": newFlat(someFiles)})
	var once sync.Map
	s.attach("a", func(h *hand, task *wirepb.Task) {
		if _, again := once.LoadOrStore(task.GetObject().GetPath(), true); !again {
			h.answer(task, wirepb.Status_STATUS_UNAVAILABLE, 0, "mem://flat: connection refused")
			return
		}
		h.keep(task)
	})
	if p := s.load(&wirepb.LoadRequest{Id: "1"}); p.GetPhase() != contract.LoadComplete || p.GetBytesDone() != someBytes {
		t.Errorf("ended %v", p)
	}
}

func TestALoadDoesNotFailWithItsMaster(t *testing.T) {
	s := newStand(t, Options{}, map[string]source.Store{"/": newFlat(someFiles)})
	s.attach("a", func(*hand, *wirepb.Task) {})
	stream, err := s.client.Load(t.Context(), &wirepb.LoadRequest{Id: "1"})
	if err != nil {
		t.Fatal(err)
	}
	s.until("the load runs", func() bool { return len(s.Summary().Loads) == 1 })
	s.Close()
	for err == nil {
		var p *wirepb.LoadProgress
		if p, err = stream.Recv(); err == nil && p.GetPhase() != contract.LoadRunning {
			t.Errorf("the loader was told %v", p)
		}
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("ended with %v", err)
	}
}

func TestALoadWithoutWorkersEnds(t *testing.T) {
	s := newStand(t, Options{WorkerWait: time.Second}, map[string]source.Store{"/": newFlat(someFiles)})
	p := s.load(&wirepb.LoadRequest{Id: "1"})
	if p.GetPhase() != contract.LoadFailed || !strings.Contains(p.GetMessage(), "no worker was connected") {
		t.Errorf("ended %v", p)
	}
}

func (s *stand) readDir(r *wirepb.ReadDirRequest) []*wirepb.Entries {
	s.t.Helper()
	stream, err := s.client.ReadDir(s.t.Context(), r)
	if err != nil {
		s.t.Fatal(err)
	}
	var all []*wirepb.Entries
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, e)
	}
}

func TestWhatADirectoryHasIsNotSentTwice(t *testing.T) {
	const count = 5000
	files := newFlat(nil)
	for i := range count {
		files.put(fmt.Sprintf("image-%06d.jpg", i), "v1", 7)
	}
	s := newStand(t, Options{TTL: time.Hour}, map[string]source.Store{"/m": files})
	dir, err := s.client.Lookup(t.Context(), &wirepb.LookupRequest{Ino: namespace.RootIno, Name: "m"})
	if err != nil {
		t.Fatal(err)
	}
	read := func(known map[string]string) (record []byte, entries map[string]uint64, fetched int) {
		r := &wirepb.ReadDirRequest{Ino: dir.GetIno(), Pages: true}
		for id := range known {
			r.KnownPages = append(r.KnownPages, []byte(id))
		}
		entries = map[string]uint64{}
		var of *wirepb.Directory
		var sheets []*namespace.Sheet
		for i, part := range s.readDir(r) {
			if i == 0 {
				record, of = part.GetRecord(), part.GetDirectory()
			}
			for _, p := range part.GetPages() {
				data, ok := known[string(p.GetId())]
				if !ok {
					data = string(p.GetData())
					known[string(p.GetId())] = data
					fetched++
				}
				sheet, err := namespace.NewSheet(namespace.RecordOf(p.GetId()), data)
				if err != nil {
					t.Fatal(err)
				}
				sheets = append(sheets, sheet)
			}
		}
		c, err := namespace.NewCopy(namespace.Listing{Ino: dir.GetIno(), Mount: of.GetMount(), Path: of.GetPath()}, of.GetHash(), of.GetInodes(), of.GetMounts(), sheets)
		if err != nil {
			t.Fatal(err)
		}
		for e := range c.From(0) {
			entries[e.Name] = e.Ino
		}
		return record, entries, fetched
	}
	known := map[string]string{}
	record, entries, fetched := read(known)
	if len(entries) != count || fetched < 5 {
		t.Errorf("%d entries in %d pages", len(entries), fetched)
	}
	byName := map[string]uint64{}
	after := ""
	for { // the same, a few at a time
		parts := s.readDir(&wirepb.ReadDirRequest{Ino: dir.GetIno(), After: after, Limit: 999})
		if len(parts) == 0 || len(parts[0].GetEntries()) == 0 {
			break
		}
		for _, e := range parts[0].GetEntries() {
			byName[e.GetName()], after = e.GetIno(), e.GetName()
		}
	}
	if !maps.Equal(byName, entries) {
		t.Errorf("%d entries one way, %d the other", len(byName), len(entries))
	}
	if parts := s.readDir(&wirepb.ReadDirRequest{Ino: dir.GetIno(), Record: record}); len(parts) != 1 || !parts[0].GetNotModified() {
		t.Errorf("what is known was sent again: %d messages", len(parts))
	}
	stream, err := s.client.Watch(t.Context(), &wirepb.WatchRequest{Client: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := stream.Recv(); err != nil || len(e.GetSnapshot()) != 16 {
		t.Errorf("first event %v, %v", e, err)
	}
	files.put("image-002500.jpg", "v2", 8)
	reply, err := s.client.Revalidate(t.Context(), &wirepb.RevalidateRequest{Path: "/m"})
	if err != nil {
		t.Fatal(err)
	}
	e, err := stream.Recv()
	if err != nil || !slices.Equal(e.GetSnapshot(), reply.GetSnapshot()) || len(e.GetDirectories()) != 1 || e.GetDirectories()[0].GetIno() != dir.GetIno() {
		t.Errorf("event %v, %v; snapshot %x", e, err, reply.GetSnapshot())
	}
	again, entries, fetched := read(known)
	if len(entries) != count || fetched != 1 || slices.Equal(again, record) || !slices.Equal(again, e.GetDirectories()[0].GetRecord()) {
		t.Errorf("after one change: %d entries, %d pages fetched, record %x", len(entries), fetched, again)
	}
}

func TestAMasterKnowsWhatItsPredecessorKnew(t *testing.T) {
	files := newFlat(someFiles)
	dir := t.TempDir()
	first := newStand(t, Options{StateDir: dir}, map[string]source.Store{"/": files})
	want := first.Summary()
	first.Close()
	files.mu.Lock()
	files.err = fmt.Errorf("stat mem://flat: %w", source.ErrUnavailable)
	files.mu.Unlock()
	second := newStand(t, Options{StateDir: dir}, map[string]source.Store{"/": files})
	if got := second.Summary(); got.Snapshot != want.Snapshot || got.UFSTotalBytes != want.UFSTotalBytes || !got.MetadataComplete || got.FileNum != want.FileNum {
		t.Errorf("summary %+v, want %+v", got, want)
	}
	if _, err := second.client.Lookup(t.Context(), &wirepb.LookupRequest{Ino: namespace.RootIno, Name: "small"}); err != nil {
		t.Error(err)
	}
	a := second.attach("a", nil)
	if p := second.load(&wirepb.LoadRequest{Id: "1"}); p.GetPhase() != contract.LoadComplete || a.count() == 0 {
		t.Errorf("load %v", p)
	}
}
