// Command scale measures the manager with thousands of Datasets, and writes
// out/scale.json in the form of out/bench.json.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/millrace/millrace/e2e/scale"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	n := flag.Int("datasets", 5000, "how many Datasets, each with a runtime")
	rest := flag.Duration("rest", time.Minute, "how long nothing changes")
	limit := flag.Duration("limit", 40*time.Minute, "how long all of it may take")
	flag.Parse()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	if err := run(ctx, *n, *rest); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

// figure is one of out/bench.json's.
type figure struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	Target float64 `json:"target,omitempty"`
	Better string  `json:"better"`
}

func run(ctx context.Context, n int, rest time.Duration) error {
	tree, err := os.Getwd()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "millrace-scale")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s, err := scale.Open(ctx, tree, dir, 10)
	if err != nil {
		return err
	}
	began := time.Now()
	storm, err := s.Run(ctx, n, rest, func(format string, args ...any) {
		fmt.Printf("[%5.0f s] "+format+"\n", append([]any{time.Since(began).Seconds()}, args...)...)
	})
	if closed := s.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	prefix := fmt.Sprintf("scale/%d-datasets/", n)
	figures := []figure{
		{prefix + "bound", storm.Bound.Seconds(), "s", 0, "lower"},
		{prefix + "writes-per-dataset", float64(storm.Writes) / float64(n), "writes", 0, "lower"},
		{prefix + "writes-per-minute-at-rest", float64(storm.AtRest) / storm.Rest.Minutes(), "writes/min", 0, "lower"},
		{prefix + "all-statuses-changed", storm.Moved.Seconds(), "s", 0, "lower"},
		{prefix + "writes-per-changed-status", float64(storm.MovedWrites) / float64(n), "writes", 0, "lower"},
		{prefix + "manager-memory", float64(storm.PeakBytes) / (1 << 20), "MiB", 512, "lower"},
		{prefix + "manager-processor-per-dataset", storm.Processor.Seconds() / float64(n) * 1000, "ms", 0, "lower"},
	}
	for _, f := range figures {
		fmt.Printf("%-55s %12.2f %s\n", f.Name, f.Value, f.Unit)
	}
	data, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(tree, "out", "scale.json"), append(data, '\n'), 0o644)
}
