package engine

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/millrace/millrace/apis/contract"
)

// Metrics of runtimes, by the names that Fluid's dashboards know.
type Metrics struct {
	setupErrors  *prometheus.CounterVec
	healthErrors *prometheus.CounterVec
}

// NewMetrics makes and registers the metrics.
func NewMetrics(registry prometheus.Registerer) (*Metrics, error) {
	labels := []string{"runtime_type", "runtime"}
	m := &Metrics{
		setupErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "runtime_setup_error_total", Help: "Rounds in which a runtime could not be set up.",
		}, labels),
		healthErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "runtime_sync_healthcheck_error_total", Help: "Times at which a runtime that served stopped serving.",
		}, labels),
	}
	for _, c := range []prometheus.Collector{m.setupErrors, m.healthErrors} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("register runtime metrics: %w", err)
		}
	}
	return m, nil
}

func (m *Metrics) setupFailed(t contract.RuntimeType, key types.NamespacedName) {
	m.setupErrors.WithLabelValues(string(t), key.String()).Inc()
}

func (m *Metrics) healthLost(t contract.RuntimeType, key types.NamespacedName) {
	m.healthErrors.WithLabelValues(string(t), key.String()).Inc()
}

// forget drops the series of a runtime that is gone.
func (m *Metrics) forget(t contract.RuntimeType, key types.NamespacedName) {
	m.setupErrors.DeleteLabelValues(string(t), key.String())
	m.healthErrors.DeleteLabelValues(string(t), key.String())
}
