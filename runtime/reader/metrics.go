package reader

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/runtime/wire"
)

// metrics of a reader. What the kernel reads by passthrough is not seen here.
type metrics struct {
	registerer prometheus.Registerer
	read       *prometheus.CounterVec // bytes by the way they came
	fallbacks  *prometheus.CounterVec // ways that did not lead to the bytes, by why
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		registerer: r,
		read: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_client_read_bytes_total", Help: "Bytes by the way they came: local, remote (in whole blocks), source (in whole blocks).",
		}, []string{"from"}),
		fallbacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_client_fallbacks_total", Help: "Ways that did not lead to the bytes, so that the next was taken.",
		}, []string{"reason"}),
	}
	if r != nil {
		r.MustRegister(m.read, m.fallbacks)
	}
	return m
}

func (m *metrics) unregister() {
	if m.registerer != nil {
		m.registerer.Unregister(m.read)
		m.registerer.Unregister(m.fallbacks)
	}
}

// reason is the label of an error.
func reason(err error) string {
	switch {
	case errors.Is(err, wire.ErrNoSpace):
		return "no-space"
	case errors.Is(err, wire.ErrPeer):
		return "peer"
	default:
		return "answer"
	}
}
