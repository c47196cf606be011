// Package summary serves what an engine says of itself over HTTP.
package summary

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/millrace/millrace/apis/contract"
)

const (
	period    = time.Second      // between two summaries of a stream
	heartbeat = 15 * time.Second // after which the last one is sent again
	slowPeer  = 10 * time.Second // for one summary to be taken
)

// An engine tells its numbers within its half of the age of a status, or this
// does not compile.
const _ = uint64(contract.StatusAge/2 - period)

// Serve answers with the latest Summary once; or, where the query has
// watch=true, with each one as long as the peer listens and done is open.
// changed is closed with the next change after it was called.
func Serve(w http.ResponseWriter, r *http.Request, done <-chan struct{}, latest func() contract.Summary, changed func() <-chan struct{}) {
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	if r.URL.Query().Get("watch") != "true" {
		_ = out.Encode(latest())
		return
	}
	control := http.NewResponseController(w)
	for {
		next := changed()
		_ = control.SetWriteDeadline(time.Now().Add(slowPeer))
		if out.Encode(latest()) != nil || control.Flush() != nil {
			return
		}
		if !pause(r, done, period, nil) || !pause(r, done, heartbeat-period, next) {
			return
		}
	}
}

// pause waits for a time or a signal; false when the request ends, or done.
func pause(r *http.Request, done <-chan struct{}, d time.Duration, signal <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-signal:
	case <-r.Context().Done():
		return false
	case <-done:
		return false
	}
	return true
}
