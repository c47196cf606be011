package master

import (
	"encoding/json"
	"net/http"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/summary"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// Handler serves the HTTP interface of the contract; metrics serves the metrics.
func (m *Master) Handler(metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+contract.PathSummary, m.serveSummary)
	mux.HandleFunc("POST "+contract.PathRetire, func(w http.ResponseWriter, _ *http.Request) {
		m.Retire()
		w.WriteHeader(http.StatusAccepted)
	})
	mux.HandleFunc("POST "+contract.PathRevalidate, m.serveRevalidate)
	mux.HandleFunc("POST "+contract.PathCancelLoad, m.serveCancelLoad)
	for path, action := range map[string]wirepb.KeepAction{
		contract.PathPin: wirepb.KeepAction_KEEP_ACTION_PIN, contract.PathUnpin: wirepb.KeepAction_KEEP_ACTION_UNPIN,
		contract.PathFree: wirepb.KeepAction_KEEP_ACTION_FREE,
	} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) { m.serveKeep(w, r, action) })
	}
	mux.HandleFunc("GET "+contract.PathHealthy, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.Handle("GET "+contract.PathMetrics, metrics)
	return mux
}

// serveRevalidate answers when the sources were looked at.
func (m *Master) serveRevalidate(w http.ResponseWriter, r *http.Request) {
	reply, err := m.Revalidate(r.Context(), &wirepb.RevalidateRequest{Path: r.URL.Query().Get("path")})
	switch {
	case status.Code(err) == codes.NotFound:
		http.Error(w, status.Convert(err).Message(), http.StatusNotFound)
	case err != nil:
		http.Error(w, status.Convert(err).Message(), http.StatusBadGateway)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(contract.RevalidateReply{Snapshot: namespace.RecordOf(reply.GetSnapshot()).String()})
	}
}

// serveKeep answers when all workers have done it.
func (m *Master) serveKeep(w http.ResponseWriter, r *http.Request, action wirepb.KeepAction) {
	reply, err := m.Keep(r.Context(), &wirepb.KeepRequest{Action: action, Paths: r.URL.Query()["path"]})
	if err != nil {
		http.Error(w, status.Convert(err).Message(), httpCode(status.Code(err)))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(keepSummary(reply))
}

// serveCancelLoad answers when the load has ended.
func (m *Master) serveCancelLoad(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	reply, err := m.CancelLoad(r.Context(), &wirepb.CancelLoadRequest{Id: query.Get("id"), Reason: query.Get("reason"), ForGood: true})
	if err != nil {
		http.Error(w, status.Convert(err).Message(), httpCode(status.Code(err)))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]bool{"cancelled": reply.GetCancelled()})
}

// httpCode is what a client of HTTP is told: below 500 another try is vain.
func httpCode(c codes.Code) int {
	switch c {
	case codes.NotFound:
		return http.StatusNotFound
	case codes.InvalidArgument:
		return http.StatusBadRequest
	case codes.FailedPrecondition:
		return http.StatusConflict
	case codes.PermissionDenied:
		return http.StatusForbidden
	default:
		return http.StatusBadGateway
	}
}

func (m *Master) serveSummary(w http.ResponseWriter, r *http.Request) {
	summary.Serve(w, r, m.ctx.Done(), m.Summary, m.changedSignal)
}
