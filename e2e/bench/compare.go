package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// side is one of two ways to do the same work. before prepares each run and is
// not measured.
type side struct {
	work   work
	before func() error
}

func (s side) run() (done, error) {
	if s.before != nil {
		if err := s.before(); err != nil {
			return done{}, err
		}
	}
	return s.work()
}

// pairs are the runs of two sides in turn.
type pairs struct{ a, b []done }

// inTurn runs a and b in turn, so that a machine whose speed drifts drifts for
// both.
func (b *Bench) inTurn(x, y side) (pairs, error) {
	var p pairs
	for range b.Runs {
		dx, err := x.run()
		if err != nil {
			return p, err
		}
		dy, err := y.run()
		if err != nil {
			return p, err
		}
		p.a, p.b = append(p.a, dx), append(p.b, dy)
	}
	return p, nil
}

// ratio is a figure of the rate of a over that of b, pair by pair.
func (p pairs) ratio(name string, target *float64, note func(a, b done) string) Figure {
	ratios := make([]float64, len(p.a))
	for i := range p.a {
		ratios[i] = rate(p.a[i]) / rate(p.b[i])
	}
	f := ofRuns(name, "x", ratios, target, higher)
	f.Note = note(p.a[len(p.a)/2], p.b[len(p.b)/2])
	return f
}

// rate is bytes a second, or operations where no bytes move.
func rate(d done) float64 {
	if d.Bytes > 0 {
		return d.bytesPerSec()
	}
	return d.perSecond()
}

// ofRuns is the figure of several runs: their median and their spread.
func ofRuns(name, unit string, values []float64, target *float64, better string) Figure {
	f := Figure{Name: name, Value: median(values), Unit: unit, Target: target, Better: better, Spread: [2]float64{values[0], values[0]}}
	for _, v := range values {
		f.Spread[0], f.Spread[1] = min(f.Spread[0], v), max(f.Spread[1], v)
	}
	return f
}

func aim(v float64) *float64 { return &v }

// gigabytes and thousands write a note.
func gigabytes(a, b done) string {
	return fmt.Sprintf("%.2f of %.2f GB/s", a.bytesPerSec()/1e9, b.bytesPerSec()/1e9)
}

func thousands(a, b done) string {
	return fmt.Sprintf("%.1f of %.1f k/s", a.perSecond()/1e3, b.perSecond()/1e3)
}

// once is the figure of one run.
func once(name, unit string, value float64, target *float64, better, note string) Figure {
	return Figure{Name: name, Value: value, Unit: unit, Target: target, Better: better, Note: note}
}

// until looks for ok often, up to a limit or until ctx ends: what it waits for
// is another program, which tells nobody.
func until(ctx context.Context, what string, limit time.Duration, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		good, err := ok()
		if good {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, errors.Join(ctx.Err(), err))
		}
	}
}
