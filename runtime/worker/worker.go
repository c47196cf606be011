// Package worker is the cache server of one node: it keeps blocks in its store,
// reads those it owns from the sources, gets others from their owners, and gives
// them to peers over TCP and to the processes of its node as descriptors.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/origin"
	"github.com/millrace/millrace/runtime/peers"
	"github.com/millrace/millrace/runtime/store"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// Config of a Worker.
type Config struct {
	// Name is the same over restarts: the pod's name. Node is where it runs.
	Name, Node string
	// Listen is the address of the data plane, Advertise how peers reach it; the
	// address it listens on if empty.
	Listen, Advertise string
	// Socket is the path of the Unix socket for the node's readers; none if empty.
	Socket string
	// Master is host:port of the master's gRPC.
	Master string
	Mounts []namespace.Mount
	Tiers  []store.Tier
	// Store says how files are kept: Policy, TTL, ScrubBytes and MoveBytes.
	Store store.Options
	// Live names the configuration for the master; see Change.
	Live string
	// BlockBytes is store.DefaultBlockBytes if 0.
	BlockBytes int64
	// SourceReads and PeerReads bound what is read at once, in blocks; 32 and 8
	// if 0. A source is far away and its bytes go to the disk as they come; a
	// block of a peer is held in memory whole, so smaller ones are more.
	SourceReads, PeerReads int
	// Peers are the times and the TLS of the data plane; its TLS is also that of
	// the master.
	Peers      wire.ClientOptions
	Version    string
	Registerer prometheus.Registerer // nil: no metrics are served
	Logger     *slog.Logger
}

const (
	defaultSourceReads = 32
	defaultPeerReads   = 8
)

// lockWait is how long a worker waits for its predecessor to let go of the
// directories.
const lockWait = 30 * time.Second

// Worker caches for one node.
type Worker struct {
	cfg     Config
	log     *slog.Logger
	store   *store.Store
	sources *origin.Sources
	view    peers.View
	client  *wire.Client
	conn    *grpc.ClientConn
	master  wirepb.MasterClient
	data    net.Listener
	local   *net.UnixListener
	m       *metrics
	report  *report
	fetch   *fetcher
	copies  *copies
	share   *share
	server  *wire.Server

	live atomic.Pointer[string]

	// attached is set when the master has first been told all that is held here.
	attached atomic.Bool

	// retire is held shared while a file is acquired, and exclusively to retire.
	retire  sync.RWMutex
	retired bool

	// known is closed when the members are known, or have been waited for long
	// enough: before that nobody can say who owns what.
	known     chan struct{}
	knownOnce sync.Once

	closing sync.Once
}

// knownWait is for how long a worker that starts waits for the members before it
// reads the source as if it were alone.
const knownWait = 5 * time.Second

// New opens the store and listens; Run serves.
func New(cfg Config) (_ *Worker, err error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.SourceReads <= 0 {
		cfg.SourceReads = defaultSourceReads
	}
	if cfg.PeerReads <= 0 {
		cfg.PeerReads = defaultPeerReads
	}
	w := &Worker{cfg: cfg, log: cfg.Logger, sources: origin.New(cfg.Mounts), client: wire.NewClient(cfg.Peers), report: newReport(),
		known: make(chan struct{})}
	w.live.Store(&cfg.Live)
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	w.store, err = store.Open(context.Background(), store.Options{
		Tiers: cfg.Tiers, BlockBytes: cfg.BlockBytes, Logger: cfg.Logger, LockWait: lockWait,
		Policy: cfg.Store.Policy, TTL: cfg.Store.TTL, ScrubBytes: cfg.Store.ScrubBytes, MoveBytes: cfg.Store.MoveBytes,
		OnChange: func(c store.Change) { w.report.changed(c.Key) },
	})
	if err != nil {
		return nil, err
	}
	if w.data, err = wire.Listen(context.Background(), cfg.Listen); err != nil {
		return nil, fmt.Errorf("listen for peers: %w", err)
	}
	if w.cfg.Advertise == "" {
		w.cfg.Advertise = w.data.Addr().String()
	}
	if cfg.Socket != "" {
		if w.local, err = wire.ListenLocal(cfg.Socket); err != nil {
			return nil, fmt.Errorf("listen for the readers of this node: %w", err)
		}
	}
	if w.conn, err = wire.DialMasterTLS(cfg.Master, cfg.Peers.TLS); err != nil {
		return nil, err
	}
	w.master = wirepb.NewMasterClient(w.conn)
	w.server = wire.NewServer(dataHandler{w}, wire.ServerOptions{
		TLS: cfg.Peers.TLS, Logger: w.log,
		Served: func(r wire.Range, took time.Duration, bytes int64, err error) { w.m.serve(r, took, bytes, err) },
	})
	w.m = newMetrics(cfg.Registerer, w.store, w.server)
	w.fetch, w.copies, w.share = newFetcher(w), newCopies(w), newShare(w)
	return w, nil
}

