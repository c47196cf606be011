package reader_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/master"
	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/reader"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/posix"
	"github.com/millrace/millrace/runtime/store"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
	"github.com/millrace/millrace/runtime/worker"
)

const (
	mib   = 1 << 20
	block = store.DefaultBlockBytes
)

func TestMain(m *testing.M) {
	if c := os.Getenv("READER_TEST_WORKER"); c != "" {
		workerProcess(c)
		return
	}
	goleak.VerifyTestMain(m)
}

// scene is one cache: a directory as the source, a master, and the workers and
// readers that a test adds. All of it is real and ends with the test.
type scene struct {
	t      testing.TB
	dir    string
	origin *counted
	master *master.Master
	addr   string
	stop   func()
	opts   master.Options
	times  wire.ClientOptions
}

// counted counts what is read from a source, and can make it slow.
type counted struct {
	dir   string
	bytes atomic.Int64
	delay atomic.Int64 // nanoseconds before each range
}

type countedStore struct {
	source.Store
	c *counted
}

func (s countedStore) Open(ctx context.Context, o source.Object, off, n int64) (io.ReadCloser, error) {
	if d := s.c.delay.Load(); d > 0 {
		select {
		case <-time.After(time.Duration(d)):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	r, err := s.Store.Open(ctx, o, off, n)
	if err == nil {
		s.c.bytes.Add(n)
	}
	return r, err
}

func (c *counted) mounts() []namespace.Mount {
	return []namespace.Mount{{Path: "/", URI: "pvc://scene", Open: func(context.Context) (source.Store, error) {
		st, err := posix.Open(c.dir, "pvc://scene")
		return countedStore{st, c}, err
	}}}
}

func newScene(t testing.TB, change func(*master.Options)) *scene {
	t.Helper()
	s := &scene{t: t, dir: t.TempDir(), times: wire.ClientOptions{Silence: 2 * time.Second, SuspectFor: time.Minute}}
	s.origin = &counted{dir: s.dir}
	s.opts = master.Options{Mounts: s.origin.mounts(), StripeBytes: 2 * block, Workers: 1, Logger: quiet(), TTL: time.Hour}
	if change != nil {
		change(&s.opts)
	}
	return s
}

// up starts the master. That is when the source is listed, so the files are
// there by then.
func (s *scene) up() {
	s.t.Helper()
	if s.master != nil {
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = l.Addr().String()
	s.startMaster(l)
	s.t.Cleanup(func() { s.stop() })
}

func (s *scene) startMaster(l net.Listener) {
	m, err := master.New(s.opts)
	if err != nil {
		s.t.Fatal(err)
	}
	server := grpc.NewServer()
	m.Register(server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(l)
	}()
	s.master = m
	s.stop = sync.OnceFunc(func() {
		m.Close()
		server.Stop()
		<-done
	})
}

func quiet() *slog.Logger {
	if os.Getenv("READER_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

// content is what the file of a name has: another name or another place, other
// bytes. It repeats itself but for the number in each page, to be quick to make.
func content(name string, size int) []byte {
	const page = 4096
	var seed [32]byte
	copy(seed[:], name)
	p := make([]byte, size)
	n, _ := rand.NewChaCha8(seed).Read(p[:min(size, 16*page)])
	for n < size {
		n += copy(p[n:], p[:n])
	}
	for at := 0; at+8 <= size; at += page {
		binary.LittleEndian.PutUint64(p[at:], uint64(at)^binary.LittleEndian.Uint64(seed[:]))
	}
	return p
}

// put writes a file to the source.
func (s *scene) put(name string, data []byte) {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// workerConfig is the worker of a node; its socket is at socket(node).
func (s *scene) workerConfig(node, dir string, quota int64) worker.Config {
	return worker.Config{
		Name: "worker-" + node, Node: node, Listen: "127.0.0.1:0", Socket: s.socket(node), Master: s.addr,
		Mounts: s.origin.mounts(), Logger: quiet(), Peers: s.times,
		Tiers: []store.Tier{{Medium: "SSD", Dirs: []store.Dir{{Path: dir, QuotaBytes: quota}}, High: 0.95, Low: 0.7}},
	}
}

func (s *scene) socket(node string) string { return filepath.Join(s.dir+"-run", node+".sock") }

// worker runs a worker in this process until stop or the end of the test.
func (s *scene) worker(node string, quota int64) (stop func()) {
	s.t.Helper()
	return s.workerIn(node, s.t.TempDir(), quota)
}

func (s *scene) workerIn(node, dir string, quota int64) (stop func()) {
	s.t.Helper()
	os.MkdirAll(s.dir+"-run", 0o755)
	s.t.Cleanup(func() { os.RemoveAll(s.dir + "-run") })
	s.up()
	w, err := worker.New(s.workerConfig(node, dir, quota))
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(stop)
	s.until("the worker does not attach", func() bool { return s.attached("worker-" + node) })
	return stop
}

func (s *scene) workers() int { return len(s.master.Summary().Workers) }

func (s *scene) attached(name string) bool {
	for _, w := range s.master.Summary().Workers {
		if w.Name == name {
			return true
		}
	}
	return false
}

// childWorker is a worker in a process of its own, to be killed.
type childWorker struct {
	Name, Node, Socket, Master, Source, Dir string
	Quota                                   int64
}

func workerProcess(text string) {
	var c childWorker
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		panic(err)
	}
	origin := &counted{dir: c.Source}
	w, err := worker.New(worker.Config{
		Name: c.Name, Node: c.Node, Listen: "127.0.0.1:0", Socket: c.Socket, Master: c.Master, Mounts: origin.mounts(), Logger: quiet(),
		Tiers: []store.Tier{{Medium: "SSD", Dirs: []store.Dir{{Path: c.Dir, QuotaBytes: c.Quota}}}},
	})
	if err != nil {
		panic(err)
	}
	go func() { // no orphan outlives the test
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	w.Run(context.Background())
}

// workerProcess starts a worker in its own process.
func (s *scene) workerProcess(node string, quota int64) *exec.Cmd {
	s.t.Helper()
	s.up()
	os.MkdirAll(s.dir+"-run", 0o755)
	s.t.Cleanup(func() { os.RemoveAll(s.dir + "-run") })
	config, err := json.Marshal(childWorker{
		Name: "worker-" + node, Node: node, Socket: s.socket(node), Master: s.addr, Source: s.dir, Dir: s.t.TempDir(), Quota: quota,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "READER_TEST_WORKER="+string(config))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGCONT)
		cmd.Process.Kill()
		in.Close()
		cmd.Wait()
	})
	s.until("the worker does not attach", func() bool { return s.attached("worker-" + node) })
	return cmd
}

// reader makes the reader of a node; without a node it has no local worker.
func (s *scene) reader(node string, change func(*reader.Config)) *reader.Reader {
	s.t.Helper()
	r := s.mountable(node, change)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for range r.Invalidations() {
		}
	}()
	s.t.Cleanup(func() {
		r.Close()
		<-drained
	})
	return r
}

// mountable is a reader whose invalidations are for the mount to take.
func (s *scene) mountable(node string, change func(*reader.Config)) *reader.Reader {
	s.t.Helper()
	s.up()
	c := reader.Config{
		Name: "reader", Node: node, Master: s.addr, Mounts: s.origin.mounts(), Logger: quiet(), Peers: s.times,
		MasterWait: 10 * time.Second, MemoryBytes: 8 * block,
	}
	if node != "" {
		c.Socket = s.socket(node)
	}
	if change != nil {
		change(&c)
	}
	r, err := reader.New(c)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { r.Close() })
	want := s.workers()
	s.until("the reader does not hear of the workers", func() bool { return r.Workers() >= want })
	return r
}

// load runs a load job to its end.
func (s *scene) load(request *wirepb.LoadRequest) *wirepb.LoadProgress {
	s.t.Helper()
	conn, err := wire.DialMaster(s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	stream, err := wirepb.NewMasterClient(conn).Load(s.t.Context(), request)
	if err != nil {
		s.t.Fatal(err)
	}
	for {
		p, err := stream.Recv()
		if err != nil {
			s.t.Fatal(err)
		}
		if p.GetPhase() != contract.LoadRunning {
			return p
		}
	}
}

func (s *scene) until(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s; the master says %+v", what, s.master.Summary())
		}
	}
}

// readDir lists a directory.
func readDir(ctx context.Context, r *reader.Reader, ino uint64) ([]fuse.Node, error) {
	l, err := r.ReadDir(ctx, ino)
	if err != nil {
		return nil, err
	}
	return slices.Collect(l.From(0)), nil
}

// find walks to a path.
func find(ctx context.Context, r *reader.Reader, path string) (fuse.Node, error) {
	n := fuse.Node{Ino: fuse.RootIno}
	for _, name := range strings.Split(path, "/") {
		var err error
		if n, err = r.Lookup(ctx, n.Ino, name); err != nil {
			return n, err
		}
	}
	return n, nil
}

// open opens a path.
func (s *scene) open(r *reader.Reader, path string) fuse.File {
	s.t.Helper()
	n, err := find(s.t.Context(), r, path)
	if err != nil {
		s.t.Fatal(err)
	}
	f, err := r.Open(s.t.Context(), n.Ino)
	if err != nil {
		s.t.Fatal(err)
	}
	return f
}

// readAll reads a file from start to end.
func readAll(ctx context.Context, f fuse.File, size, step int) ([]byte, error) {
	got := make([]byte, size)
	for off := 0; off < size; off += step {
		want := got[off:min(size, off+step)]
		if n, err := f.ReadAt(ctx, want, int64(off)); n != len(want) || err != nil {
			return got[:off], fmt.Errorf("read %d at %d: got %d: %w", len(want), off, n, err)
		}
	}
	return got, nil
}

// check reads a path and compares.
func (s *scene) check(r *reader.Reader, path string, want []byte) {
	s.t.Helper()
	f := s.open(r, path)
	defer f.Close()
	got, err := readAll(s.t.Context(), f, len(want), mib+4096)
	if err != nil {
		s.t.Errorf("%s: %v", path, err)
	} else if !bytes.Equal(got, want) {
		s.t.Errorf("%s: wrong bytes", path)
	}
}
