package standalone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/master"
)

// Look asks the daemons of the mounts that hold the paths, or all of them.
func Look(ctx context.Context, runDir string, paths []string) ([]Status, error) {
	var at []place
	for _, path := range paths {
		p, _, _, err := find(runDir, path)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(at, p) {
			at = append(at, p)
		}
	}
	if len(paths) == 0 {
		var err error
		if at, err = places(runDir); err != nil {
			return nil, fmt.Errorf("look for daemons: %w", err)
		}
	}
	out := make([]Status, 0, len(at))
	for _, p := range at {
		out = append(out, p.look(ctx))
	}
	slices.SortFunc(out, func(a, b Status) int { return strings.Compare(a.MountPoint, b.MountPoint) })
	return out, ctx.Err()
}

func (p place) look(ctx context.Context) Status {
	s := Status{HitRatio: -1}
	err := p.call(ctx, http.MethodGet, pathStatus, &s)
	if err == nil {
		return s
	}
	s.Problem = err.Error()
	var errRead error
	if s.State, errRead = p.read(); errRead != nil {
		s.Problem = errors.Join(err, errRead).Error()
	}
	if s.Alive = p.alive(); !s.Alive {
		s.Problem = errDead.Error()
	}
	return s
}

// Write writes a table of them, and more of a single one.
func Write(out io.Writer, all []Status) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "nothing is mounted")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "MOUNT\tSOURCE\tSIZE\tFILES\tCACHED\tHITS\tREAD\tSTATE")
	for _, s := range all {
		fmt.Fprintln(table, strings.Join(row(s), "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, s := range all {
		if err := writeNotes(out, s, len(all) == 1); err != nil {
			return err
		}
	}
	return nil
}

func row(s Status) []string {
	source := strings.ReplaceAll(strings.Join(s.Sources, " "), contract.SchemeLocal, "")
	sum := s.Summary
	if sum == nil {
		return []string{s.MountPoint, source, "?", "?", "?", "?", "?", stateWord(s)}
	}
	more := ""
	if !sum.MetadataComplete {
		more = "+" // the sources are still being listed
	}
	hits := "-"
	if s.HitRatio >= 0 {
		hits = fmt.Sprintf("%.1f%%", 100*s.HitRatio)
	}
	return []string{
		s.MountPoint, source, master.FormatBytes(sum.UFSTotalBytes) + more, fmt.Sprint(sum.FileNum) + more, cachedWords(sum),
		hits, master.FormatBytes(s.ReadBytesPerSecond) + "/s", stateWord(s),
	}
}

// cachedWords are the bytes that are cached, and how much of all that is.
func cachedWords(s *contract.Summary) string {
	words := master.FormatBytes(s.CachedBytes)
	if s.MetadataComplete {
		part := 100.0
		if s.UFSTotalBytes > 0 {
			part = 100 * float64(s.CachedBytes) / float64(s.UFSTotalBytes)
		}
		words += fmt.Sprintf(" (%.1f%%)", part)
	}
	return words
}

func stateWord(s Status) string {
	switch {
	case !s.Alive:
		return "Dead"
	case s.Summary == nil:
		return "Silent"
	case slices.ContainsFunc(s.Summary.Mounts, func(m contract.MountSummary) bool { return !m.Ready }):
		return "Degraded"
	default:
		return "Ready"
	}
}

// writeNotes writes what is wrong, and of a single mount all there is to know.
func writeNotes(out io.Writer, s Status, all bool) error {
	var w strings.Builder
	if s.Problem != "" {
		fmt.Fprintf(&w, "%s: %s\n", s.MountPoint, s.Problem)
	}
	if sum := s.Summary; sum != nil {
		for _, m := range sum.Mounts {
			if m.Message != "" || all && len(sum.Mounts) > 1 {
				fmt.Fprintf(&w, "source %s: %s %s, %d files %s\n", m.Path, m.Reason, master.FormatBytes(m.Bytes), m.Files, m.Message)
			}
		}
		for _, l := range sum.Loads {
			if all || l.Phase == contract.LoadRunning {
				fmt.Fprintf(&w, "load %s: %s %s\n", l.ID, l.Phase, strings.TrimSpace(words(l)))
			}
		}
		for _, worker := range sum.Workers {
			if worker.Message != "" || all && len(s.Tiers) == 0 {
				fmt.Fprintf(&w, "worker %s: %s of %s used %s\n", worker.Name, master.FormatBytes(worker.UsedBytes), master.FormatBytes(worker.CapacityBytes), worker.Message)
			}
		}
	}
	if all {
		if s.Master != "" {
			fmt.Fprintf(&w, "master: %s\n", s.Master)
		}
		for _, t := range s.Tiers {
			fmt.Fprintf(&w, "cache %s %s: %s of %s used\n", t.Medium, t.Path, master.FormatBytes(t.UsedBytes), master.FormatBytes(t.CapacityBytes))
		}
		fmt.Fprintf(&w, "daemon: process %d, version %s, since %s, log %s\n", s.PID, s.Version, s.StartedAt.Format(time.RFC3339), s.LogFile)
	}
	text := ""
	for line := range strings.Lines(w.String()) {
		text += strings.TrimRight(line, " \n") + "\n"
	}
	_, err := io.WriteString(out, text)
	return err
}
