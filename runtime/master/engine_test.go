package master_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

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

// cache is a whole engine in this process, over real sockets and directories.
type cache struct {
	t       *testing.T
	master  *master.Master
	address string
	mounts  []namespace.Mount
}

func newCache(t *testing.T, workers int, dirs map[string]string) *cache {
	t.Helper()
	slog.SetLogLoggerLevel(slog.LevelWarn)
	c := &cache{t: t}
	for at, dir := range dirs {
		c.mounts = append(c.mounts, namespace.Mount{Path: at, URI: "local://" + dir, Open: func(context.Context) (source.Store, error) {
			return posix.Open(dir, "local://"+dir)
		}})
	}
	m, err := master.New(master.Options{Mounts: c.mounts, Workers: workers, TTL: time.Second, StripeBytes: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	c.master = m
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.address = listener.Addr().String()
	server := grpc.NewServer()
	m.Register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		m.Close()
		server.Stop()
		<-served
	})
	for i := range workers {
		c.startWorker(i)
	}
	return c
}

func (c *cache) startWorker(i int) { c.workerAt(i, c.t.TempDir()) }

// workerAt runs a worker over a directory until the test or stop ends it.
func (c *cache) workerAt(i int, dir string) (stop func()) { return c.workerWith(i, dir, 1<<30) }

// workerWith runs one with room for so many bytes.
func (c *cache) workerWith(i int, dir string, quota int64) (stop func()) {
	c.t.Helper()
	w, err := worker.New(worker.Config{
		Name: fmt.Sprintf("w%d", i), Node: fmt.Sprintf("n%d", i), Listen: "127.0.0.1:0", Socket: c.socket(i), Master: c.address, Mounts: c.mounts,
		Tiers: []store.Tier{{Medium: "SSD", Dirs: []store.Dir{{Path: dir, QuotaBytes: quota}}, High: 0.95, Low: 0.7}},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			c.t.Errorf("worker %d: %v", i, err)
		}
	})
	c.t.Cleanup(stop)
	return stop
}

func (c *cache) socket(i int) string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("millrace-%d-%p-%d.sock", os.Getpid(), c, i))
}

func (c *cache) reader() *reader.Reader {
	c.t.Helper()
	r, err := reader.New(reader.Config{Name: "r", Node: "n0", Master: c.address, Socket: c.socket(0), Mounts: c.mounts})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { r.Close() })
	return r
}

func (c *cache) load(r *wirepb.LoadRequest) *wirepb.LoadProgress {
	c.t.Helper()
	conn, err := wire.DialMaster(c.address)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	stream, err := wirepb.NewMasterClient(conn).Load(c.t.Context(), r)
	if err != nil {
		c.t.Fatal(err)
	}
	var last *wirepb.LoadProgress
	for {
		p, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return last
		}
		if err != nil {
			c.t.Fatal(err)
		}
		last = p
	}
}

// readAll reads every file below a directory, and compares it with its source.
func readAll(t *testing.T, r *reader.Reader, ino uint64, dir string) (files int) {
	t.Helper()
	nodes, err := r.ReadDir(t.Context(), ino)
	if err != nil {
		t.Fatal(err)
	}
	for n := range nodes.From(0) {
		at := filepath.Join(dir, n.Name)
		if info, err := os.Stat(at); err == nil && info.IsDir() {
			files += readAll(t, r, n.Ino, at)
			continue
		} else if err != nil {
			continue // another mount
		}
		want, err := os.ReadFile(at)
		if err != nil {
			t.Fatal(err)
		}
		got, err := read(t.Context(), r, n)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d, %v", at, len(got), len(want), err)
		}
		files++
	}
	return files
}

func read(ctx context.Context, r *reader.Reader, n fuse.Node) ([]byte, error) {
	f, err := r.Open(ctx, n.Ino)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := make([]byte, n.Size)
	got, err := f.ReadAt(ctx, p, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return p[:got], err
}

func TestTheEngineInOneProcess(t *testing.T) {
	outer, inner := t.TempDir(), t.TempDir()
	random := rand.NewChaCha8([32]byte{1})
	for name, size := range map[string]int{
		outer + "/big": 20 << 20, outer + "/a/small": 100, outer + "/empty": 0, inner + "/x y": 5 << 20, inner + "/d/e/f": 1,
	} {
		data := make([]byte, size)
		_, _ = random.Read(data)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	c := newCache(t, 2, map[string]string{"/": outer, "/a/in": inner})
	r := c.reader()
	if n := readAll(t, r, namespace.RootIno, outer); n != 3 {
		t.Errorf("read %d files of the outer mount", n)
	}
	if p := c.load(&wirepb.LoadRequest{Id: "1"}); p.GetPhase() != contract.LoadComplete || p.GetFilesDone() != 5 {
		t.Errorf("load %v", p)
	}
	in, err := r.Lookup(t.Context(), namespace.RootIno, "a")
	if err == nil {
		in, err = r.Lookup(t.Context(), in.Ino, "in")
	}
	if err != nil {
		t.Fatal(err)
	}
	if n := readAll(t, r, in.Ino, inner); n != 2 {
		t.Errorf("read %d files of the inner mount", n)
	}
	sum := c.master.Summary()
	if sum.CachedBytes != sum.UFSTotalBytes || sum.UFSTotalBytes != 25<<20+101 || sum.FileNum != 5 {
		t.Errorf("summary %+v", sum)
	}
	if p := c.load(&wirepb.LoadRequest{Id: "2", Targets: []*wirepb.LoadTarget{{Path: "/", Replicas: 2}}}); p.GetPhase() != contract.LoadComplete {
		t.Errorf("load of two copies: %v", p)
	}
	deadline := time.Now().Add(2 * time.Minute)
	for {
		sum := c.master.Summary()
		if len(sum.Workers) == 2 && sum.Workers[0].Complete && sum.Workers[1].Complete && sum.CachedBytes == sum.UFSTotalBytes {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("summary %+v", sum)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
