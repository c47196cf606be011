package component

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/worker"
)

// WorkerPlace is where a worker serves peers, health and metrics, and the
// path of the socket for the readers of its machine. HTTP and Socket may be empty.
type WorkerPlace struct {
	Data, HTTP, Socket string
	// Advertise is how peers reach Data; else it is at the IP of the settings.
	Advertise string
	TLS       wire.TLSFiles
}

// attachTime is how long a worker that starts is not ready for want of a master.
const attachTime = time.Minute

var errNotAttached = errors.New("the master was not told yet what is cached here")

// RunWorker keeps bytes until the context ends.
func RunWorker(ctx context.Context, s *Settings, r *Registry, at WorkerPlace) error {
	tiers, err := tiersOf(s.Worker.TieredStoreLevels)
	if err != nil {
		return err
	}
	keep, err := s.storeOptions()
	if err != nil {
		return err
	}
	master, err := s.MasterAt()
	if err != nil {
		return err
	}
	secure, err := s.TLS(at.TLS)
	if err != nil {
		return err
	}
	config := worker.Config{
		Name: s.Name, Node: s.Node, Listen: at.Data, Socket: at.Socket, Master: master,
		Mounts: s.Mounts(), Tiers: tiers, Store: keep, Version: s.Version, Live: s.LiveTable(contract.ComponentWorker), Registerer: r,
		Peers: wire.ClientOptions{TLS: secure},
	}
	switch {
	case at.Advertise != "":
		config.Advertise = at.Advertise
	case wire.IsUnix(at.Data):
		config.Advertise = at.Data
	case s.IP != "":
		_, port, err := net.SplitHostPort(at.Data)
		if err != nil {
			return fmt.Errorf("--data-address %q: %w", at.Data, err)
		}
		config.Advertise = net.JoinHostPort(s.IP, port)
	}
	w, err := worker.New(config)
	if err != nil {
		return err
	}
	// The worker that is replaced next waits until this one has its place again;
	// not for ever, as readers do without a master.
	alone := time.Now().Add(attachTime)
	ready := func() error {
		if !w.Attached() && time.Now().Before(alone) {
			return errNotAttached
		}
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.Run(ctx) })
	group.Go(func() error {
		return s.follow(ctx, sourcesOnly(w.SetMounts), func(now *Settings) error { return now.toWorker(w) })
	})
	group.Go(func() error {
		return ServeHTTP(ctx, at.HTTP, HealthHandler(r, ready))
	})
	return group.Wait()
}
