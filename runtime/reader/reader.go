// Package reader is the client's way to the bytes of a Dataset: names from the
// master; bytes from the worker of its node, else from their owners, else from
// the source. A read fails only when every way fails.
package reader

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/origin"
	"github.com/millrace/millrace/runtime/peers"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// Config of a Reader. Zero values have defaults where one is named.
type Config struct {
	// Name and Node say to the master who watches.
	Name, Node string
	// Master is host:port of the master's gRPC.
	Master string
	// Socket is the Unix socket of the worker on this node; none if empty.
	Socket string
	// Mounts are the sources, for when no worker can help.
	Mounts []namespace.Mount
	// MaxEntries bounds the single entries that are remembered; 16384 if 0.
	MaxEntries int
	// MetadataBytes bounds the directories that are remembered; 64 MiB if 0, for
	// about 600,000 entries.
	MetadataBytes int64
	// MemoryBytes bounds what is held of remote bytes; 64 MiB if 0.
	MemoryBytes int64
	// Bandwidth bounds the bytes a second that come from other nodes and from
	// the source; what is on this node is not counted. No bound if 0.
	Bandwidth int64
	// MasterWait is for how long a master that does not answer is asked; 30 s if 0.
	MasterWait time.Duration
	// Peers are the times of the data plane and of the local socket, and the TLS
	// of the data plane and of the master.
	Peers      wire.ClientOptions
	Registerer prometheus.Registerer // nil: no metrics are served
	Logger     *slog.Logger
}

const (
	defaultMaxEntries  = 16 << 10
	defaultMetadata    = 64 << 20
	defaultMemoryBytes = 64 << 20
	defaultMasterWait  = 30 * time.Second
	// wholeBytes is the size up to which a file is fetched whole when it is
	// opened, so that its first open can be passthrough.
	wholeBytes = 16 << 20
	// maxVersions is how often an open follows a file that keeps changing.
	maxVersions = 3
	// totalsFor is how long the totals are remembered.
	totalsFor = 5 * time.Second
)

// Reader serves the tree of a Dataset. It is safe for concurrent use.
type Reader struct {
	cfg     Config
	log     *slog.Logger
	conn    *grpc.ClientConn
	master  wirepb.MasterClient
	view    peers.View
	client  *wire.Client
	sources *origin.Sources
	local   *node
	blocks  *blockCache
	names   *names
	dirs    *dirs
	walks   *walks
	tours   *tours
	hedges  *hedger
	limit   *rate.Limiter // lets everything through without Bandwidth
	ensures chan struct{} // a slot for each range that is ensured ahead
	m       *metrics

	ctx     context.Context // of all goroutines
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	events  chan fuse.Invalidation
	closing sync.Once

	snapshot []byte // the name of the tree that was last heard of; of heard alone

	mu         sync.Mutex
	refreshing map[uint64]bool
	totals     *wirepb.StatFSReply
	totalsAt   time.Time
}

var _ fuse.FileSystem = (*Reader)(nil)

// New makes a reader; it works as soon as its master answers. Close ends it.
func New(cfg Config) (*Reader, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.MaxEntries <= 0 {
		cfg.MaxEntries = defaultMaxEntries
	}
	if cfg.MetadataBytes <= 0 {
		cfg.MetadataBytes = defaultMetadata
	}
	if cfg.MemoryBytes <= 0 {
		cfg.MemoryBytes = defaultMemoryBytes
	}
	if cfg.MasterWait <= 0 {
		cfg.MasterWait = defaultMasterWait
	}
	conn, err := wire.DialMasterTLS(cfg.Master, cfg.Peers.TLS)
	if err != nil {
		return nil, err
	}
	r := &Reader{
		cfg: cfg, log: cfg.Logger, conn: conn, master: wirepb.NewMasterClient(conn),
		client: wire.NewClient(cfg.Peers), sources: origin.New(cfg.Mounts),
		names: newNames(cfg.MaxEntries), dirs: newDirs(cfg.MetadataBytes),
		events: make(chan fuse.Invalidation, 1024), refreshing: map[uint64]bool{},
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.hedges, r.limit, r.ensures = newHedger(), newPace(cfg.Bandwidth), make(chan struct{}, maxEnsures)
	r.walks, r.tours = newWalks(r), newTours(r)
	r.blocks = newBlockCache(r.ctx, cfg.MemoryBytes, &r.wg)
	r.m = newMetrics(cfg.Registerer, r.blocks.bytes, r.dirs.bytes, r.walks.count)
	r.blocks.m = r.m
	r.local = newNode(cfg.Socket, cfg.Peers.Silence, r.log)
	r.local.dial(r.ctx) // the first files need not wait for the loop below
	r.wg.Go(func() { r.local.run(r.ctx) })
	r.wg.Go(func() { r.blocks.expire(r.ctx) })
	r.wg.Go(func() { r.walks.expire(r.ctx) })
	r.wg.Go(func() {
		peers.Watch(r.ctx, r.master, &wirepb.WatchRequest{Client: cfg.Name, Node: cfg.Node}, r.log, r.heard)
	})
	return r, nil
}

// Close ends the reader. Files that are open fail from then on, but for what
// they have a descriptor of.
func (r *Reader) Close() error {
	var err error
	r.closing.Do(func() {
		r.mu.Lock() // see background
		r.cancel()
		r.mu.Unlock()
		r.blocks.close()
		r.local.close()
		err = r.conn.Close()
		r.wg.Wait()
		r.blocks.clear()
		r.dirs.clear()
		close(r.events)
		r.client.Close()
		r.sources.Close()
		r.m.unregister()
	})
	return err
}

// SetMounts replaces the sources; files that are being read are not disturbed.
func (r *Reader) SetMounts(mounts []namespace.Mount) { r.sources.Set(mounts) }

// Workers is how many workers are known.
func (r *Reader) Workers() int { return r.view.Count() }

// heard takes in an event of the master.
func (r *Reader) heard(e *wirepb.WatchEvent, fresh bool) {
	if m := e.GetMembers(); m != nil {
		r.view.Set(m)
		r.client.Forget(r.view.Addresses())
		r.hedges.keep(r.view.Addresses())
	}
	// A stream that begins anew with the name of the tree that the last one ended
	// with has missed nothing.
	missed := fresh && (len(e.GetSnapshot()) == 0 || !bytes.Equal(e.GetSnapshot(), r.snapshot))
	if missed || e.GetResync() {
		r.dirs.doubt()
		r.names.clear()
		r.tell(fuse.Invalidation{})
	}
	if fresh || len(e.GetSnapshot()) > 0 {
		r.snapshot = e.GetSnapshot()
	}
	for _, i := range e.GetInvalidations() {
		r.forget(i.GetIno(), i.GetName())
		r.walks.forget(i.GetIno())
		r.tell(fuse.Invalidation{Ino: i.GetIno(), Name: i.GetName()})
	}
}

// background runs work that nobody waits for until the reader is closed; false
// if it is.
func (r *Reader) background(work func(context.Context)) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return false
	}
	r.wg.Go(func() { work(r.ctx) })
	return true
}

