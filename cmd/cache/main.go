// Command cache is Millrace's own cache engine: each of its processes is a
// subcommand. It reads runtime.json and the environment of apis/contract.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/component"
	"github.com/millrace/millrace/runtime/profiles"
	"github.com/millrace/millrace/runtime/wire"
)

// version is set by the build.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		slog.Error("ended", "error", err)
		stop()
		os.Exit(exitCode(err))
	}
}

func command() *cobra.Command {
	var level slog.Level
	files := &wire.TLSFiles{}
	root := &cobra.Command{
		Use:           "cache",
		Short:         "The cache engine of Millrace",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			slog.SetDefault(log.With("component", cmd.Name()))
		},
	}
	root.PersistentFlags().TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	root.PersistentFlags().String(pprofFlag, os.Getenv(contract.EnvPprof), "where to serve profiles, such as 127.0.0.1:6060; empty for nowhere")
	component.TLSFlags(root.PersistentFlags(), files)
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(masterCommand(files), workerCommand(files), fuseCommand(files), fuseReadyCommand(), loadCommand(files))
	return root
}

const pprofFlag = "pprof"

// run runs a component, and serves profiles as long if that is asked for.
func run(cmd *cobra.Command, serve func(context.Context, *component.Settings, *component.Registry) error) error {
	s, err := component.ReadSettings()
	if err != nil {
		return err
	}
	s.Version = version
	address, err := cmd.Flags().GetString(pprofFlag)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer cancel()
		return serve(ctx, s, component.NewRegistry(s))
	})
	group.Go(func() error { return profiles.Serve(ctx, address) })
	return group.Wait()
}
