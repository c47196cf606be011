package dataset

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
)

// metrics of Datasets, by the names that Fluid's dashboards know.
type metrics struct{ files, bytes *prometheus.GaugeVec }

// DescribeMetrics registers the metrics, for the table of all metrics.
func DescribeMetrics(r prometheus.Registerer) error {
	_, err := newMetrics(r)
	return err
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		files: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "dataset_ufs_file_num", Help: "Files in the sources of a Dataset."}, []string{"dataset"}),
		bytes: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "dataset_ufs_total_size", Help: "Bytes in the sources of a Dataset."}, []string{"dataset"}),
	}
	for _, c := range []prometheus.Collector{m.files, m.bytes} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register dataset metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) set(key types.NamespacedName, bytes, files int64) {
	m.files.WithLabelValues(key.String()).Set(float64(files))
	m.bytes.WithLabelValues(key.String()).Set(float64(bytes))
}

func (m *metrics) forget(key types.NamespacedName) {
	m.files.DeleteLabelValues(key.String())
	m.bytes.DeleteLabelValues(key.String())
}
