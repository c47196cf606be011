// Package csi is the node plugin fuse.csi.fluid.io: it asks for the FUSE pod of
// a Dataset by labelling its node, waits for the mount, and binds it where the
// kubelet wants it. It also registers itself with the kubelet, and clears the
// mounts that pods left behind. It is the only privileged code that talks to
// the API server.
package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/kubernetes"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/millrace/millrace/apis/contract"
)

// Config of the plugin. All paths are those of the host, and the same in here.
type Config struct {
	NodeName string
	// Endpoint is the plugin's socket, unix:///path; RegistrationDir is where
	// the kubelet looks for plugins. Empty means their places below KubeletDir.
	Endpoint, RegistrationDir string
	// KubeletDir is above every target path, MountRoot above every FUSE.
	KubeletDir, MountRoot string
	// PublishTimeout bounds the wait for a FUSE in one call; the kubelet's own
	// deadline is two minutes, and a shorter one lets our message through.
	PublishTimeout time.Duration
	// ProbeTimeout bounds how long a file system may take to answer statfs.
	ProbeTimeout time.Duration

	Client  kubernetes.Interface
	Logger  *slog.Logger
	Metrics prometheus.Registerer
	Version string
}

// Defaults of a Config.
const (
	DefaultKubeletDir     = "/var/lib/kubelet"
	DefaultPublishTimeout = 110 * time.Second
	defaultProbeTimeout   = 5 * time.Second
)

func (c *Config) complete() error {
	if c.NodeName == "" {
		return errors.New("the node's name is missing")
	}
	if c.KubeletDir == "" {
		c.KubeletDir = DefaultKubeletDir
	}
	if c.MountRoot == "" {
		c.MountRoot = contract.DefaultMountRoot
	}
	if c.Endpoint == "" {
		c.Endpoint = "unix://" + filepath.Join(c.KubeletDir, "plugins", contract.CSIDriver, "csi.sock")
	}
	if c.RegistrationDir == "" {
		c.RegistrationDir = filepath.Join(c.KubeletDir, "plugins_registry")
	}
	if c.PublishTimeout <= 0 {
		c.PublishTimeout = DefaultPublishTimeout
	}
	if c.ProbeTimeout <= 0 {
		c.ProbeTimeout = defaultProbeTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	for _, dir := range []string{c.KubeletDir, c.MountRoot} {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || dir == "/" {
			return fmt.Errorf("%q is not the clean absolute path of a directory below the root", dir)
		}
	}
	if !strings.HasPrefix(c.Endpoint, "unix://") {
		return fmt.Errorf("endpoint %q is not unix://<path>", c.Endpoint)
	}
	return nil
}

// Driver is the plugin on one node.
type Driver struct {
	Config
	metrics *metrics
	probes  *prober
	targets *targetLocks
	sweeper *sweeper
	serving atomic.Bool
}

// New checks the configuration.
func New(c Config) (*Driver, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	d := &Driver{Config: c, metrics: newMetrics(c.Metrics), targets: newTargetLocks()}
	d.probes = newProber(c.ProbeTimeout)
	d.sweeper = newSweeper(c, d.probes, d.metrics)
	return d, nil
}

// Run serves until ctx ends: the plugin's socket first, then the kubelet is
// told of it.
func (d *Driver) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	serve := func(socket string, register func(*grpc.Server)) error {
		listener, err := listen(ctx, socket)
		if err != nil {
			return err
		}
		server := grpc.NewServer(grpc.UnaryInterceptor(d.observe))
		register(server)
		group.Go(func() error { return server.Serve(listener) })
		group.Go(func() error {
			<-ctx.Done()
			server.Stop() // the kubelet asks again
			return nil
		})
		return nil
	}
	endpoint := strings.TrimPrefix(d.Endpoint, "unix://")
	registration := filepath.Join(d.RegistrationDir, contract.CSIDriver+"-reg.sock")
	err := serve(endpoint, func(s *grpc.Server) {
		csiapi.RegisterIdentityServer(s, &identity{driver: d})
		csiapi.RegisterNodeServer(s, &node{Driver: d})
	})
	if err == nil {
		err = serve(registration, func(s *grpc.Server) {
			registerapi.RegisterRegistrationServer(s, &registrar{endpoint: endpoint, log: d.Logger})
		})
	}
	group.Go(func() error { return errors.Join(err, d.sweeper.run(ctx)) })
	if err == nil {
		d.serving.Store(true)
		defer d.serving.Store(false)
		d.Logger.Info("serving", "driver", contract.CSIDriver, "endpoint", d.Endpoint, "node", d.NodeName)
	}
	return group.Wait()
}

// Ready says what keeps the plugin from serving, or nil.
func (d *Driver) Ready() error {
	if !d.serving.Load() {
		return errors.New("the sockets are not served yet")
	}
	if !d.sweeper.synced() {
		return errors.New("the pods of the node are not known yet")
	}
	return nil
}

// listen takes the place of a predecessor's socket.
func listen(ctx context.Context, socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		return nil, fmt.Errorf("make the socket's directory: %w", err)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the former socket: %w", err)
	}
	return (&net.ListenConfig{}).Listen(ctx, "unix", socket)
}

// observe counts every call and logs those that fail.
func (d *Driver) observe(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	start := time.Now()
	reply, err := handle(ctx, req)
	method := info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:]
	d.metrics.calls.WithLabelValues(method, status.Code(err).String()).Observe(time.Since(start).Seconds())
	if err != nil {
		args := []any{"method", method, "err", err}
		if v, ok := req.(interface{ GetVolumeId() string }); ok {
			args = append(args, "volume", v.GetVolumeId())
		}
		d.Logger.Warn("call failed", args...)
	}
	return reply, err
}
