package standalone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/component"
	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/master"
	"github.com/millrace/millrace/runtime/profiles"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// Daemon serves one mount point: alone, as master, worker and client in one
// process that speak over Unix sockets of theirs; or as the client of a cache
// whose master is elsewhere.
type Daemon struct {
	RunDir     string
	MountPoint string // as canonical gives it
	// Name labels the metrics; the mount point if empty.
	Name   string
	Config *contract.RuntimeConfig
	// Open opens sources that are not directories of this machine.
	Open component.OpenSource
	// Wait is how long a source or a master elsewhere may take to answer.
	Wait time.Duration
	// Lazy mounts although a source does not answer.
	Lazy bool
	// Master is host:port of a master elsewhere, and WorkerSocket the socket of
	// a worker of this machine, if there is one.
	Master, WorkerSocket string
	// StateDir is where the listings are kept for the next start, in a directory
	// of this mount point's; empty for nowhere.
	StateDir string
	// Metrics and Profiles are addresses, empty for nowhere.
	Metrics, Profiles string
	Version, LogFile  string
	// Secrets are KEY=FILE for the sources that a master elsewhere tells of.
	Secrets []string
	// TLS is what the master elsewhere, its workers and this client speak.
	TLS wire.TLSFiles
	// Ready is called when the tree can be read.
	Ready func()

	// lock is never closed: whoever waits for it waits for the end of the process.
	lock *os.File
}

// At sets the mount point, and the log if nobody says where.
func (d *Daemon) At(mountPoint string) (err error) {
	if d.MountPoint, err = canonical(mountPoint); err != nil {
		return err
	}
	if d.LogFile == "" {
		d.LogFile = defaultLogFile(idOf(d.MountPoint))
	}
	// The daemon in the background has another directory.
	for _, file := range []*string{&d.LogFile, &d.StateDir, &d.TLS.CA, &d.TLS.Certificate, &d.TLS.Key} {
		if *file == "" {
			continue
		}
		if *file, err = filepath.Abs(*file); err != nil {
			return err
		}
	}
	return nil
}

// Check tells whether a daemon of these words can make sense.
func (d *Daemon) Check() error {
	if p := placeOf(d.RunDir, d.MountPoint); len(p.dir) > maxPlace {
		return fmt.Errorf("--run-dir %s is too long: a Unix socket's path may have 107 bytes", d.RunDir)
	}
	if d.Master != "" {
		return nil
	}
	switch {
	case len(d.Config.Mounts) == 0:
		return errors.New("what to mount: name a source, such as s3://bucket/prefix, or --mount /path=source")
	case len(d.Config.Worker.TieredStoreLevels) == 0:
		return errors.New("where to cache: say --cache DIR:SIZE, such as --cache /var/cache/millrace:100Gi")
	}
	return checkPlaces(d.Config, d.MountPoint)
}

// lockPatience is how long a daemon that is on its way out may take.
const lockPatience = 2 * time.Second

// Run serves until ctx ends or somebody unmounts.
func (d *Daemon) Run(ctx context.Context) error {
	place := placeOf(d.RunDir, d.MountPoint)
	lock, err := place.lock(ctx, lockPatience)
	if errors.Is(err, errTaken) {
		return fmt.Errorf("%s is mounted already; end that with: millrace unmount %s", d.MountPoint, d.MountPoint)
	}
	if err != nil {
		return fmt.Errorf("take %s: %w", d.MountPoint, err)
	}
	d.lock = lock
	defer func() { _ = place.clean() }()
	if d.Name == "" {
		d.Name = d.MountPoint
	}
	if err := d.prepare(ctx); err != nil {
		return err
	}
	if err := place.write(d.state()); err != nil {
		return err
	}
	// A directory that the daemon is in could not be unmounted.
	if err := os.Chdir("/"); err != nil {
		return err
	}
	err = d.serve(ctx, place)
	if errors.Is(err, component.ErrUnmounted) || ctx.Err() != nil && errors.Is(err, context.Canceled) {
		slog.InfoContext(ctx, "unmounted", "mountPoint", d.MountPoint)
		return nil
	}
	return err
}

func (d *Daemon) state() State {
	s := State{
		MountPoint: d.MountPoint, Name: d.Name, PID: os.Getpid(), Born: born(os.Getpid()), StartedAt: time.Now(),
		Version: d.Version, Master: d.Master, LogFile: d.LogFile,
	}
	for _, m := range d.Config.Mounts {
		s.Sources = append(s.Sources, component.WithoutUser(m.MountPoint))
	}
	return s
}

// prepare takes away a dead predecessor's mount, makes the directories of the
// cache and looks whether the sources are there.
func (d *Daemon) prepare(ctx context.Context) error {
	if err := fuse.Detach(d.MountPoint); err != nil {
		return err
	}
	if d.Master != "" {
		told, err := configOf(ctx, d.Master, d.TLS, d.Wait, d.Secrets)
		if err != nil {
			return err
		}
		adopt(d.Config, told)
		return nil
	}
	if err := makeCaches(d.Config); err != nil {
		return err
	}
	return d.look(ctx)
}

