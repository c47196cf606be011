package component

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/fsnotify/fsnotify"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/source"
)

const (
	// probeTime is how long a source that takes the place of another may need to
	// answer; one that was refused is tried again from probeFirst up to probeLast apart.
	probeTime  = 30 * time.Second
	probeFirst = time.Second
	probeLast  = 30 * time.Second
	// lookAgain is how often the file is read although nobody said that it changed.
	lookAgain = time.Minute
)

// setMounts serves the mounts of a table. refused are the paths that keep the
// source they had, and why.
type setMounts func(mounts []namespace.Mount, table string, refused map[string]error) error

func sourcesOnly(set func([]namespace.Mount)) setMounts {
	return func(mounts []namespace.Mount, _ string, _ map[string]error) error {
		set(mounts)
		return nil
	}
}

// takeIn has a component do what the rest of changed settings says. An error is
// of what cannot be done; what was so before stays so.
type takeIn func(*Settings) error

// follow serves the mounts that the file of the settings names and takes in the
// rest of it, as it changes, until the context ends. A path whose new source does
// not answer keeps the one that it had.
func (s *Settings) follow(ctx context.Context, set setMounts, rest takeIn) error {
	if s.File == "" {
		<-ctx.Done()
		return nil
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", s.File, err)
	}
	defer func() { _ = watcher.Close() }()
	// The directory: a kubelet replaces the link ..data in it, others the file.
	if err := watcher.Add(filepath.Dir(s.File)); err != nil {
		return fmt.Errorf("watch %s: %w", s.File, err)
	}
	f := &follower{settings: s, set: set, rest: rest, served: s.Mounts(), table: s.MountTable()}
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = probeFirst, probeLast
	for {
		wait := lookAgain
		if f.look(ctx) {
			retry.Reset()
		} else {
			wait = retry.NextBackOff()
		}
		again := time.NewTimer(wait)
		select {
		case <-watcher.Events:
			retry.Reset()
		case err := <-watcher.Errors:
			slog.WarnContext(ctx, "watch the configuration", "error", err)
		case <-again.C:
		case <-ctx.Done():
		}
		again.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

type follower struct {
	settings *Settings
	set      setMounts
	rest     takeIn
	heard    []byte // what was taken in but for its mounts
	read     []byte
	served   []namespace.Mount
	table    string
	refused  map[string]error
}

// look reads the file and serves what it says; false when that has to be tried again.
func (f *follower) look(ctx context.Context) bool {
	data, err := os.ReadFile(f.settings.File)
	if err != nil {
		slog.WarnContext(ctx, "read the configuration again", "error", err)
		return false
	}
	if bytes.Equal(data, f.read) && len(f.refused) == 0 {
		return true
	}
	config, err := contract.DecodeRuntimeConfig(data)
	if err != nil {
		slog.WarnContext(ctx, "the configuration was changed to one that cannot be read; the former one is served", "file", f.settings.File, "error", err)
		return false
	}
	next := *f.settings
	next.RuntimeConfig = config
	if !bytes.Equal(data, f.heard) {
		if err := f.rest(&next); err != nil {
			slog.WarnContext(ctx, "not all of the changed configuration can be taken in", "file", f.settings.File, "error", err)
		}
		f.heard = data
	}
	if config.MountTable() == f.table && len(f.refused) == 0 {
		f.read = data
		return true
	}
	mounts, refused := f.choose(ctx, next.Mounts())
	if ctx.Err() != nil {
		return true
	}
	if err := f.set(mounts, config.MountTable(), refused); err != nil {
		slog.WarnContext(ctx, "the mounts cannot be changed; the former ones are served", "error", err)
		return false
	}
	slog.InfoContext(ctx, "mounts changed", "mounts", len(mounts), "refused", len(refused), "table", config.MountTable())
	f.read, f.served, f.table, f.refused = data, mounts, config.MountTable(), refused
	return len(refused) == 0
}

// choose takes, of each path that is served and shall be otherwise, the new mount
// if its source answers, else the former one.
func (f *follower) choose(ctx context.Context, wanted []namespace.Mount) (mounts []namespace.Mount, refused map[string]error) {
	served := map[string]namespace.Mount{}
	for _, m := range f.served {
		served[m.Path] = m
	}
	refused = map[string]error{}
	for _, m := range wanted {
		was, ok := served[m.Path]
		if ok && (was.ID != m.ID || was.Version != m.Version) {
			if err := probe(ctx, m); err != nil {
				slog.WarnContext(ctx, "the new source does not answer; the former one is served", "mount", m.Path, "source", m.URI, "error", err)
				refused[m.Path] = fmt.Errorf("%s is not served yet, and what was mounted before is: %w", m.URI, err)
				m = was
			}
		}
		mounts = append(mounts, m)
	}
	return mounts, refused
}

// probe tells whether a source can be read.
func probe(ctx context.Context, m namespace.Mount) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	store, err := m.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	_, err = source.Answers(ctx, store, m.URI)
	return err
}
