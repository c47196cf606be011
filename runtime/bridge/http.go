package bridge

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

// Handler serves the Summary below contract.PathEngine, and health.
func (b *Bridge) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+contract.PathEngine+"{start}"+contract.PathSummary, b.serveSummary)
	mux.HandleFunc("GET "+contract.PathHealthy, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
	return mux
}

// serveSummary answers once, or on every change as long as the peer listens.
func (b *Bridge) serveSummary(w http.ResponseWriter, r *http.Request) {
	if len(r.PathValue("start")) > 256 {
		http.Error(w, "the name of the start is too long", http.StatusBadRequest)
		return
	}
	b.tell(r.PathValue("start"))
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	if r.URL.Query().Get("watch") != "true" {
		_ = out.Encode(b.Summary())
		return
	}
	control := http.NewResponseController(w)
	for {
		changed := b.changedSignal()
		_ = control.SetWriteDeadline(time.Now().Add(slowPeer))
		if out.Encode(b.Summary()) != nil || control.Flush() != nil {
			return
		}
		if !pause(r, summaryPeriod, nil) || !pause(r, summaryHeartbeat-summaryPeriod, changed) {
			return
		}
	}
}

// pause waits for a time or a signal; false when the request ends.
func pause(r *http.Request, d time.Duration, signal <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-signal:
	case <-r.Context().Done():
		return false
	}
	return true
}
