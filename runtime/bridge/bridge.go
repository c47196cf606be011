// Package bridge speaks for a cache engine that is not ours. It stands beside
// the engine's master, runs the commands that the engine's class names, and
// serves what they print as a Summary, as a native master does.
package bridge

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/millrace/millrace/apis/contract"
)

const (
	// configPeriod is how often the configuration is looked at.
	configPeriod = time.Second
	// reportIdle is the longest pause between two reports while nothing moves.
	reportIdle = 30 * time.Second
	// mountRetryMax is the longest pause between two tries to mount.
	mountRetryMax = 30 * time.Second
	// maxStarts bounds how many starts of the engine are remembered.
	maxStarts = 64
)

// Options of a Bridge.
type Options struct {
	// RuntimeConfig and EngineConfig are the paths of runtime.json and engine.json,
	// which are read again when they change.
	RuntimeConfig, EngineConfig string
	// ReportPeriod is the shortest pause between two reports (default 5 s). It is
	// longer after a slow one, and while nothing moves.
	ReportPeriod time.Duration
	Log          *slog.Logger
}

// Bridge runs the commands, one at a time, and keeps the Summary.
type Bridge struct {
	options Options
	// told wakes Run when another start of the engine is ready.
	told chan struct{}

	mu      sync.Mutex
	summary contract.Summary
	changed chan struct{} // closed and replaced when summary changes
	starts  []string      // of the engine, the present one last
}

// New makes a Bridge that Run brings to life.
func New(o Options) *Bridge {
	if o.ReportPeriod <= 0 {
		o.ReportPeriod = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Bridge{
		options: o, told: make(chan struct{}, 1), changed: make(chan struct{}),
		summary: contract.Summary{Engine: &contract.EngineSummary{}},
	}
}

// Summary is what is known now.
func (b *Bridge) Summary() contract.Summary {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.summary
}

func (b *Bridge) changedSignal() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

// change replaces the Summary by one that edit has made of a copy. The slices
// and pointers of a Summary that was given away are never written to.
func (b *Bridge) change(edit func(*contract.Summary)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := b.summary
	own := *next.Engine
	next.Engine = &own
	edit(&next)
	if reflect.DeepEqual(next, b.summary) {
		return
	}
	next.Revision++
	b.summary = next
	close(b.changed)
	b.changed = make(chan struct{})
}

// tell notes that a start of the engine is ready. One that was heard of before
// changes nothing: who still speaks of it is behind.
func (b *Bridge) tell(start string) {
	b.mu.Lock()
	known := slices.Contains(b.starts, start)
	if !known {
		b.starts = append(b.starts, start)
		if len(b.starts) > maxStarts {
			b.starts = b.starts[1:]
		}
	}
	b.mu.Unlock()
	if known {
		return
	}
	select {
	case b.told <- struct{}{}:
	default:
	}
}

func (b *Bridge) start() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.starts) == 0 {
		return ""
	}
	return b.starts[len(b.starts)-1]
}

// work is what Run has done and is to do.
type work struct {
	runtime *contract.RuntimeConfig
	engine  *contract.EngineConfig
	// mounted names the start and the mounts that are served.
	mounted    string
	mountNext  time.Time
	mountPause *backoff.ExponentialBackOff
	reportNext time.Time
	// idle is the pause before the next report if that brings nothing new.
	idle time.Duration
}

// Run runs the commands until ctx ends; first when somebody has told that the
// engine is ready.
func (b *Bridge) Run(ctx context.Context) error {
	w := &work{mountPause: backoff.NewExponentialBackOff()}
	w.mountPause.InitialInterval, w.mountPause.MaxInterval = time.Second, mountRetryMax
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.told:
			w.mountNext, w.reportNext = time.Time{}, time.Time{}
		case <-timer.C:
		}
		if start := b.start(); start != "" {
			if err := b.step(ctx, w, start); err != nil {
				b.options.Log.Warn("read configuration", "error", err)
			}
		}
		timer.Reset(configPeriod)
	}
}

// step does what is due.
func (b *Bridge) step(ctx context.Context, w *work, start string) error {
	if err := b.read(w); err != nil {
		return err
	}
	if w.mounted != start+"@"+w.runtime.MountTable() && !time.Now().Before(w.mountNext) {
		if b.mount(ctx, w) {
			w.mounted = start + "@" + w.runtime.MountTable()
			w.mountPause.Reset()
			w.reportNext = time.Time{}
		} else {
			w.mountNext = time.Now().Add(w.mountPause.NextBackOff())
		}
	}
	if w.engine.ReportSummary != nil && !time.Now().Before(w.reportNext) {
		before, began := b.Summary(), time.Now()
		b.report(ctx, w)
		after := b.Summary()
		if before.Revision != after.Revision {
			w.idle = 0
		}
		w.idle = min(max(b.options.ReportPeriod, 2*w.idle), max(b.options.ReportPeriod, reportIdle))
		w.reportNext = time.Now().Add(max(w.idle, 2*time.Since(began)))
	}
	return nil
}

// read takes the configuration in. What is half written is read again.
func (b *Bridge) read(w *work) error {
	text, err := os.ReadFile(b.options.RuntimeConfig)
	if err != nil {
		return err
	}
	runtime, err := contract.DecodeRuntimeConfig(text)
	if err != nil {
		return err
	}
	if text, err = os.ReadFile(b.options.EngineConfig); err != nil {
		return err
	}
	engine, err := contract.DecodeEngineConfig(text)
	if err != nil {
		return err
	}
	w.runtime, w.engine = runtime, engine
	return nil
}

// mount has the engine mount the sources and tells which it has; done when it
// has all of them.
func (b *Bridge) mount(ctx context.Context, w *work) (done bool) {
	var mounted []string
	var why string
	if w.engine.MountUFS != nil {
		out, err := run(ctx, w.engine.MountUFS, secrets(w.runtime))
		if err == nil {
			mounted, err = mountedPaths(out)
		}
		if err != nil {
			why = "mountUFS " + err.Error()
		}
	}
	if ctx.Err() != nil {
		return false
	}
	done = why == ""
	var mounts []contract.MountSummary
	for _, m := range w.runtime.Mounts {
		at := contract.MountPath(m.Path, m.Name)
		seen := contract.MountSummary{Path: at, Ready: true, Reason: contract.MountReady}
		if w.engine.MountUFS != nil && !slices.Contains(mounted, at) {
			seen.Ready, seen.Reason, seen.Message, done = false, contract.MountUnavailable, why, false
			if why == "" {
				seen.Message = fmt.Sprintf("the engine did not mount it; it has mounted: %s", strings.Join(mounted, ", "))
			}
		}
		mounts = append(mounts, seen)
	}
	b.change(func(s *contract.Summary) { s.Mounts, s.MountTable = mounts, w.runtime.MountTable() })
	if !done {
		b.options.Log.Warn("sources are not mounted yet", "cause", why)
	}
	return done
}

// report has the engine tell its numbers. What it told before stays when it
// cannot.
func (b *Bridge) report(ctx context.Context, w *work) {
	out, err := run(ctx, w.engine.ReportSummary, secrets(w.runtime))
	var numbers report
	if err == nil {
		numbers, err = parseReport(out)
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		b.change(func(s *contract.Summary) { s.Engine.Message = "reportSummary " + err.Error() })
		return
	}
	b.change(numbers.into)
}
