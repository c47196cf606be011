package csi

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	calls *prometheus.HistogramVec
	swept prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "millrace_csi_call_seconds",
			Help:    "Time of the calls that the kubelet makes, by method and gRPC code; publishing includes the wait for the FUSE pod.",
			Buckets: []float64{.005, .02, .1, .5, 1, 2, 5, 10, 20, 60, 120},
		}, []string{"method", "code"}),
		swept: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "millrace_csi_swept_mounts_total",
			Help: "Dead FUSE mounts of pods that are gone, taken away.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.calls, m.swept)
	}
	return m
}

// DescribeMetrics registers the metrics of a driver that drives nothing, for the
// table of all metrics.
func DescribeMetrics(r prometheus.Registerer) { newMetrics(r) }
