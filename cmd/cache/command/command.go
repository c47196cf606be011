// Package command is the program cache, Millrace's own cache engine: each of its
// processes is a subcommand. It reads runtime.json and the environment of
// apis/contract. Programs differ in the kinds of source that they know.
package command

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

// program is one that is built of this package.
type program struct {
	version string
	open    component.OpenSource
	files   *wire.TLSFiles
}

// Main runs the program until it is told to end, and ends the process. open
// knows the kinds of source.
func Main(version string, open component.OpenSource) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := &program{version: version, open: open, files: &wire.TLSFiles{}}
	if err := p.command().ExecuteContext(ctx); err != nil {
		slog.Error("ended", "error", err)
		stop()
		os.Exit(exitCode(err))
	}
}

func (p *program) command() *cobra.Command {
	var level slog.Level
	root := &cobra.Command{
		Use:           "cache",
		Short:         "The cache engine of Millrace",
		Version:       p.version,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			slog.SetDefault(log.With("component", cmd.Name()))
		},
	}
	root.PersistentFlags().TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	root.PersistentFlags().String(pprofFlag, os.Getenv(contract.EnvPprof), "where to serve profiles, such as 127.0.0.1:6060; empty for nowhere")
	component.TLSFlags(root.PersistentFlags(), p.files)
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(masterCommand(p), workerCommand(p), fuseCommand(p), fuseReadyCommand(), loadCommand(p), migrateCommand(p), bridgeCommand(), prepareCommand())
	return root
}

const pprofFlag = "pprof"

// run runs a component, and serves profiles as long if that is asked for.
func (p *program) run(cmd *cobra.Command, serve func(context.Context, *component.Settings, *component.Registry) error) error {
	s, err := component.ReadSettings()
	if err != nil {
		return err
	}
	s.Version, s.OpenSource = p.version, p.open
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
