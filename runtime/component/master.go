package component

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/master"
	"github.com/millrace/millrace/runtime/wire"
)

// Dead peers are noticed by pings, which peers may send as often.
const (
	pingEvery   = 10 * time.Second
	pingTimeout = 5 * time.Second
	// handshakeTimeout is for those who connect and say nothing, maxStreams for
	// those who ask too much at once: they wait.
	handshakeTimeout = 10 * time.Second
	maxStreams       = 4096
)

// MasterPlace is where a master serves gRPC, and the summary, health and
// metrics (it may be empty).
type MasterPlace struct {
	RPC, HTTP string
	TLS       wire.TLSFiles
	// StateDir is where it saves the metadata, so that it answers at once when
	// it is started again; "" is nowhere.
	StateDir string
	// Register, if not nil, adds services to those of the master.
	Register func(*grpc.Server, *master.Master)
}

// RunMaster serves as the master until the context ends.
func RunMaster(ctx context.Context, s *Settings, r *Registry, at MasterPlace) error {
	opts := master.Options{Mounts: s.Mounts(), MountTable: s.MountTable(), Workers: int(s.Worker.Replicas), StateDir: at.StateDir}
	var err error
	if opts.TTL, err = s.metadataTTL(); err != nil {
		return err
	}
	if opts.WalkRate, err = s.metadataWalkRate(); err != nil {
		return err
	}
	if opts.Replicas, err = s.replicas(); err != nil {
		return err
	}
	if opts.DrainBytes, err = s.drainBandwidth(); err != nil {
		return err
	}
	opts.Leaving, opts.Live = s.Worker.Leaving, s.LiveTable(contract.ComponentMaster)
	secure, err := s.TLS(at.TLS)
	if err != nil {
		return err
	}
	listener, err := wire.Listen(ctx, at.RPC)
	if err != nil {
		return err
	}
	m, err := master.New(opts)
	if err != nil {
		listener.Close()
		return err
	}
	r.MustRegister(m)
	defer r.Unregister(m)
	options := []grpc.ServerOption{
		grpc.ConnectionTimeout(handshakeTimeout), grpc.MaxConcurrentStreams(maxStreams),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingTimeout, PermitWithoutStream: true}),
	}
	if secure != nil && !wire.IsUnix(at.RPC) {
		options = append(options, grpc.Creds(secure.Credentials()))
	}
	server := grpc.NewServer(options...)
	m.Register(server)
	if at.Register != nil {
		at.Register(server, m)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Serve(listener) })
	group.Go(func() error { return s.follow(ctx, m.SetMounts, func(now *Settings) error { return now.toMaster(m) }) })
	group.Go(func() error { return ServeHTTP(ctx, at.HTTP, m.Handler(r.Handler())) })
	group.Go(func() error {
		<-ctx.Done()
		m.Close() // ends the streams, so that the server can stop
		server.Stop()
		return nil
	})
	return group.Wait()
}
