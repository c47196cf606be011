package fuse

import (
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// metrics counts what the kernel asks. Reads in passthrough mode are not seen.
type metrics struct {
	opens           *prometheus.CounterVec
	openedBytes     *prometheus.CounterVec
	seconds         *prometheus.HistogramVec
	byOp            map[uint32]prometheus.Observer // of seconds; others have opOther
	reads           prometheus.Counter
	readBytes       prometheus.Counter
	errors          *prometheus.CounterVec
	backings        prometheus.Gauge
	backingFailures *prometheus.CounterVec
	invalidations   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		opens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_fuse_opens_total",
			Help: "Files opened, by how the kernel reads them: passthrough or cached. In the small profile the kernel opens without asking: none is counted.",
		}, []string{"mode"}),
		openedBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_fuse_opened_bytes_total",
			Help: "Sizes of the files opened, by how the kernel reads them: what is read in passthrough is not seen, only that it may be.",
		}, []string{"mode"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "millrace_fuse_request_seconds",
			Help:    "Time from a request of the kernel to its answer, by kind.",
			Buckets: []float64{.00002, .00005, .0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 5, 30},
		}, []string{"op"}),
		byOp: map[uint32]prometheus.Observer{},
		reads: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "millrace_fuse_reads_total",
			Help: "READ requests of the kernel; passthrough reads make none.",
		}),
		readBytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "millrace_fuse_read_bytes_total",
			Help: "Bytes given in answer to READ requests.",
		}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_fuse_errors_total",
			Help: "Requests answered with an error other than ENOENT of a lookup, by errno.",
		}, []string{"errno"}),
		backings: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "millrace_fuse_backing_files",
			Help: "Files registered with the kernel for passthrough.",
		}),
		backingFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_fuse_backing_failures_total",
			Help: "Complete files that the kernel would not take for passthrough, by reason.",
		}, []string{"reason"}),
		invalidations: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "millrace_fuse_invalidations_total",
			Help: "Entries and inodes that the kernel was told to forget.",
		}),
	}
	for _, mode := range []mode{modePassthrough, modeCached} { // there also while nothing is opened
		m.opens.WithLabelValues(string(mode))
		m.openedBytes.WithLabelValues(string(mode))
	}
	for op, name := range opNames {
		m.byOp[op] = m.seconds.WithLabelValues(name)
	}
	if reg != nil {
		reg.MustRegister(m.opens, m.openedBytes, m.seconds, m.reads, m.readBytes, m.errors, m.backings, m.backingFailures, m.invalidations)
	}
	return m
}

// opNames are the requests that the kernel makes often.
var opNames = map[uint32]string{
	opOther: "other", opLookup: "lookup", opGetAttr: "getattr", opReadLink: "readlink", opOpen: "open", opRead: "read",
	opOpenDir: "opendir", opReadDir: "readdir", opReadDirPlus: "readdir", opStatFS: "statfs",
}

// took takes in how long the answer to a request took.
func (m *metrics) took(op uint32, d time.Duration) {
	by := m.byOp[op]
	if by == nil {
		by = m.byOp[opOther]
	}
	by.Observe(d.Seconds())
}

// read takes in the answer to a READ.
func (m *metrics) read(bytes int) {
	m.reads.Inc()
	m.readBytes.Add(float64(bytes))
}

func errnoName(no syscall.Errno) string {
	if name := unix.ErrnoName(no); name != "" {
		return name
	}
	return "unknown"
}

// DescribeMetrics registers the metrics of a server that serves nothing, for
// the table of all metrics.
func DescribeMetrics(r prometheus.Registerer) { newMetrics(r) }
