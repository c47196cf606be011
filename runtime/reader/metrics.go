package reader

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/runtime/wire"
)

// metrics of a reader. What the kernel reads by passthrough is not seen here.
type metrics struct {
	registerer   prometheus.Registerer
	read         *prometheus.CounterVec   // bytes by the way they came
	requests     *prometheus.CounterVec   // how often bytes came, by the way
	fetchSeconds *prometheus.HistogramVec // by the way
	openSeconds  prometheus.Histogram
	fallbacks    *prometheus.CounterVec // ways that did not lead to the bytes, by why
	hedged       *prometheus.CounterVec // by outcome
	ahead        *prometheus.CounterVec // bytes by what became of them
	aheadFiles   *prometheus.CounterVec // files by what became of them
	directories  *prometheus.CounterVec // asked for, by what the answer was
	pages        *prometheus.CounterVec // of those, by whether they were known
	memory       prometheus.GaugeFunc
	metadata     prometheus.GaugeFunc
	earlyFiles   prometheus.GaugeFunc
}

// latencies are buckets from a local hit to a slow source, in seconds.
var latencies = prometheus.ExponentialBuckets(100e-6, 3, 12)

// newMetrics makes the metrics; held tells the bytes of files that are held in
// memory, entries those of directories, early the files that are open ahead.
func newMetrics(r prometheus.Registerer, held, entries func() int64, early func() int) *metrics {
	m := &metrics{
		registerer: r,
		read: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_client_read_bytes_total", Help: "Bytes by the way they came: local, remote (from a peer, in whole blocks), source (in whole blocks). Passthrough reads are not seen.",
		}, []string{"from"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_client_requests_total", Help: "Reads of the local copy, and requests answered by peers (remote) and by the source.",
		}, []string{"from"}),
		fetchSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "millrace_client_fetch_seconds", Help: "How long a range took to come from a peer (remote) or the source.", Buckets: latencies,
		}, []string{"from"}),
		openSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "millrace_client_open_seconds", Help: "How long a file took to be opened; small files are fetched whole by then.", Buckets: latencies,
		}),
		fallbacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_client_fallbacks_total", Help: "Ways that did not lead to the bytes, so that the next was taken.",
		}, []string{"reason"}),
		hedged: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_client_hedges_total", Help: "Second requests sent beside a slow one, by whether they were the first to be answered: won or lost.",
		}, []string{"outcome"}),
		ahead: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_client_read_ahead_bytes_total", Help: "Remote bytes fetched ahead of a reader, by whether they were read in the end: used or wasted.",
		}, []string{"outcome"}),
		aheadFiles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_client_read_ahead_files_total", Help: "Files of a directory opened ahead of a reader, by whether they were opened by it in the end: used or wasted.",
		}, []string{"outcome"}),
		directories: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_client_directories_total", Help: "Directories that the master was asked for, by its answer: new (nothing of it was known), changed, same.",
		}, []string{"answer"}),
		pages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_client_directory_pages_total", Help: "Pages of those directories, of about 256 entries, by whether they had to be fetched: fetched or known.",
		}, []string{"outcome"}),
		metadata: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "millrace_client_metadata_bytes", Help: "Bytes of directories that are held in memory, about.",
		}, func() float64 { return float64(entries()) }),
		memory: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "millrace_client_memory_bytes", Help: "Bytes of remote blocks that are held in memory.",
		}, func() float64 { return float64(held()) }),
		earlyFiles: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "millrace_client_early_files", Help: "Files that are open ahead of their reader.",
		}, func() float64 { return float64(early()) }),
	}
	if r != nil {
		r.MustRegister(m.all()...)
	}
	return m
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{
		m.read, m.requests, m.fetchSeconds, m.openSeconds, m.fallbacks, m.hedged, m.ahead, m.aheadFiles, m.memory, m.earlyFiles, m.directories, m.pages, m.metadata,
	}
}

// local takes in a read of the local copy.
func (m *metrics) local(bytes int64) {
	m.read.WithLabelValues("local").Add(float64(bytes))
	m.requests.WithLabelValues("local").Inc()
}

func (m *metrics) unregister() {
	if m.registerer == nil {
		return
	}
	for _, c := range m.all() {
		m.registerer.Unregister(c)
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

// DescribeMetrics registers the metrics of a reader that reads nothing, for the
// table of all metrics.
func DescribeMetrics(r prometheus.Registerer) {
	newMetrics(r, func() int64 { return 0 }, func() int64 { return 0 }, func() int { return 0 })
}
