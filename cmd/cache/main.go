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
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(masterCommand(), workerCommand(), fuseCommand(), fuseReadyCommand(), loadCommand())
	return root
}
