package fuse

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"github.com/prometheus/client_golang/prometheus"
)

// Options of a mount. The tree is always read-only.
type Options struct {
	// Dir is the mount point; it is made if need be, and dead mounts at it
	// are taken away.
	Dir string
	// Device is the kernel's end of a mount that someone else has made; nil
	// mounts at Dir.
	Device Device
	// Logger defaults to slog.Default.
	Logger *slog.Logger
	// Profile is how files are opened; ProfileLarge if empty.
	Profile Profile
	// Metrics is where the counters are registered, if anywhere.
	Metrics prometheus.Registerer
}

// Profile is how the kernel opens the files of a mount.
type Profile string

const (
	// ProfileLarge is for large files: each open is a request, answered with a
	// backing file when the local copy is complete (passthrough).
	ProfileLarge Profile = "large"
	// ProfileSmall is for many small files: the kernel opens and closes files
	// without asking, and asks only for bytes that are not in its page cache.
	// There is no passthrough, and a changed file is noticed by invalidation
	// alone.
	ProfileSmall Profile = "small"
)

// Server answers the kernel for one mount.
type Server struct {
	fs       FileSystem
	dev      Device
	log      *slog.Logger
	requests *requests
	protocol *protocol
	m        *metrics

	stop     context.CancelFunc // ends housekeeping
	tasks    sync.WaitGroup
	unmount  sync.Once
	unmountE error
	done     chan struct{} // closed when all has ended
}

// Mount mounts fs and answers from then on: when it returns, the tree can be
// read. The FileSystem stays the caller's to close, after Serve has returned.
// The end of ctx unmounts; its values reach the FileSystem.
func Mount(ctx context.Context, fs FileSystem, o Options) (*Server, error) {
	log := o.Logger
	if log == nil {
		log = slog.Default()
	}
	dev := o.Device
	var own *kernelDevice
	if dev == nil {
		var err error
		if own, err = mountKernel(o.Dir); err != nil {
			return nil, err
		}
		dev = own
	}
	s := newServer(ctx, fs, dev, log, newMetrics(o.Metrics), o.Profile == ProfileSmall)
	if own != nil {
		own.stopPolls() // also waits until INIT has been answered
		if err := own.setReadAhead(); err != nil {
			log.Info("read-ahead stays at the kernel's default", "err", err)
		}
	}
	return s, nil
}

func newServer(ctx context.Context, fs FileSystem, dev Device, log *slog.Logger, m *metrics, small bool) *Server {
	s := &Server{fs: fs, dev: dev, log: log, m: m, done: make(chan struct{})}
	s.requests = &requests{
		RawFileSystem: gofuse.NewDefaultRawFileSystem(),
		ctx:           context.WithoutCancel(ctx),
		fs:            fs,
		small:         small,
		nodes:         newNodes(small),
		files:         newOpenFiles(fs, dev, log, m, small),
		dirs:          newOpenDirs(),
		loans:         newLoans(),
		m:             m,
	}
	s.protocol = newProtocol(dev, s.requests, log)
	s.protocol.took = m.took
	s.protocol.loans = s.requests.loans
	s.protocol.undelivered = func(op uint32, node, fh uint64) {
		if op == opOpenDir {
			s.requests.dirs.release(fh)
			return
		}
		s.requests.files.release(node)
	}
	s.protocol.start()

	house, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	s.tasks.Go(func() { s.forward(house) })
	s.tasks.Go(func() { s.expire(house) })
	cancel := context.AfterFunc(ctx, func() { _ = s.Unmount() })
	go func() {
		defer close(s.done)
		s.protocol.wait.Wait()
		cancel()
		stop()
		s.tasks.Wait()
		s.requests.files.closeAll()
		if err := dev.Close(); err != nil {
			log.Warn("close the FUSE device", "err", err)
		}
	}()
	return s
}

// Serve waits until the tree has been unmounted, by Unmount or by others, and
// every file is closed.
func (s *Server) Serve() error {
	<-s.done
	return nil
}

// Unmount ends the mount even while it is in use, and waits until all requests
// have ended: those in hand are interrupted. Files open in passthrough mode stay
// readable for who has them.
func (s *Server) Unmount() error {
	s.unmount.Do(func() { s.unmountE = s.unmountNow() })
	return s.unmountE
}

func (s *Server) unmountNow() error {
	select {
	case <-s.done:
		return nil // others have unmounted
	default:
	}
	if err := s.dev.Unmount(); err != nil {
		return err
	}
	// A request may be read but not yet in the hands of the protocol server:
	// interrupt again until all have ended.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		s.protocol.interruptAll()
		select {
		case <-s.done:
			return nil
		case <-tick.C:
		}
	}
}

// forward tells the kernel what has changed. The channel is always read at
// once: the kernel may make a notification wait for a request that the
// FileSystem answers only after it has told all its invalidations.
func (s *Server) forward(ctx context.Context) {
	var (
		queue  []Invalidation
		queued = map[Invalidation]bool{}
		busy   chan struct{} // closed when the one in hand is done
	)
	events := s.fs.Invalidations()
	for {
		if busy == nil && len(queue) > 0 {
			ev := queue[0]
			queue = queue[1:]
			delete(queued, ev) // from here on it may have changed again
			busy = make(chan struct{})
			s.tasks.Go(func() {
				defer close(busy)
				s.m.invalidations.Inc()
				if err := s.invalidate(ev); err != nil && ctx.Err() == nil {
					s.log.Warn("invalidate", "ino", ev.Ino, "name", ev.Name, "err", err)
				}
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-busy:
			busy = nil
		case ev, ok := <-events:
			switch {
			case !ok:
				events = nil
			case !queued[ev]:
				queue, queued[ev] = append(queue, ev), true
			}
		}
	}
}

// invalidate asks nothing of the FileSystem: there may be an event for each of
// thousands of entries. The kernel asks for the attributes when it needs them,
// and finds out by the answer that another version is another node.
func (s *Server) invalidate(ev Invalidation) error {
	if ev == (Invalidation{}) {
		return s.invalidateAll()
	}
	id, known, dir, at := s.requests.nodes.find(ev.Ino)
	switch {
	case !known:
		return nil
	case ev.Name == "" && at.name != "":
		// Without an OPEN to answer with ESTALE, the name has to go.
		return errors.Join(s.invalidate(Invalidation{Ino: at.parent, Name: at.name}), s.protocol.invalInode(id, -1))
	case ev.Name != "":
		// The kernel drops the cached listing with a name that it knows; a
		// new name it does not know, so the listing is dropped as well.
		return errors.Join(s.protocol.invalEntry(id, ev.Name), s.protocol.invalInode(id, 0))
	case dir:
		return s.protocol.invalInode(id, 0)
	default:
		return s.protocol.invalInode(id, -1) // a node's pages stay right
	}
}

// invalidateAll has the kernel ask again for all that it knows.
func (s *Server) invalidateAll() error {
	var errs []error
	for _, ino := range s.requests.nodes.all() {
		if len(errs) == 0 { // one error tells enough
			if err := s.invalidate(Invalidation{Ino: ino}); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// expire closes files that nobody has opened for a while.
func (s *Server) expire(ctx context.Context) {
	tick := time.NewTicker(pinnedIdle / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.requests.files.expire()
		}
	}
}
