package bridge

import (
	"net/http"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/summary"
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
	summary.Serve(w, r, nil, b.Summary, b.changedSignal)
}
