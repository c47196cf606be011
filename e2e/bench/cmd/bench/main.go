// Command bench prints how Millrace does against the local file system, raw
// sockets, the sources' own clients and its peers, and writes bench.json.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/e2e/bench"
)

func main() {
	if raw, err := bench.ServeRaw(); raw {
		if err != nil {
			fmt.Fprintln(os.Stderr, "raw server:", err)
		}
		return
	}
	code, outside, err := bench.Isolate()
	if err == nil && !outside {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err = command().ExecuteContext(ctx)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		code = 1
	}
	os.Exit(code)
}

func command() *cobra.Command {
	b := &bench.Bench{Log: os.Stderr}
	c := &cobra.Command{
		Use: "bench", Short: "Measure Millrace against its limits and its peers", Args: cobra.NoArgs,
		Long:         "Groups:\n  " + strings.Join(bench.Groups(), "\n  "),
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, err := filepath.Abs(b.Out)
			if err != nil {
				return err
			}
			b.Out = out
			figures, failed := b.Run(cmd.Context())
			if err := bench.PrintTable(os.Stdout, figures); err != nil {
				return err
			}
			if err := bench.WriteJSON(filepath.Join(b.Out, "bench.json"), figures); err != nil {
				return err
			}
			return failed
		},
	}
	c.Flags().StringVar(&b.Out, "out", "out", "directory with bin/, which takes bench.json")
	c.Flags().IntVar(&b.Runs, "runs", 5, "runs of each side; the median counts")
	c.Flags().Int64Var(&b.Scale, "scale", 1, "divide sizes and counts by this: figures then mean nothing")
	c.Flags().StringSliceVar(&b.Only, "only", nil, "groups to run")
	return c
}
