// Package command is the program millrace, the cache without Kubernetes: it
// mounts a source on one machine, or runs the master, the workers and the clients
// of several. Programs differ in the kinds of source that they know.
package command

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/runtime/component"
	"github.com/millrace/millrace/runtime/standalone"
)

// program is one that is built of this package.
type program struct {
	version string
	open    component.OpenSource
}

// Main runs the command line and ends the process. open knows the kinds of source.
func Main(version string, open component.OpenSource) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	understood := false
	p := &program{version, open}
	if err := p.command(&understood).ExecuteContext(ctx); err != nil {
		if !understood {
			err = component.Hopeless{Err: fmt.Errorf("%w; see millrace --help", err)}
		}
		fmt.Fprintln(os.Stderr, "millrace:", err)
		stop()
		os.Exit(standalone.ExitCode(err))
	}
}

// command is the root; understood is set once the words make sense.
func (p *program) command(understood *bool) *cobra.Command {
	var level slog.Level
	root := &cobra.Command{
		Use:           "millrace",
		Short:         "Mount remote data through a cache on this machine",
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := cmd.ValidateRequiredFlags(); err != nil {
				return err
			}
			*understood = true
			slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
			return nil
		},
	}
	root.PersistentFlags().TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	root.PersistentFlags().String(runDirFlag, standalone.DefaultRunDir(), "directory of the daemons' sockets")
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(p.mount(), loadCommand(), statusCommand(), unmountCommand(), p.master(), p.worker(), p.client(), p.tellVersion())
	root.AddCommand(keepCommands()...)
	return root
}

const runDirFlag = "run-dir"

func runDir(cmd *cobra.Command) string {
	dir, _ := cmd.Flags().GetString(runDirFlag) // it is there, for root has it
	return dir
}

func (p *program) tellVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "millrace", p.version)
			return err
		},
	}
}
