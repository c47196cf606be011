// Command csi-node is the CSI node plugin of Datasets.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/csi"
	"github.com/millrace/millrace/runtime/profiles"
)

var version = "dev"

func main() {
	c := csi.Config{Version: version}
	flag.StringVar(&c.NodeName, "node-name", os.Getenv(contract.EnvNodeName), "name of this node; $"+contract.EnvNodeName+" by default")
	flag.StringVar(&c.KubeletDir, "kubelet-dir", csi.DefaultKubeletDir, "the kubelet's root directory, mounted here at the same path")
	flag.StringVar(&c.MountRoot, "mount-root", contract.DefaultMountRoot, "host directory of all FUSE mounts, mounted here at the same path")
	flag.StringVar(&c.Endpoint, "endpoint", "", "socket of the plugin, unix://<path>; below --kubelet-dir by default")
	flag.StringVar(&c.RegistrationDir, "registration-dir", "", "where the kubelet looks for plugins; below --kubelet-dir by default")
	flag.DurationVar(&c.PublishTimeout, "publish-timeout", csi.DefaultPublishTimeout, "how long one call waits for a FUSE pod")
	kubeconfig := flag.String("kubeconfig", "", "kubeconfig file; the pod's service account by default")
	httpAddress := flag.String("http-address", ":7541", "address of /healthz, /readyz and /metrics")
	pprof := flag.String("pprof", os.Getenv(contract.EnvPprof), "where to serve profiles, such as 127.0.0.1:6060; empty for nowhere")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(ctx, c, *kubeconfig, *httpAddress, *pprof); err != nil {
		c.Logger.Error("csi-node ends", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, c csi.Config, kubeconfig, httpAddress, pprof string) error {
	config, err := clientConfig(kubeconfig)
	if err != nil {
		return fmt.Errorf("find the API server: %w", err)
	}
	if c.Client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	c.Metrics = registry
	driver, err := csi.New(c)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	server := &http.Server{Addr: httpAddress, Handler: handler(driver, registry), ReadHeaderTimeout: 5 * time.Second}
	group.Go(func() error { return driver.Run(ctx) })
	group.Go(func() error { return profiles.Serve(ctx, pprof) })
	group.Go(func() error {
		if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		return server.Close()
	})
	return group.Wait()
}

func clientConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}

func handler(driver *csi.Driver, registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := driver.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}
