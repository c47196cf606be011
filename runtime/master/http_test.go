package master

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// page serves the master's HTTP interface and gives its address.
func (s *stand) page() string {
	registry := prometheus.NewRegistry()
	registry.MustRegister(s.Master)
	server := httptest.NewServer(s.Handler(promhttp.HandlerFor(registry, promhttp.HandlerOpts{})))
	s.t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return server.URL
}

func TestSummaryIsWatched(t *testing.T) {
	s := newStand(t, Options{}, map[string]source.Store{"/": newFlat(someFiles)})
	resp, err := http.Get(s.page() + contract.PathSummary + "?watch=true")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	next := func() (sum contract.Summary) {
		t.Helper()
		if !lines.Scan() {
			t.Fatal("the stream ended: ", lines.Err())
		}
		if err := json.Unmarshal(lines.Bytes(), &sum); err != nil {
			t.Fatal(err)
		}
		return sum
	}
	first := next()
	if first.UFSTotalBytes != someBytes || !first.MetadataComplete || len(first.Mounts) != 1 || first.Snapshot == "" {
		t.Errorf("first %+v", first)
	}
	a := s.attach("a", nil)
	a.report(&wirepb.WorkerReport{Report: &wirepb.WorkerReport_Usage{Usage: &wirepb.Usage{UsedBytes: 12, CapacityBytes: 2000, Message: "the disk is small"}}})
	a.report(&wirepb.WorkerReport{Report: &wirepb.WorkerReport_Reads{Reads: &wirepb.ReaderStats{LocalBytes: 3, SourceBytes: 4}}})
	deadline := time.Now().Add(2 * time.Minute)
	for {
		sum := next()
		if sum.Revision <= first.Revision {
			t.Fatalf("revision %d after %d", sum.Revision, first.Revision)
		}
		if len(sum.Workers) == 1 && sum.Reads.SourceBytes == 4 && sum.CapacityBytes == 2000 && sum.Workers[0].Message == "the disk is small" && sum.Workers[0].Node == "node-a" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("last %+v", sum)
		}
	}
}

func TestRetireIsToldToAllAndAnswered(t *testing.T) {
	s := newStand(t, Options{}, map[string]source.Store{"/": newFlat(someFiles)})
	a := s.attach("a", nil)
	url := s.page()
	for range 2 { // idempotent
		resp, err := http.Post(url+contract.PathRetire, "", nil)
		if err != nil || resp.StatusCode/100 != 2 {
			t.Fatal(resp, err)
		}
		resp.Body.Close()
	}
	s.until("a has retired", func() bool { return s.Summary().Retired })
	s.attach("late", nil)
	s.until("the late one has retired as well", func() bool { return s.Summary().Retired })
	a.mu.Lock()
	if !a.retired {
		t.Error("a was not told")
	}
	a.mu.Unlock()
	if stream, err := s.client.Load(t.Context(), &wirepb.LoadRequest{Id: "1"}); err == nil {
		if _, err = stream.Recv(); err == nil {
			t.Error("a load was started")
		}
	}
}

func TestMetricsAreTheSummary(t *testing.T) {
	s := newStand(t, Options{}, map[string]source.Store{"/": newFlat(someFiles)})
	s.attach("a", nil)
	resp, err := http.Get(s.page() + contract.PathMetrics)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		fmt.Sprintf("millrace_dataset_bytes %d", someBytes), "millrace_workers 1", `millrace_mount_ready{path="/",reason="Ready"} 1`,
		`millrace_loads{phase="Running"} 0`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// BenchmarkLedger holds a million files at two workers, and says what each costs.
func BenchmarkLedger(b *testing.B) {
	const files = 1_000_000
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		l := newLedger(defaultBlockBytes)
		one, two := &holder{}, &holder{}
		for i := range files {
			var k key
			k[0], k[1], k[2], k[3] = byte(i), byte(i>>8), byte(i>>16), byte(i*7)
			l.add(k, 100)
			by := one
			if i%2 == 0 {
				by = two
			}
			l.hold(by, k, 100, true, nil)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/files, "B/file")
		if l.cachedBytes() != files*100 {
			b.Fatal(l.cachedBytes())
		}
	}
}

func TestSourcesAreLookedAtOnDemand(t *testing.T) {
	files := newFlat(someFiles)
	s := newStand(t, Options{TTL: time.Hour}, map[string]source.Store{"/": files})
	url := s.page()
	files.put("new", "v1", 1000)
	ask := func(query string, code int) (answer struct{ Snapshot string }) {
		t.Helper()
		resp, err := http.Post(url+contract.PathRevalidate+query, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != code {
			t.Fatalf("%s: %s", query, resp.Status)
		}
		_ = json.NewDecoder(resp.Body).Decode(&answer)
		return answer
	}
	before := s.Summary().Snapshot
	if answer := ask("", http.StatusOK); answer.Snapshot == before || answer.Snapshot != s.Summary().Snapshot {
		t.Errorf("answer %+v, before %s", answer, before)
	}
	if got := s.Summary().UFSTotalBytes; got != someBytes+1000 {
		t.Errorf("%d bytes", got)
	}
	looked := s.Summary().LookedAt
	if looked.IsZero() || looked.After(time.Now()) {
		t.Errorf("looked at %s", looked)
	}
	ask("?path=/nowhere", http.StatusNotFound)
	if ask("", http.StatusOK); s.Summary().LookedAt.Before(looked) {
		t.Errorf("looked at %s, and at %s before", s.Summary().LookedAt, looked)
	}
}
