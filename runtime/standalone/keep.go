package standalone

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/component"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// Action is what becomes of cached files.
type Action string

// Actions of Keep.
const (
	Pin   Action = "pin"
	Unpin Action = "unpin"
	Free  Action = "free"
)

var keepActions = map[Action]wirepb.KeepAction{
	Pin: wirepb.KeepAction_KEEP_ACTION_PIN, Unpin: wirepb.KeepAction_KEEP_ACTION_UNPIN, Free: wirepb.KeepAction_KEEP_ACTION_FREE,
}

// keepRequest is what travels to the daemon, keepAnswer what comes back.
type keepRequest struct {
	Action Action `json:"action"`
	// Paths are those of the dataset.
	Paths []string `json:"paths"`
}

type keepAnswer struct {
	contract.KeepSummary
	// Error is why it was not done; Hopeless tells that another try would meet it again.
	Error    string `json:"error,omitempty"`
	Hopeless bool   `json:"hopeless,omitempty"`
}

// serveKeep answers when all workers have done it.
func (c *control) serveKeep(w http.ResponseWriter, r *http.Request) {
	var request keepRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 2*maxLoadBytes)).Decode(&request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var answer keepAnswer
	reply, err := wirepb.NewMasterClient(c.conn).Keep(r.Context(), &wirepb.KeepRequest{Action: keepActions[request.Action], Paths: request.Paths})
	if err != nil {
		answer.Error = status.Convert(err).Message()
		switch status.Code(err) {
		case codes.NotFound, codes.InvalidArgument, codes.FailedPrecondition, codes.PermissionDenied:
			answer.Hopeless = true
		}
	} else {
		answer.KeepSummary = contract.KeepSummary{Files: reply.GetFiles(), Bytes: reply.GetBytes(), CachedFiles: reply.GetCachedFiles(),
			CachedBytes: reply.GetCachedBytes(), PinnedFiles: reply.GetPinnedFiles()}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// Keep pins, unpins or frees what the cache has of paths below a mount, which
// may be patterns.
func Keep(ctx context.Context, runDir string, action Action, paths []string) (contract.KeepSummary, error) {
	p, s, inside, err := loadTargets(runDir, paths)
	if err != nil {
		return contract.KeepSummary{}, component.Hopeless{Err: err}
	}
	if !p.alive() {
		return contract.KeepSummary{}, fmt.Errorf("%s: %w", s.MountPoint, errDead)
	}
	body, err := json.Marshal(keepRequest{action, inside})
	if err != nil {
		return contract.KeepSummary{}, err
	}
	if len(body) > maxLoadBytes {
		return contract.KeepSummary{}, component.Hopeless{Err: fmt.Errorf("%d paths are too many at once: name their directories", len(paths))}
	}
	response, err := p.send(ctx, http.MethodPost, pathKeep, bytes.NewReader(body))
	if err != nil {
		return contract.KeepSummary{}, err
	}
	defer response.Body.Close()
	var answer keepAnswer
	switch err := json.NewDecoder(response.Body).Decode(&answer); {
	case err != nil:
		return contract.KeepSummary{}, fmt.Errorf("hear what became of it: %w", err)
	case answer.Hopeless:
		return contract.KeepSummary{}, component.Hopeless{Err: errors.New(answer.Error)}
	case answer.Error != "":
		return contract.KeepSummary{}, errors.New(answer.Error)
	}
	return answer.KeepSummary, nil
}
