package component

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/wire"
)

func TestHealthAndMetricsAreServedWithTheirDataset(t *testing.T) {
	s := &Settings{RuntimeConfig: &contract.RuntimeConfig{}, Dataset: "imagenet", Namespace: "team"}
	r := NewRegistry(s)
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "millrace_test_total", Help: "Tests."})
	r.MustRegister(c)
	c.Inc()
	socket := filepath.Join(t.TempDir(), "http.sock")
	var healthy atomic.Bool
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- ServeHTTP(ctx, wire.UnixAddress(socket), HealthHandler(r, func() error {
			if healthy.Load() {
				return nil
			}
			return errors.New("not yet")
		}))
	}()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	get := func(path string) (int, string) {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Minute); ; {
			resp, err := client.Get("http://x" + path)
			if err != nil && time.Now().Before(deadline) {
				continue // it is about to listen
			}
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode, string(text)
		}
	}
	if code, text := get(contract.PathHealthy); code != http.StatusServiceUnavailable || !strings.Contains(text, "not yet") {
		t.Errorf("unhealthy: %d, %q", code, text)
	}
	healthy.Store(true)
	if code, text := get(contract.PathHealthy); code != http.StatusOK || text != "ok\n" {
		t.Errorf("healthy: %d, %q", code, text)
	}
	_, text := get(contract.PathMetrics)
	for _, want := range []string{`millrace_test_total{dataset="imagenet",dataset_namespace="team"} 1`, "go_goroutines ", "process_resident_memory_bytes "} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	if err := ServeHTTP(t.Context(), "nowhere:x", nil); err == nil {
		t.Error("served at an address that is none")
	}
}