// makeCaches makes the directories that are missing, for no one else to read:
// sources may be more private than the directory above.
func makeCaches(c *contract.RuntimeConfig) error {
	for _, level := range c.Worker.TieredStoreLevels {
		for _, dir := range level.MountPaths {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return fmt.Errorf("make the cache directory: %w", err)
			}
		}
	}
	return nil
}

// look asks each source whether it is there, so that a wrong word or key is
// told now and not by the first read.
func (d *Daemon) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.Wait)
	defer cancel()
	var group errgroup.Group
	for _, m := range d.settings("", "").Mounts() {
		group.Go(func() error {
			st, err := m.Open(ctx)
			if err == nil {
				_, err = st.Stat(ctx, "")
				st.Close()
			}
			if err == nil || d.Lazy && errors.Is(err, source.ErrUnavailable) {
				return nil
			}
			if !strings.Contains(err.Error(), m.URI) {
				err = fmt.Errorf("%s: %w", m.URI, err)
			}
			if errors.Is(err, source.ErrUnavailable) || ctx.Err() != nil {
				return fmt.Errorf("%w; with --lazy it is mounted all the same, and tried again", err)
			}
			return err
		})
	}
	return group.Wait()
}

func (d *Daemon) settings(name, masterAt string) *component.Settings {
	return &component.Settings{
		RuntimeConfig: d.Config, Dataset: d.Name, Name: name, Node: hostname(),
		MasterAddress: masterAt, Version: d.Version, OpenSource: here(d.Open),
	}
}

func (d *Daemon) stateDir() string {
	if d.StateDir == "" {
		return ""
	}
	return filepath.Join(d.StateDir, idOf(d.MountPoint))
}

// member is the name in the membership and in the master's log.
func (d *Daemon) member() string {
	if d.Master == "" {
		return "local"
	}
	return hostname() + ":" + d.MountPoint
}

// serve runs the components until ctx ends or one of them does.
func (d *Daemon) serve(ctx context.Context, p place) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	masterAt := d.Master
	if masterAt == "" {
		masterAt = p.rpc()
	}
	s := d.settings(d.member(), masterAt)
	registry := component.NewRegistry(s)
	secure, err := component.NewTLS(d.TLS)
	if err != nil {
		return component.Hopeless{Err: err}
	}
	conn, err := wire.DialMasterTLS(masterAt, secure)
	if err != nil {
		return err
	}
	defer conn.Close()
	c := &control{stop: stop, conn: conn, registry: registry, state: d.state(), local: d.Master == ""}
	group, ctx := errgroup.WithContext(ctx)
	if d.Master == "" {
		d.Config.Worker.Replicas = 1
		d.WorkerSocket = p.worker()
		group.Go(func() error {
			return component.RunMaster(ctx, s, registry, component.MasterPlace{RPC: p.rpc(), StateDir: d.stateDir(), Register: func(g *grpc.Server, m *master.Master) {
				registerFacts(g, d.Config, m)
			}})
		})
		group.Go(func() error {
			return component.RunWorker(ctx, s, registry, component.WorkerPlace{Data: p.data(), Socket: p.worker()})
		})
	}
	group.Go(func() error { return component.ServeHTTP(ctx, wire.UnixAddress(p.control()), c.handler()) })
	group.Go(func() error {
		return component.ServeHTTP(ctx, d.Metrics, component.HealthHandler(registry, func() error { return nil }))
	})
	group.Go(func() error {
		c.rate.run(ctx, c.given)
		return nil
	})
	group.Go(func() error { return profiles.Serve(ctx, d.Profiles) })
	group.Go(func() error {
		if d.Master == "" {
			if err := waitForWorker(ctx, conn); err != nil {
				return err
			}
		}
		return explain(component.RunClient(ctx, s, registry, component.ClientPlace{Dir: d.MountPoint, Socket: d.WorkerSocket, TLS: d.TLS, Mounted: func() {
			slog.InfoContext(ctx, "mounted", "mountPoint", d.MountPoint)
			if d.Ready != nil {
				d.Ready()
			}
		}}))
	})
	return group.Wait()
}

// explain adds what to do to errors of a machine that does not let us mount.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: to mount needs root, or CAP_SYS_ADMIN and /dev/fuse", err)
	case errors.Is(err, unix.ENOENT) && strings.Contains(err.Error(), "/dev/fuse"), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: load the kernel module (modprobe fuse); a container needs --device /dev/fuse", err)
	default:
		return err
	}
}

// waitForWorker returns when the master knows a worker: what is read before
// would pass by the cache.
func waitForWorker(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := wirepb.NewMasterClient(conn).Watch(ctx, &wirepb.WatchRequest{Client: "mount"}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	for {
		event, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("wait for the worker: %w", err)
		}
		if len(event.GetMembers().GetWorkers()) > 0 {
			return nil
		}
	}
}
