package worker

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/runtime/store"
	"github.com/millrace/millrace/runtime/wire"
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
	copies   *prometheus.CounterVec // ranges that other owners were told of, or that were copied from them

	fetchSeconds *prometheus.HistogramVec // of a block, by where from
	served       *prometheus.CounterVec   // ranges that peers asked for, by how they ended
	servedBytes  prometheus.Counter
	serveSeconds prometheus.Histogram
}

// seconds are the buckets of latencies: from a block in memory to a source that
// is slow.
var seconds = prometheus.ExponentialBuckets(50e-6, 3, 13)

func newMetrics(r prometheus.Registerer, st *store.Store, data *wire.Server) *metrics {
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
		copies: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_worker_copies_total", Help: "Ranges that other owners were told of, and ranges that were copied from them, by how it ended.",
		}, []string{"what", "kind"}),
		fetchSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "millrace_worker_fetch_seconds", Help: "How long a block took to come into the cache, by where from.", Buckets: seconds,
		}, []string{"from"}),
		served: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_worker_ranges_total", Help: "Ranges that peers and readers of other nodes asked for, by how they ended.",
		}, []string{"kind"}),
		servedBytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "millrace_worker_range_bytes_total", Help: "Bytes sent to peers and to readers of other nodes.",
		}),
		serveSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "millrace_worker_range_seconds", Help: "How long a range that a peer asked for took, from its request to its last byte.", Buckets: seconds,
		}),
	}
	m.all = []prometheus.Collector{
		m.fetched, m.given, m.failures, m.copies, m.fetchSeconds, m.served, m.servedBytes, m.serveSeconds, tiers{st},
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "millrace_worker_peer_connections", Help: "Connections of peers and of readers of other nodes.",
		}, func() float64 { return float64(data.Connections()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "millrace_worker_ranges_in_flight", Help: "Ranges that are worked on for peers now.",
		}, func() float64 { return float64(data.InFlight()) }),
	}
	if r != nil {
		for _, c := range m.all {
			r.MustRegister(c)
		}
	}
	return m
}

// DescribeMetrics registers the metrics of a worker that holds nothing, for the
// table of all metrics.
func DescribeMetrics(r prometheus.Registerer) { newMetrics(r, nil, nil) }

func (m *metrics) unregister() {
	if m.registerer == nil {
		return
	}
	for _, c := range m.all {
		m.registerer.Unregister(c)
	}
}

// serve counts a range that was served to a peer.
func (m *metrics) serve(_ wire.Range, took time.Duration, bytes int64, err error) {
	m.served.WithLabelValues(wire.Kind(err)).Inc()
	m.servedBytes.Add(float64(bytes))
	m.serveSeconds.Observe(took.Seconds())
}

var (
	tierUsed     = prometheus.NewDesc("millrace_worker_tier_used_bytes", "Bytes on disk in a directory of a tier.", []string{"medium", "path"}, nil)
	tierCapacity = prometheus.NewDesc("millrace_worker_tier_capacity_bytes", "Quota of a directory of a tier.", []string{"medium", "path"}, nil)
)

var (
	tierPromised  = prometheus.NewDesc("millrace_worker_tier_promised_bytes", "Bytes that files in use may still take in a directory of a tier.", []string{"medium", "path"}, nil)
	tierReady     = prometheus.NewDesc("millrace_worker_tier_ready", "1 while a directory takes files, 0 while its disk fails.", []string{"medium", "path"}, nil)
	evictions     = prometheus.NewDesc("millrace_worker_evictions_total", "Files that went from the cache, or from a tier of it, by reason.", []string{"reason"}, nil)
	badBlocks     = prometheus.NewDesc("millrace_worker_bad_blocks_total", "Blocks whose bytes were not those that were stored.", nil, nil)
	scrubbed      = prometheus.NewDesc("millrace_worker_scrubbed_bytes_total", "Bytes that were read again and compared with their checksums.", nil, nil)
	scrubProgress = prometheus.NewDesc("millrace_worker_scrub_progress_ratio", "Part of the files that this round of the scrubber has seen.", nil, nil)
	promotions    = prometheus.NewDesc("millrace_worker_promotions_total", "Files that moved to a faster tier.", nil, nil)
	movedBytes    = prometheus.NewDesc("millrace_worker_moved_bytes_total", "Bytes of files that moved between tiers.", nil, nil)
	pinned        = prometheus.NewDesc("millrace_worker_pinned_files", "Files that are pinned.", nil, nil)
)

// tiers shows the store's accounts.
type tiers struct{ store *store.Store }

func (tiers) Describe(ch chan<- *prometheus.Desc) {
	ch <- tierUsed
	ch <- tierCapacity
	for _, d := range []*prometheus.Desc{tierPromised, tierReady, evictions, badBlocks, scrubbed, scrubProgress, promotions, movedBytes, pinned} {
		ch <- d
	}
}

func (t tiers) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	for _, d := range t.store.Tiers() {
		ready := 1.0
		if d.Failed {
			ready = 0
		}
		gauge(tierUsed, float64(d.UsedBytes), d.Medium, d.Path)
		gauge(tierCapacity, float64(d.CapacityBytes), d.Medium, d.Path)
		gauge(tierPromised, float64(d.PromisedBytes), d.Medium, d.Path)
		gauge(tierReady, ready, d.Medium, d.Path)
	}
	st := t.store.Stats()
	for _, reason := range store.Reasons() {
		counter(evictions, st.Evicted[reason], string(reason))
	}
	counter(badBlocks, st.BadBlocks)
	counter(scrubbed, st.ScrubbedBytes)
	counter(promotions, st.Promotions)
	counter(movedBytes, st.MovedBytes)
	gauge(scrubProgress, st.ScrubProgress)
	gauge(pinned, float64(st.Pinned))
}
