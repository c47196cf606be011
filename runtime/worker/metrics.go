package worker

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/runtime/store"
)

// Where bytes came from.
const (
	fromLocal  = "local"
	fromRemote = "remote"
	fromSource = "source"
)

// metrics of a worker.
type metrics struct {
	registerer prometheus.Registerer
	all        []prometheus.Collector

	fetched  *prometheus.CounterVec // bytes that came into the cache, by where from
	given    *prometheus.CounterVec // bytes given to readers, by where from
	failures *prometheus.CounterVec // fetches of a block that failed, by kind
}

func newMetrics(r prometheus.Registerer, st *store.Store) *metrics {
	m := &metrics{
		registerer: r,
		fetched: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_worker_fetched_bytes_total", Help: "Bytes that came into the cache, by where from.",
		}, []string{"from"}),
		given: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_worker_read_bytes_total", Help: "Bytes given to readers, by where they were.",
		}, []string{"from"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_worker_fetch_failures_total", Help: "Fetches of a block that failed, by where from and kind.",
		}, []string{"from", "kind"}),
	}
	m.all = []prometheus.Collector{m.fetched, m.given, m.failures, tiers{st}}
	if r != nil {
		for _, c := range m.all {
			r.MustRegister(c)
		}
	}
	return m
}

// DescribeMetrics registers the metrics of a worker that holds nothing, for the
// table of all metrics.
func DescribeMetrics(r prometheus.Registerer) { newMetrics(r, nil) }

func (m *metrics) unregister() {
	if m.registerer == nil {
		return
	}
	for _, c := range m.all {
		m.registerer.Unregister(c)
	}
}

var (
	tierUsed     = prometheus.NewDesc("millrace_worker_tier_used_bytes", "Bytes on disk in a directory of a tier.", []string{"medium", "path"}, nil)
	tierCapacity = prometheus.NewDesc("millrace_worker_tier_capacity_bytes", "Quota of a directory of a tier.", []string{"medium", "path"}, nil)
)

// tiers shows the store's accounts.
type tiers struct{ store *store.Store }

func (tiers) Describe(ch chan<- *prometheus.Desc) {
	ch <- tierUsed
	ch <- tierCapacity
}

func (t tiers) Collect(ch chan<- prometheus.Metric) {
	for _, d := range t.store.Tiers() {
		ch <- prometheus.MustNewConstMetric(tierUsed, prometheus.GaugeValue, float64(d.UsedBytes), d.Medium, d.Path)
		ch <- prometheus.MustNewConstMetric(tierCapacity, prometheus.GaugeValue, float64(d.CapacityBytes), d.Medium, d.Path)
	}
}
