package master

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/apis/contract"
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("millrace_"+name, help, labels, nil)
}

var (
	descBytes        = desc("dataset_bytes", "Bytes of the files of all sources, as far as they are known.")
	descFiles        = desc("dataset_files", "Files of all sources, as far as they are known.")
	descComplete     = desc("dataset_metadata_complete", "1 when every source was walked to its end.")
	descCached       = desc("cached_bytes", "Bytes of the current snapshot that at least one worker holds.")
	descCapacity     = desc("capacity_bytes", "Bytes that all workers may hold.")
	descWorkers      = desc("workers", "Workers that are members of the cache.")
	descWorkerCached = desc("worker_cached_bytes", "Bytes of the current snapshot that a worker holds.", "worker", "node")
	descWorkerUsed   = desc("worker_used_bytes", "Bytes that a worker uses of its quota.", "worker", "node")
	descMountReady   = desc("mount_ready", "1 when the source of a mount answers.", "path", "reason")
	descMountBytes   = desc("mount_bytes", "Bytes of the files of a mount.", "path")
	descReads        = desc("read_bytes_total", "Bytes given to readers, by where they came from: local, remote (a peer) or source.", "from")
	descLoads        = desc("loads", "Load jobs that run or ended in the last ten minutes, by phase.", "phase")
	descLoadBytes    = desc("load_bytes_per_second", "Bytes a second that the running load jobs bring in.")
)

var _ prometheus.Collector = (*Master)(nil)

// Describe implements prometheus.Collector.
func (m *Master) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descBytes, descFiles, descComplete, descCached, descCapacity, descWorkers, descWorkerCached, descWorkerUsed,
		descMountReady, descMountBytes, descReads, descLoads, descLoadBytes,
	} {
		ch <- d
	}
}

// DescribeMetrics registers the metrics of a master that knows nothing, for the
// table of all metrics.
func DescribeMetrics(r prometheus.Registerer) { r.MustRegister((*Master)(nil)) }

// Collect implements prometheus.Collector: the metrics are the summary.
func (m *Master) Collect(ch chan<- prometheus.Metric) {
	s := m.Summary()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(descBytes, float64(s.UFSTotalBytes))
	gauge(descFiles, float64(s.FileNum))
	gauge(descComplete, truth(s.MetadataComplete))
	gauge(descCached, float64(s.CachedBytes))
	gauge(descCapacity, float64(s.CapacityBytes))
	gauge(descWorkers, float64(len(s.Workers)))
	for _, w := range s.Workers {
		gauge(descWorkerCached, float64(w.CachedBytes), w.Name, w.Node)
		gauge(descWorkerUsed, float64(w.UsedBytes), w.Name, w.Node)
	}
	for _, mount := range s.Mounts {
		gauge(descMountReady, truth(mount.Ready), mount.Path, mount.Reason)
		gauge(descMountBytes, float64(mount.Bytes), mount.Path)
	}
	for origin, n := range map[string]int64{"local": s.Reads.LocalBytes, "remote": s.Reads.RemoteBytes, "source": s.Reads.SourceBytes} {
		ch <- prometheus.MustNewConstMetric(descReads, prometheus.CounterValue, float64(n), origin)
	}
	phases := map[string]int{contract.LoadRunning: 0, contract.LoadComplete: 0, contract.LoadFailed: 0}
	var rate int64
	for _, l := range s.Loads {
		phases[l.Phase]++
		rate += l.BytesPerSecond
	}
	for phase, n := range phases {
		gauge(descLoads, float64(n), phase)
	}
	gauge(descLoadBytes, float64(rate))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
