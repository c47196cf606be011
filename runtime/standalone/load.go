package standalone

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc/status"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/component"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// loadRequest is what travels to the daemon, loadEvent one line of its answer.
type loadRequest struct {
	// Paths are those of the dataset.
	Paths    []string             `json:"paths"`
	Metadata bool                 `json:"metadata"`
	Options  contract.LoadOptions `json:"options"`
}

type loadEvent struct {
	contract.LoadSummary
	// Error ends the load; Hopeless tells that another try would meet it again.
	Error    string `json:"error,omitempty"`
	Hopeless bool   `json:"hopeless,omitempty"`
}

// maxLoadBytes bounds a request: the master's gRPC takes 4 MiB.
const maxLoadBytes = 3 << 20

// serveLoad starts or joins a load and tells how far it is. It goes on when the
// asker has left.
func (c *control) serveLoad(w http.ResponseWriter, r *http.Request) {
	var request loadRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 2*maxLoadBytes)).Decode(&request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	load := &wirepb.LoadRequest{Id: request.id(), LoadMetadata: request.Metadata}
	for _, path := range request.Paths {
		load.Targets = append(load.Targets, &wirepb.LoadTarget{Path: path})
	}
	component.SetLoadOptions(load, request.Options)
	out, flush := json.NewEncoder(w), http.NewResponseController(w)
	_ = flush.Flush()
	tell := func(e loadEvent) {
		_ = out.Encode(e) // an asker who has left ends the request's context
		_ = flush.Flush()
	}
	_, err := component.Load(r.Context(), wirepb.NewMasterClient(c.conn), load, func(p *wirepb.LoadProgress) {
		tell(loadEvent{LoadSummary: contract.LoadSummary{
			ID: load.GetId(), Phase: p.GetPhase(), Message: p.GetMessage(), BytesTotal: p.GetBytesTotal(), BytesDone: p.GetBytesDone(),
			FilesTotal: p.GetFilesTotal(), FilesDone: p.GetFilesDone(), BytesPerSecond: p.GetBytesPerSecond(), FilesFailed: p.GetFilesFailed(),
		}})
	})
	if err != nil {
		tell(loadEvent{Error: err.Error(), Hopeless: errors.As(err, &component.Hopeless{})})
	}
}

// serveCancel answers when the load of the same paths has ended.
func (c *control) serveCancel(w http.ResponseWriter, r *http.Request) {
	var request loadRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 2*maxLoadBytes)).Decode(&request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var answer cancelAnswer
	ctx, cancel := context.WithTimeout(r.Context(), masterAnswer)
	defer cancel()
	reply, err := wirepb.NewMasterClient(c.conn).CancelLoad(ctx, &wirepb.CancelLoadRequest{Id: request.id(), Reason: "by millrace load --cancel"})
	if err != nil {
		answer.Error = status.Convert(err).Message()
	}
	answer.Cancelled = reply.GetCancelled()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

type cancelAnswer struct {
	Cancelled bool   `json:"cancelled"`
	Error     string `json:"error,omitempty"`
}

// id is the same for the same paths, so that whoever asks again joins.
func (r loadRequest) id() string {
	sum := sha256.New()
	for _, p := range r.Paths {
		fmt.Fprintf(sum, "%q", p)
	}
	return "cli-" + hex.EncodeToString(sum.Sum(nil)[:8])
}

// ErrWaitingEnded: somebody stopped waiting for a load, which goes on.
var ErrWaitingEnded = errors.New("stopped waiting")

// Load brings paths below a mount into the cache and returns when all of it is
// there. The paths may be patterns. Each is told how far it is. A load of the same
// paths that runs is joined as it is.
func Load(ctx context.Context, runDir string, paths []string, metadata bool, options contract.LoadOptions, each func(contract.LoadSummary)) error {
	p, s, inside, err := loadTargets(runDir, paths)
	if err != nil {
		return component.Hopeless{Err: err}
	}
	if !p.alive() {
		return fmt.Errorf("%s: %w", s.MountPoint, errDead)
	}
	body, err := json.Marshal(loadRequest{inside, metadata, options})
	if err != nil {
		return err
	}
	if len(body) > maxLoadBytes {
		return component.Hopeless{Err: fmt.Errorf("%d paths are too many for one load: name their directories", len(paths))}
	}
	response, err := p.send(ctx, http.MethodPost, pathLoad, bytes.NewReader(body))
	if err != nil {
		return waitingEnded(ctx, s, err)
	}
	defer response.Body.Close()
	var last loadEvent
	for lines := json.NewDecoder(response.Body); ; {
		var e loadEvent
		switch err := lines.Decode(&e); {
		case errors.Is(err, io.EOF) && last.Phase == contract.LoadComplete:
			return nil
		case err != nil && ctx.Err() == nil && s.Master == "":
			return fmt.Errorf("the daemon of %s ended before the load did; what was loaded stays", s.MountPoint)
		case err != nil:
			return waitingEnded(ctx, s, fmt.Errorf("hear of the load: %w", err))
		case e.Hopeless:
			return component.Hopeless{Err: errors.New(e.Error)}
		case e.Error != "":
			return errors.New(e.Error)
		}
		last = e
		each(e.LoadSummary)
	}
}

var errDead = errors.New("its daemon ended without a word; mount it again, or clean up with millrace unmount")

// waitingEnded says what becomes of the load when nobody waits any more.
func waitingEnded(ctx context.Context, s State, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("%w: %w; the load goes on: see millrace status %s, and the same words wait for it again", ErrWaitingEnded, ctx.Err(), s.MountPoint)
}

// CancelLoad ends the load of these paths and returns when it has ended. What it
// has cached stays.
func CancelLoad(ctx context.Context, runDir string, paths []string) error {
	p, s, inside, err := loadTargets(runDir, paths)
	if err != nil {
		return component.Hopeless{Err: err}
	}
	if !p.alive() {
		return fmt.Errorf("%s: %w", s.MountPoint, errDead)
	}
	body, err := json.Marshal(loadRequest{Paths: inside})
	if err != nil {
		return err
	}
	response, err := p.send(ctx, http.MethodPost, pathCancel, bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var answer cancelAnswer
	switch err := json.NewDecoder(response.Body).Decode(&answer); {
	case err != nil:
		return fmt.Errorf("hear what became of it: %w", err)
	case answer.Error != "":
		return errors.New(answer.Error)
	case !answer.Cancelled:
		return component.Hopeless{Err: fmt.Errorf("no load of these paths is running: say them as they were given to millrace load; millrace status %s shows what runs", s.MountPoint)}
	}
	return nil
}

// loadTargets expands patterns, and finds the one mount that all paths are in.
func loadTargets(runDir string, paths []string) (p place, s State, inside []string, err error) {
	for _, path := range paths {
		found := []string{path}
		if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) && strings.ContainsAny(path, `*?[`) {
			if found, err = filepath.Glob(path); err != nil {
				return place{}, State{}, nil, fmt.Errorf("pattern %s: %w", path, err)
			}
			if len(found) == 0 {
				return place{}, State{}, nil, fmt.Errorf("nothing matches %s", path)
			}
		}
		for _, f := range found {
			at, state, in, err := find(runDir, f)
			if err != nil {
				return place{}, State{}, nil, err
			}
			if p.dir != "" && p != at {
				return place{}, State{}, nil, fmt.Errorf("%s is in the mount %s and others are in %s: load them one after the other", f, state.MountPoint, s.MountPoint)
			}
			p, s = at, state
			if !slices.Contains(inside, in) {
				inside = append(inside, in)
			}
		}
	}
	return p, s, inside, nil
}
