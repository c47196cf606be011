package master

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/millrace/millrace/apis/contract"
)

const (
	summaryPeriod    = time.Second      // between two summaries of a stream
	summaryHeartbeat = 15 * time.Second // after which the last one is sent again
	slowPeer         = 10 * time.Second // for one summary to be taken
)

// Handler serves the HTTP interface of the contract; metrics serves the metrics.
func (m *Master) Handler(metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+contract.PathSummary, m.serveSummary)
	mux.HandleFunc("POST "+contract.PathRetire, func(w http.ResponseWriter, _ *http.Request) {
		m.Retire()
		w.WriteHeader(http.StatusAccepted)
	})
	mux.HandleFunc("GET "+contract.PathHealthy, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.Handle("GET "+contract.PathMetrics, metrics)
	return mux
}

func (m *Master) serveSummary(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	if r.URL.Query().Get("watch") != "true" {
		_ = out.Encode(m.Summary())
		return
	}
	control := http.NewResponseController(w)
	for {
		changed := m.changedSignal()
		_ = control.SetWriteDeadline(time.Now().Add(slowPeer))
		if out.Encode(m.Summary()) != nil || control.Flush() != nil {
			return
		}
		if !m.pause(r, summaryPeriod, nil) || !m.pause(r, summaryHeartbeat-summaryPeriod, changed) {
			return
		}
	}
}

// pause waits for a time or a signal; false when the request or the master ends.
func (m *Master) pause(r *http.Request, d time.Duration, signal <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-signal:
	case <-r.Context().Done():
		return false
	case <-m.ctx.Done():
		return false
	}
	return true
}
