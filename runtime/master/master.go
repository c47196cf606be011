// Package master knows a cache as a whole: the tree of the Dataset, the workers
// and what each of them holds, and the load jobs. It holds no truth: a restarted
// master lists the sources again and hears from the workers what they have.
package master

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// Defaults of Options.
const (
	defaultGrace       = 3 * time.Second
	defaultWorkerWait  = 10 * time.Minute
	defaultStripeBytes = 64 << 20
	defaultBlockBytes  = 4 << 20
	// stateFile is the metadata in the state directory.
	stateFile = "namespace.millrace"
	// keepLoads is for how long a finished load job stays in the summary.
	keepLoads = 10 * time.Minute
)

// Options of a Master. The zero value has defaults for all but Mounts.
type Options struct {
	Mounts []namespace.Mount
	// MountTable names the mounts in the summary.
	MountTable string
	// Live names the rest of the configuration in the summary.
	Live string
	// TTL of listings; see namespace.Options.
	TTL time.Duration
	// StateDir is where the metadata is saved for a restart; "" is nowhere. It is
	// made if it is missing.
	StateDir string
	// WalkRate bounds background walks; see namespace.Options.
	WalkRate float64
	// Replicas is how many workers own each stripe.
	Replicas int
	// StripeBytes is the unit of placement, BlockBytes that of holdings.
	StripeBytes, BlockBytes int64
	// Workers is how many workers there shall be. Placement begins when so many
	// have attached, or after the grace: a master that was restarted would else
	// send everything to the one that comes first.
	Workers int
	// Leaving and DrainBytes are those of SetLeaving and SetDrainBytes.
	Leaving    []string
	DrainBytes int64
	// Grace is for how long a worker whose stream has ended stays a member.
	Grace time.Duration
	// WorkerWait is for how long a load job waits for a worker.
	WorkerWait time.Duration
	Logger     *slog.Logger
}

// Master serves wirepb.Master and the HTTP interface of the contract.
type Master struct {
	wirepb.UnimplementedMasterServer
	opts   Options
	log    *slog.Logger
	tree   *namespace.Tree
	ledger *ledger

	ctx    context.Context // of load jobs, which outlive their callers
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	revision atomic.Int64
	reads    struct{ local, remote, source atomic.Int64 }
	taskIDs  atomic.Uint64

	mu sync.Mutex
	// live names the rest of the configuration that was taken in.
	live string
	// table names the mounts that are served; refused says of paths why they do
	// not have the source that they should have.
	table    string
	refused  map[string]error
	changed  chan struct{} // closed, and made anew, with each revision
	workers  map[string]*worker
	watchers map[*watcher]struct{}
	jobs     map[string]*job
	taskOf   map[uint64]*job // whose task it is
	asked    map[uint64]asked
	over     map[string]over // loads that were cancelled for good, by id
	epoch    int64
	leaving  map[string]struct{} // names of workers that are about to go
	drain    *drain
	retired  bool
	settled  bool // placement has begun
	settling *time.Timer
}

var _ wirepb.MasterServer = (*Master)(nil)

