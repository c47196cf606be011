package fuse

import (
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// metrics counts what the kernel asks. Reads in passthrough mode are not seen.
type metrics struct {
	opens           *prometheus.CounterVec
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
			Help: "Files opened, by how the kernel reads them: passthrough or cached.",
		}, []string{"mode"}),
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
	if reg != nil {
		reg.MustRegister(m.opens, m.reads, m.readBytes, m.errors, m.backings, m.backingFailures, m.invalidations)
	}
	return m
}

func errnoName(no syscall.Errno) string {
	if name := unix.ErrnoName(no); name != "" {
		return name
	}
	return "unknown"
}
