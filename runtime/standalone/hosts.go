package standalone

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/component"
	"github.com/millrace/millrace/runtime/master"
	"github.com/millrace/millrace/runtime/profiles"
	"github.com/millrace/millrace/runtime/wire"
)

// DefaultWorkerSocket is where the worker of a machine listens for its clients.
func DefaultWorkerSocket() string { return contract.WorkerSocket }

func hostname() string {
	if name, err := os.Hostname(); err == nil {
		return name
	}
	return "localhost"
}

// Master is the master of a cache on several hosts.
type Master struct {
	Config *contract.RuntimeConfig
	// Listen is where it serves gRPC, HTTP health and metrics.
	Listen, HTTP, Profiles string
	// StateDir is where the listings are kept for the next start; empty for nowhere.
	StateDir string
	// Name labels the metrics. Workers is how many workers there shall be.
	Name, Version string
	Workers       int
	TLS           wire.TLSFiles
	// Open opens sources that are not directories of this machine.
	Open component.OpenSource
}

// Run serves until ctx ends.
func (m *Master) Run(ctx context.Context) error {
	if len(m.Config.Mounts) == 0 {
		return component.Hopeless{Err: errors.New("what to cache: name a source, such as s3://bucket/prefix, or --mount /path=source")}
	}
	for _, mount := range m.Config.Mounts {
		if dir, ok := localDir(mount.MountPoint); ok {
			if _, err := os.Stat(dir); err != nil {
				return fmt.Errorf("source %s: %w", dir, err)
			}
		}
	}
	m.Config.Worker.Replicas = int32(m.Workers)
	s := &component.Settings{RuntimeConfig: m.Config, Dataset: m.Name, Name: hostname(), Node: hostname(), Version: m.Version, OpenSource: here(m.Open)}
	r := component.NewRegistry(s)
	return withProfiles(ctx, m.Profiles, func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		// Not all that a master serves in a pod: there, /v1/retire empties the cache.
		group.Go(func() error {
			return component.ServeHTTP(ctx, m.HTTP, component.HealthHandler(r, func() error { return nil }))
		})
		group.Go(func() error { return m.serve(ctx, s, r) })
		return group.Wait()
	})
}

func (m *Master) serve(ctx context.Context, s *component.Settings, r *component.Registry) error {
	return component.RunMaster(ctx, s, r, component.MasterPlace{RPC: m.Listen, TLS: m.TLS, StateDir: m.StateDir, Register: func(g *grpc.Server, of *master.Master) {
		registerFacts(g, m.Config, of)
	}})
}

// Worker is the worker of one host.
type Worker struct {
	// Master is host:port. Config has the cache's levels; the sources are those
	// that the master tells, with Secrets of this host.
	Master  string
	Config  *contract.RuntimeConfig
	Secrets []string
	// Listen is where it serves peers, who reach it at Advertise: if empty, the
	// address by which this host reaches the master.
	Listen, Advertise string
	Socket            string
	HTTP, Profiles    string
	// Member is its name, the same after a restart; Node its machine's. Name
	// labels the metrics.
	Member, Node, Name, Version string
	TLS                         wire.TLSFiles
	// Wait is how long the master may take to answer.
	Wait time.Duration
	// Open opens sources that are not directories of this machine.
	Open component.OpenSource
}

// Run serves until ctx ends.
func (w *Worker) Run(ctx context.Context) error {
	if len(w.Config.Worker.TieredStoreLevels) == 0 {
		return component.Hopeless{Err: errors.New("where to cache: say --cache DIR:SIZE, such as --cache /var/cache/millrace:100Gi")}
	}
	told, err := configOf(ctx, w.Master, w.TLS, w.Wait, w.Secrets)
	if err != nil {
		return err
	}
	adopt(w.Config, told)
	if err := checkPlaces(w.Config, ""); err != nil {
		return err
	}
	if err := makeCaches(w.Config); err != nil {
		return err
	}
	if w.Socket != "" {
		if err := os.MkdirAll(filepath.Dir(w.Socket), 0o755); err != nil {
			return fmt.Errorf("make the directory of the socket: %w", err)
		}
	}
	if w.Advertise, err = advertised(w.Listen, w.Advertise, w.Master); err != nil {
		return err
	}
	if w.Member == "" {
		w.Member = hostname()
	}
	if w.Node == "" {
		w.Node = hostname()
	}
	s := &component.Settings{
		RuntimeConfig: w.Config, Dataset: w.Name, Name: w.Member, Node: w.Node, MasterAddress: w.Master,
		Version: w.Version, OpenSource: here(w.Open),
	}
	r := component.NewRegistry(s)
	return withProfiles(ctx, w.Profiles, func(ctx context.Context) error {
		return component.RunWorker(ctx, s, r, component.WorkerPlace{Data: w.Listen, HTTP: w.HTTP, Socket: w.Socket, Advertise: w.Advertise, TLS: w.TLS})
	})
}

// advertised is the address that peers are told: what the user says, else the
// one listened on, with the machine's own address if that is any address.
func advertised(listen, advertise, masterAt string) (string, error) {
	if advertise != "" {
		return advertise, nil
	}
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", component.Hopeless{Err: fmt.Errorf("--listen %q: write it as host:port or :port: %w", listen, err)}
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return net.JoinHostPort(host, port), nil
	}
	conn, err := net.Dial("udp", masterAt) // sends nothing: it finds the route
	if err != nil {
		return "", fmt.Errorf("find the address by which this host reaches the master; say --advertise host:port: %w", err)
	}
	defer conn.Close()
	host, _, err = net.SplitHostPort(conn.LocalAddr().String())
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(host, port), nil
}

// DefaultWait is how long a master or a source may take to answer before a start
// is given up.
const DefaultWait = time.Minute

// configOf asks a master for its sources, and adds the secrets of this host.
func configOf(ctx context.Context, masterAt string, files wire.TLSFiles, wait time.Duration, secrets []string) (*contract.RuntimeConfig, error) {
	secure, err := component.NewTLS(files)
	if err != nil {
		return nil, component.Hopeless{Err: err}
	}
	conn, err := wire.DialMasterTLS(masterAt, secure)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("it did not answer within %s", wait))
	defer cancel()
	c := &contract.RuntimeConfig{}
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = 100*time.Millisecond, time.Second
	for { // a master that ends while it is asked may come back
		err := ask(ctx, conn, configMethod, c)
		if err == nil {
			return c, addSecrets(c.Mounts, secrets)
		}
		if status.Code(err) != codes.Unavailable || ctx.Err() != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry.NextBackOff()):
		}
	}
}

// adopt takes in what a master tells: its sources, and its options where this
// host has none of its own.
func adopt(own, told *contract.RuntimeConfig) {
	own.Mounts = told.Mounts
	for _, c := range []struct{ own, told *contract.ComponentConfig }{
		{&own.Master, &told.Master}, {&own.Worker, &told.Worker}, {&own.Client, &told.Client},
	} {
		options := maps.Clone(c.told.Options)
		if options == nil {
			options = map[string]string{}
		}
		maps.Copy(options, c.own.Options)
		c.own.Options = options
	}
}

// withProfiles serves profiles for as long as run runs.
func withProfiles(ctx context.Context, address string, run func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer cancel()
		return run(ctx)
	})
	group.Go(func() error { return profiles.Serve(ctx, address) })
	return group.Wait()
}
