package worker

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/runtime/store"
	"github.com/millrace/millrace/runtime/wire"
)

func TestEvictionsAreCountedByReason(t *testing.T) {
	st, err := store.Open(t.Context(), store.Options{BlockBytes: block, UpkeepEvery: time.Hour,
		Tiers: []store.Tier{{Medium: "SSD", Dirs: []store.Dir{{Path: t.TempDir(), QuotaBytes: 10 * block}}, High: 0.9, Low: 0.5}}})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	registry := prometheus.NewRegistry()
	m := newMetrics(registry, st, wire.NewServer(nil, wire.ServerOptions{}))
	defer m.unregister()
	key := func(i int) store.Key { return store.Key(fmt.Sprintf("%032x", i)) }
	put := func(i int, guest bool) {
		t.Helper()
		f, err := st.Acquire(key(i), block, guest)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.WriteBlock(0, bytes.Repeat([]byte{byte(i)}, block)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 9 {
		put(i, i < 4)
	}
	put(20, false) // pushes the four guests out
	st.Drop(key(5))
	st.Free(key(6))
	st.Free(key(7))
	st.Pin(key(8))
	st.Free(key(8)) // it is pinned
	got := map[string]float64{}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, one := range f.GetMetric() {
			switch f.GetName() {
			case "millrace_worker_evictions_total":
				got[one.GetLabel()[0].GetValue()] = one.GetCounter().GetValue()
			case "millrace_worker_pinned_files":
				got["pinned"] = one.GetGauge().GetValue()
			}
		}
	}
	for what, want := range map[string]float64{"guest": 4, "replaced": 1, "freed": 2, "quota": 0, "ttl": 0, "corrupt": 0, "demoted": 0, "pinned": 1} {
		if n, ok := got[what]; !ok || n != want {
			t.Errorf("%s: %v, want %v", what, n, want)
		}
	}
}
