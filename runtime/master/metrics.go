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
	descLooked       = desc("source_looked_timestamp_seconds", "Unix time at which the sources were last looked at from end to end; 0 before every one was.")
	descMountBytes   = desc("mount_bytes", "Bytes of the files of a mount.", "path")
	descReads        = desc("read_bytes_total", "Bytes given to readers, by where they came from: local, remote (a peer) or source.", "from")
	descLoads        = desc("loads", "Load jobs that run or ended in the last ten minutes, by phase.", "phase")
	descLoadBytes    = desc("load_bytes_per_second", "Bytes a second that the running load jobs bring in.")
	descEntries      = desc("metadata_entries", "Files, directories and links that are known.")
	descAsked        = desc("metadata_requests_total", "Questions put to the sources: listings of a directory, looks at one entry (stat), whole walks.", "kind")
	descAskedInVain  = desc("metadata_request_errors_total", "Questions to the sources that failed, but for those about what is not there.")
	descStale        = desc("metadata_stale_answers_total", "Answers with what was known before because the source failed.")
	descSaves        = desc("metadata_saves_total", "Times that the metadata was saved for a restart.")
	descSaveErrors   = desc("metadata_save_errors_total", "Times that the metadata could not be saved.")
	descRestored     = desc("metadata_restored_entries", "Entries that this master took over from its predecessor.")
	descDiscarded    = desc("metadata_discarded_total", "Saved metadata that was of no use, by reason: corrupt, version (of another program) or mounts (of another Dataset).", "reason")
)

var _ prometheus.Collector = (*Master)(nil)

// Describe implements prometheus.Collector.
func (m *Master) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descBytes, descFiles, descComplete, descCached, descCapacity, descWorkers, descWorkerCached, descWorkerUsed,
		descLooked, descMountReady, descMountBytes, descReads, descLoads, descLoadBytes,
		descEntries, descAsked, descAskedInVain, descStale, descSaves, descSaveErrors, descRestored, descDiscarded,
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
	looked := 0.0
	if !s.LookedAt.IsZero() {
		looked = float64(s.LookedAt.Unix())
	}
	gauge(descLooked, looked)
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
	m.collectMetadata(ch)
}

func (m *Master) collectMetadata(ch chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, n int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	c := m.tree.Counts()
	ch <- prometheus.MustNewConstMetric(descEntries, prometheus.GaugeValue, float64(m.tree.Totals().Entries))
	ch <- prometheus.MustNewConstMetric(descRestored, prometheus.GaugeValue, float64(c.Restored.Entries))
	count(descAsked, c.Listings, "list")
	count(descAsked, c.Stats, "stat")
	count(descAsked, c.Walks, "walk")
	count(descAskedInVain, c.Failures)
	count(descStale, c.Stale)
	count(descSaves, c.Saves)
	count(descSaveErrors, c.SaveFailures)
	for _, reason := range []string{"corrupt", "version", "mounts"} {
		var n int64
		if c.Restored.Discarded == reason {
			n = 1
		}
		count(descDiscarded, n, reason)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
