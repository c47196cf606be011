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
	memory     prometheus.GaugeFunc
}

// newMetrics makes the metrics; held tells the bytes that are held in memory.
func newMetrics(r prometheus.Registerer, held func() int64) *metrics {
	m := &metrics{
		registerer: r,
		read: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_client_read_bytes_total", Help: "Bytes by the way they came: local, remote (in whole blocks), source (in whole blocks).",
		}, []string{"from"}),
		fallbacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_client_fallbacks_total", Help: "Ways that did not lead to the bytes, so that the next was taken.",
		}, []string{"reason"}),
		memory: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "millrace_client_memory_bytes", Help: "Bytes of remote blocks that are held in memory.",
		}, func() float64 { return float64(held()) }),
	}
	if r != nil {
		r.MustRegister(m.read, m.fallbacks, m.memory)
	}
	return m
}

func (m *metrics) unregister() {
	if m.registerer != nil {
		m.registerer.Unregister(m.read)
		m.registerer.Unregister(m.fallbacks)
		m.registerer.Unregister(m.memory)
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
