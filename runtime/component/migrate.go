package component

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/migrate"
	"github.com/millrace/millrace/runtime/source"
)

const (
	// defaultStreams is how many files are copied at once.
	defaultStreams = 8
	// progressEvery is how often the stream of a copy's progress tells of it.
	progressEvery = time.Second
	// progressAnyway is how often it does so though nothing changed, so that a dead
	// peer is noticed.
	progressAnyway = 15 * time.Second
)

// Migrate copies what a migration says. While it does, its progress is served at
// address as a master serves that of its loads.
func Migrate(ctx context.Context, m *contract.Migration, open OpenSource, address string) (migrate.Progress, error) {
	s := &Settings{RuntimeConfig: &contract.RuntimeConfig{Egress: m.Egress}, OpenSource: open}
	from, err := s.openSource(ctx, m.From)
	if err != nil {
		return migrate.Progress{}, verdict(err)
	}
	defer func() { _ = from.Close() }()
	to, err := s.openTarget(ctx, m)
	if err != nil {
		return migrate.Progress{}, verdict(err)
	}
	defer func() { _ = to.Close() }()
	c := &migrate.Copy{From: from, Path: strings.Trim(m.FromPath, "/"), To: to, Streams: m.Streams}
	if c.Streams == 0 {
		c.Streams = defaultStreams
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return migrate.Progress{}, fmt.Errorf("serve progress: %w", err)
	}
	server := &http.Server{Handler: progressHandler(m.ID, c), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan struct{})
	go func() { // ends with the server, which is closed below
		defer close(served)
		_ = server.Serve(listener)
	}()
	err = c.Run(ctx)
	_ = server.Close()
	<-served
	return c.Progress(), verdict(err)
}

// verdict marks what another try would meet again.
func verdict(err error) error {
	if errors.Is(err, source.ErrInvalid) || errors.Is(err, source.ErrNotExist) || errors.Is(err, source.ErrDenied) {
		return Hopeless{err}
	}
	return err
}

// openTarget opens where a migration copies to.
func (s *Settings) openTarget(ctx context.Context, m *contract.Migration) (migrate.Target, error) {
	if claim, sub, ok := contract.PVCClaim(m.To.MountPoint); ok {
		return migrate.OpenDirectory(contract.PVCDir(claim), sub+"/"+m.ToPath, m.To.MountPoint)
	}
	to := m.To
	if below := strings.Trim(m.ToPath, "/"); below != "" {
		to.MountPoint = strings.TrimRight(to.MountPoint, "/") + "/" + below
	}
	store, err := s.openSource(ctx, to)
	if err != nil {
		return nil, err
	}
	target, ok := store.(migrate.Target)
	if !ok {
		_ = store.Close()
		return nil, fmt.Errorf("write to %s: nothing can be written to this kind of storage: copy to pvc:// or to a store that speaks S3: %w", WithoutUser(to.MountPoint), source.ErrInvalid)
	}
	return target, nil
}

// progressHandler speaks the part of a master's HTTP interface that tells of loads.
func progressHandler(id string, c *migrate.Copy) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+contract.PathSummary, func(w http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		told, at, was := contract.Summary{}, time.Time{}, migrate.Progress{}
		for {
			p := c.Progress()
			next := contract.Summary{Revision: told.Revision, Loads: []contract.LoadSummary{summaryOf(id, p, p.BytesDone-was.BytesDone)}}
			if told.Revision == 0 {
				next.Loads[0].BytesPerSecond = 0
			}
			was = p
			if !reflect.DeepEqual(next, told) || time.Since(at) >= progressAnyway {
				next.Revision++
				told, at = next, time.Now()
				if json.NewEncoder(w).Encode(next) != nil || http.NewResponseController(w).Flush() != nil {
					return
				}
			}
			if r.URL.Query().Get("watch") != "true" {
				return
			}
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	})
	return mux
}

func summaryOf(id string, p migrate.Progress, lately int64) contract.LoadSummary {
	return contract.LoadSummary{
		ID: id, Phase: contract.LoadRunning, BytesTotal: p.BytesTotal, BytesDone: p.BytesDone, FilesTotal: p.FilesTotal, FilesDone: p.FilesDone,
		BytesPerSecond: max(lately, 0),
	}
}
