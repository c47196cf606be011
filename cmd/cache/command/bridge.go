package command

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/bridge"
	"github.com/millrace/millrace/runtime/component"
)

func bridgeCommand() *cobra.Command {
	var address string
	c := &cobra.Command{
		Use:   "bridge",
		Short: "Run the commands of another engine's class beside its master, and serve what they print",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b := bridge.New(bridge.Options{RuntimeConfig: contract.RuntimeConfigPath, EngineConfig: contract.EngineConfigPath, Log: slog.Default()})
			group, ctx := errgroup.WithContext(cmd.Context())
			group.Go(func() error { return b.Run(ctx) })
			group.Go(func() error { return component.ServeHTTP(ctx, address, b.Handler()) })
			return group.Wait()
		},
	}
	c.Flags().StringVar(&address, "http-address", fmt.Sprintf(":%d", contract.MasterHTTPPort), "where to serve the summary and health")
	return c
}

func prepareCommand() *cobra.Command {
	var to, mountPath string
	c := &cobra.Command{
		Use:   "prepare",
		Short: "Put this program into a pod of another engine, and make the mount point of its FUSE ready",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			if err := bridge.Install(self, to); err != nil || mountPath == "" {
				return err
			}
			return bridge.ClearMountPoint(mountPath)
		},
	}
	c.Flags().StringVar(&to, "to", contract.HelperDir, "the directory to copy the program to")
	c.Flags().StringVar(&mountPath, "mount-path", "", "the mount point; empty for none")
	return c
}
