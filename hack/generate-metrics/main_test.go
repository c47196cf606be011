package main

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// table has every metric by its name.
func table(t *testing.T) map[string]metric {
	t.Helper()
	out := map[string]metric{}
	for _, c := range components {
		metrics, err := metricsOf(c.describe, c.foreign)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		for _, m := range metrics {
			if _, known := out[m.name]; known {
				t.Errorf("%s is registered by two components, which may be one process", m.name)
			}
			out[m.name] = m
		}
	}
	return out
}

// names in a text, as PromQL writes them.
var names = regexp.MustCompile(`\b(millrace_[a-z0-9_]+)`)

func TestEveryMetricThatIsNamedExists(t *testing.T) {
	known := table(t)
	for _, file := range []string{"../../docs/metrics.md", "../../docs/standalone.md", "../../charts/millrace/dashboards/millrace.json"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range names.FindAllStringSubmatch(string(text), -1) {
			name := found[1]
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if base, cut := strings.CutSuffix(name, suffix); cut && known[base].kind == "histogram" {
					name = base
				}
			}
			if _, ok := known[name]; !ok {
				t.Errorf("%s names %s, which nothing registers", file, name)
			}
		}
	}
}

func TestTheDashboardIsOneThatGrafanaReads(t *testing.T) {
	data, err := os.ReadFile("../../charts/millrace/dashboards/millrace.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Title  string
		UID    string
		Panels []struct {
			ID      int
			Title   string
			Type    string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(data, &board); err != nil || board.Title == "" || board.UID == "" || len(board.Panels) < 10 {
		t.Fatalf("%v, %+v", err, board)
	}
	ids := map[int]bool{}
	for _, p := range board.Panels {
		if ids[p.ID] || p.Title == "" || p.Type == "" || len(p.Targets) == 0 || p.Targets[0].Expr == "" {
			t.Errorf("panel %+v", p)
		}
		ids[p.ID] = true
	}
}

func TestMetricsThatBreakTheRulesAreRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		c    prometheus.Collector
		says string
	}{
		"a foreign name":   {prometheus.NewGauge(prometheus.GaugeOpts{Name: "worker_bytes", Help: "Bytes."}), "does not begin"},
		"no unit":          {prometheus.NewGauge(prometheus.GaugeOpts{Name: "millrace_things_are", Help: "Things."}), "its unit"},
		"no help":          {prometheus.NewGauge(prometheus.GaugeOpts{Name: "millrace_x_bytes"}), "no sentence"},
		"a counter of now": {prometheus.NewCounter(prometheus.CounterOpts{Name: "millrace_x_bytes", Help: "Bytes."}), "_total"},
	} {
		_, err := metricsOf(func(r prometheus.Registerer) { r.MustRegister(tc.c) }, false)
		if err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want %q", name, err, tc.says)
		}
	}
	_, err := metricsOf(func(r prometheus.Registerer) {
		c := prometheus.NewGauge(prometheus.GaugeOpts{Name: "millrace_x_bytes", Help: "Bytes."})
		r.MustRegister(c, c)
	}, false)
	if err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("registered twice: %v", err)
	}
}
