package component

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/wire"
)

// ServeHTTP serves until the context ends. No address, no server.
func ServeHTTP(ctx context.Context, address string, h http.Handler) error {
	if address == "" {
		<-ctx.Done()
		return nil
	}
	listener, err := wire.Listen(ctx, address)
	if err != nil {
		return err
	}
	return serveOn(ctx, listener, h)
}

func serveOn(ctx context.Context, listener net.Listener, h http.Handler) error {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Registry takes the metrics of a process. What is registered in it through
// Registerer carries the name of its dataset.
type Registry struct {
	prometheus.Registerer
	prometheus.Gatherer
}

// NewRegistry makes a registry with what every process tells of itself.
func NewRegistry(s *Settings) *Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &Registry{Registerer: prometheus.WrapRegistererWith(datasetLabels(s), r), Gatherer: r}
}

// datasetLabels tell the metrics of one dataset from those of another. They are
// not called namespace, for that is the label of the pod that Prometheus reads.
func datasetLabels(s *Settings) prometheus.Labels {
	labels := prometheus.Labels{}
	if s.Dataset != "" {
		labels["dataset"] = s.Dataset
	}
	if s.Namespace != "" {
		labels["dataset_namespace"] = s.Namespace
	}
	return labels
}

// Handler serves the metrics.
func (r *Registry) Handler() http.Handler {
	return promhttp.HandlerFor(r.Gatherer, promhttp.HandlerOpts{})
}

// HealthHandler serves health and metrics; healthy says why not.
func HealthHandler(r *Registry, healthy func() error) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+contract.PathHealthy, func(w http.ResponseWriter, _ *http.Request) {
		if err := healthy(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.Handle("GET "+contract.PathMetrics, r.Handler())
	return mux
}