// Run serves until ctx ends, and then lets go of everything. Files stay for the
// next start.
func (w *Worker) Run(ctx context.Context) error {
	defer w.Close()
	g, ctx := errgroup.WithContext(ctx)
	w.fetch.start(ctx)
	waited := time.AfterFunc(knownWait, w.membersKnown)
	defer waited.Stop()
	g.Go(func() error { return w.server.Serve(ctx, w.data) })
	g.Go(func() error { return w.copies.run(ctx) })
	g.Go(func() error {
		w.share.run(ctx)
		return nil
	})
	if w.local != nil {
		g.Go(func() error { return wire.NewLocalServer(localHandler{w}, w.log).Serve(ctx, w.local) })
	}
	g.Go(func() error {
		w.attach(ctx)
		return nil
	})
	g.Go(func() error {
		peers.Watch(ctx, w.master, &wirepb.WatchRequest{Client: w.cfg.Name, Node: w.cfg.Node}, w.log, w.heard)
		return nil
	})
	err := g.Wait()
	w.fetch.wait()
	return err
}

// Close ends a worker that does not run.
func (w *Worker) Close() {
	w.closing.Do(func() {
		w.client.Close()
		w.sources.Close()
		if w.data != nil {
			w.data.Close()
		}
		if w.local != nil {
			w.local.Close()
		}
		if w.conn != nil {
			w.conn.Close()
		}
		if w.store != nil {
			if err := w.store.Close(); err != nil {
				w.log.Error("close the store", "err", err)
			}
		}
		if w.m != nil {
			w.m.unregister()
		}
	})
}

// SetMounts replaces the sources; files that are being read are not disturbed.
func (w *Worker) SetMounts(mounts []namespace.Mount) { w.sources.Set(mounts) }

// Attached tells whether a master was told all that this worker holds, so that it
// has its place among the others. It stays so when the master goes.
func (w *Worker) Attached() bool { return w.attached.Load() }

// Change takes in other quotas, marks, TTL and rates of the store; live names
// them for the master.
func (w *Worker) Change(o store.Options, live string) {
	w.share.resize(o.Tiers)
	w.store.Change(o)
	w.live.Store(&live)
	w.log.Info("another configuration is taken in", "live", live)
}

// Addr is where the data plane listens.
func (w *Worker) Addr() net.Addr { return w.data.Addr() }

func (w *Worker) heard(event *wirepb.WatchEvent, _ bool) {
	if m := event.GetMembers(); m != nil {
		w.view.Set(m)
		w.client.Forget(w.view.Addresses())
		w.membersKnown()
		w.share.look()
	}
}

func (w *Worker) membersKnown() { w.knownOnce.Do(func() { close(w.known) }) }

// acquire leases the file of o, unless the worker has retired. It is a guest if
// guest says so and this worker owns no part of it.
func (w *Worker) acquire(o *wirepb.Object, guest bool) (*store.File, error) {
	w.retire.RLock()
	defer w.retire.RUnlock()
	if w.retired {
		return nil, fmt.Errorf("%w: the runtime is being deleted", wire.ErrNoSpace)
	}
	guest = guest && !w.view.OwnsAny(w.cfg.Name, o.GetKey(), o.GetSize())
	f, err := w.store.Acquire(store.Key(o.GetKey()), o.GetSize(), guest)
	return f, noSpace(err)
}

// noSpace gives the store's error the name that it has between processes.
func noSpace(err error) error {
	if errors.Is(err, store.ErrNoSpace) {
		return fmt.Errorf("%w: %w", wire.ErrNoSpace, err)
	}
	return err
}

// dropAll obeys Retire: from now on nothing is cached.
func (w *Worker) dropAll() {
	w.retire.Lock()
	w.retired = true
	w.retire.Unlock()
	w.store.DropAll()
	w.log.Info("retired: every cached file is dropped")
}