// New makes a master and starts to list the sources.
func New(opts Options) (*Master, error) {
	setDefault(&opts.Grace, defaultGrace)
	setDefault(&opts.WorkerWait, defaultWorkerWait)
	setDefault(&opts.StripeBytes, defaultStripeBytes)
	setDefault(&opts.BlockBytes, defaultBlockBytes)
	setDefault(&opts.Replicas, 1)
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	m := &Master{
		opts: opts, log: opts.Logger, table: opts.MountTable, ledger: newLedger(opts.BlockBytes),
		changed: make(chan struct{}), workers: map[string]*worker{},
		watchers: map[*watcher]struct{}{}, jobs: map[string]*job{}, taskOf: map[uint64]*job{}, asked: map[uint64]asked{},
		over: map[string]over{},
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	save := ""
	if opts.StateDir != "" {
		if err := os.MkdirAll(opts.StateDir, 0o700); err != nil {
			m.cancel()
			return nil, fmt.Errorf("make the master's state directory: %w", err)
		}
		save = filepath.Join(opts.StateDir, stateFile)
	}
	tree, err := namespace.New(opts.Mounts, namespace.Options{
		TTL: opts.TTL, WalkRate: opts.WalkRate, Save: save, OnChange: m.entriesChanged, OnState: m.sourcesChanged, Logger: opts.Logger,
	})
	if err != nil {
		m.cancel()
		return nil, fmt.Errorf("make the tree of the dataset: %w", err)
	}
	m.tree = tree
	m.live = opts.Live
	m.drain = newDrain(m, opts.DrainBytes)
	m.tasks.Go(func() { m.drain.run(m.ctx) })
	m.SetLeaving(opts.Leaving)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.settling = time.AfterFunc(opts.Grace, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.settle()
	})
	return m, nil
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// SetMounts serves other mounts, named by a table; those that stay are not
// looked at anew. refused says of paths why they keep the source that they had.
func (m *Master) SetMounts(mounts []namespace.Mount, table string, refused map[string]error) error {
	if err := m.tree.SetMounts(mounts); err != nil {
		return fmt.Errorf("change the mounts of the dataset: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.table, m.refused = table, refused
	m.bumpLocked()
	return nil
}

// SetLive names the configuration that was taken in last, besides the mounts.
func (m *Master) SetLive(table string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live != table {
		m.live = table
		m.bumpLocked()
	}
}

// SetTTL changes how often the sources are looked at.
func (m *Master) SetTTL(ttl time.Duration) { m.tree.SetTTL(ttl) }

// Register adds the master to a gRPC server.
func (m *Master) Register(s *grpc.Server) { wirepb.RegisterMasterServer(s, m) }

// Close ends the load jobs, the sessions and the work on the sources.
func (m *Master) Close() {
	m.cancel()
	m.tree.Close()
	m.mu.Lock()
	m.settling.Stop()
	for _, w := range m.workers {
		w.stopGrace()
	}
	m.mu.Unlock()
	m.tasks.Wait()
}

// bump says that the summary is another one now.
func (m *Master) bump() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bumpLocked()
}

func (m *Master) bumpLocked() {
	m.revision.Add(1)
	close(m.changed)
	m.changed = make(chan struct{})
}

// changedSignal is closed with the next change of the summary.
func (m *Master) changedSignal() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// entriesChanged takes a change of the tree into the ledger, and tells workers
// and readers. The tree is locked meanwhile.
func (m *Master) entriesChanged(c namespace.Change) {
	dropped := map[*holder][]string{}
	for _, e := range c.Removed {
		k := objectKey(e)
		for _, by := range m.ledger.remove(k) {
			dropped[by] = append(dropped[by], keyText(k))
		}
	}
	for _, e := range c.Added {
		m.ledger.add(objectKey(e), e.Size)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		if keys := dropped[&w.holder]; len(keys) > 0 {
			w.order(&wirepb.WorkerOrder{Order: &wirepb.WorkerOrder_Forget{Forget: &wirepb.Forget{Keys: keys}}})
		}
	}
	for w := range m.watchers {
		w.invalidate(c.Invalid)
	}
	m.bumpLocked()
}

// sourcesChanged hears that a mount has come, gone or was walked.
func (m *Master) sourcesChanged() {
	m.bump()
	m.mu.Lock()
	for w := range m.watchers {
		w.wake() // the tree may have another name
	}
	workers := make([]*worker, 0, len(m.workers))
	for _, w := range m.workers {
		workers = append(workers, w)
	}
	m.mu.Unlock()
	for _, w := range workers {
		m.forgetStale(w)
	}
}

// forgetStale tells a worker to drop what no mount has any more. That can only
// be known once every mount was walked.
func (m *Master) forgetStale(w *worker) {
	if !m.tree.Totals().Complete {
		return
	}
	stale := m.ledger.stale(&w.holder)
	if len(stale) == 0 {
		return
	}
	keys := make([]string, len(stale))
	for i, k := range stale {
		keys[i] = keyText(k)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	w.order(&wirepb.WorkerOrder{Order: &wirepb.WorkerOrder_Forget{Forget: &wirepb.Forget{Keys: keys}}})
}