// tell passes an invalidation to the kernel's side.
func (r *Reader) tell(i fuse.Invalidation) {
	select {
	case r.events <- i:
	case <-r.ctx.Done():
	}
}

// Invalidations implements fuse.FileSystem.
func (r *Reader) Invalidations() <-chan fuse.Invalidation { return r.events }

// Lookup implements fuse.FileSystem.
func (r *Reader) Lookup(ctx context.Context, parent uint64, name string) (fuse.Node, error) {
	e, err := r.entry(ctx, parent, name)
	if err != nil {
		return fuse.Node{}, err
	}
	return nodeOf(e), nil
}

// Node implements fuse.FileSystem.
func (r *Reader) Node(ctx context.Context, ino uint64) (fuse.Node, error) {
	return r.Lookup(ctx, ino, "")
}

// ReadDir implements fuse.FileSystem.
func (r *Reader) ReadDir(ctx context.Context, ino uint64) (fuse.Listing, error) {
	c, err := r.directory(ctx, ino, 0)
	if err != nil {
		return nil, err
	}
	r.tours.saw(ino)
	return listing{c}, nil
}

// Open implements fuse.FileSystem.
func (r *Reader) Open(ctx context.Context, ino uint64) (fuse.File, error) {
	began := time.Now()
	f, err := r.openNewest(ctx, ino)
	if err != nil {
		return nil, err
	}
	r.m.openSeconds.Observe(time.Since(began).Seconds())
	return f, nil
}

func (r *Reader) openNewest(ctx context.Context, ino uint64) (*file, error) {
	e, err := r.entry(ctx, ino, "")
	for range maxVersions {
		if err != nil {
			return nil, err
		}
		switch e.GetMode() & syscall.S_IFMT {
		case syscall.S_IFREG:
		case syscall.S_IFDIR:
			return nil, syscall.EISDIR
		default:
			return nil, syscall.EINVAL
		}
		if f, ok := r.walks.open(ctx, e); ok {
			return f, nil
		}
		f, errOpen := r.open(ctx, e)
		if !stale(errOpen) {
			return f, errOpen
		}
		was := e.GetObject().GetKey()
		if e, err = r.refresh(ctx, ino); err == nil && e.GetObject().GetKey() == was {
			err = errOpen
		}
	}
	return nil, fmt.Errorf("open inode %d: it keeps changing: %w", ino, source.ErrChanged)
}

// stale tells that the source has another version now, or none.
func stale(err error) bool {
	return errors.Is(err, source.ErrChanged) || errors.Is(err, source.ErrNotExist)
}

// StatFS implements fuse.FileSystem.
func (r *Reader) StatFS(ctx context.Context) (totalBytes, files int64) {
	r.mu.Lock()
	totals, at := r.totals, r.totalsAt
	r.mu.Unlock()
	if totals == nil || time.Since(at) > totalsFor {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if fresh, err := r.master.StatFS(ctx, &wirepb.StatFSRequest{}); err == nil {
			r.mu.Lock()
			r.totals, r.totalsAt = fresh, time.Now()
			r.mu.Unlock()
			totals = fresh
		}
	}
	if totals == nil {
		return -1, -1
	}
	return totals.GetTotalBytes(), totals.GetFiles()
}

// nodeOf is an entry as FUSE sees it.
func nodeOf(e *wirepb.Entry) fuse.Node {
	return fuse.Node{
		Ino: e.GetIno(), Parent: e.GetParent(), Name: e.GetName(), Mode: e.GetMode(), Size: e.GetSize(), ModTime: time.Unix(0, e.GetMtimeNs()),
		Link: e.GetLink(), Version: e.GetObject().GetKey(),
	}
}
