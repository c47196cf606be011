package component

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/reader"
	"github.com/millrace/millrace/runtime/wire"
)

// ClientPlace is where a client mounts, where it serves health and metrics (it
// may be empty), and the socket of the worker on its machine.
type ClientPlace struct {
	Dir, HTTP, Socket string
	// Mounted, if not nil, is called when the tree can be read.
	Mounted func()
	TLS     wire.TLSFiles
}

var errNotMounted = errors.New("not mounted")

// RunClient mounts the dataset until the context ends.
func RunClient(ctx context.Context, s *Settings, r *Registry, at ClientPlace) error {
	master, err := s.MasterAt()
	if err != nil {
		return err
	}
	secure, err := s.TLS(at.TLS)
	if err != nil {
		return err
	}
	options, err := s.readOptions()
	if err != nil {
		return err
	}
	files, err := reader.New(reader.Config{
		Name: s.Name, Node: s.Node, Master: master, Socket: at.Socket, Mounts: s.Mounts(), Registerer: r,
		Bandwidth: options.bandwidth, MemoryBytes: options.memory,
		Peers: wire.ClientOptions{TLS: secure},
	})
	if err != nil {
		return err
	}
	defer func() { _ = files.Close() }()

	var mounted atomic.Bool
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return ServeHTTP(ctx, at.HTTP, HealthHandler(r, func() error {
			if !mounted.Load() {
				return errNotMounted
			}
			return nil
		}))
	})
	group.Go(func() error {
		return s.follow(ctx, sourcesOnly(files.SetMounts), func(now *Settings) error { return now.toClient(files) })
	})
	group.Go(func() error {
		profile := options.profile
		if profile == "" {
			profile = files.Profile(ctx)
		}
		slog.Info("mount", "dir", at.Dir, "profile", profile)
		server, err := fuse.Mount(ctx, files, fuse.Options{Dir: at.Dir, Metrics: r, Profile: profile})
		if err != nil {
			return fmt.Errorf("mount the dataset: %w", err)
		}
		mounted.Store(true)
		defer mounted.Store(false)
		if at.Mounted != nil {
			at.Mounted()
		}
		if err := server.Serve(); err != nil {
			return err
		}
		if ctx.Err() == nil {
			return fmt.Errorf("%s: %w", at.Dir, ErrUnmounted)
		}
		return server.Unmount() // by the end of ctx; tells whether it worked
	})
	return group.Wait()
}

// ErrUnmounted: the mount was taken away by others.
var ErrUnmounted = errors.New("was unmounted by others")
