package command

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/component"
)

func masterCommand(p *program) *cobra.Command {
	var at component.MasterPlace
	c := &cobra.Command{
		Use:   "master",
		Short: "List the sources, know the workers, run load jobs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.run(cmd, func(ctx context.Context, s *component.Settings, r *component.Registry) error {
				at.TLS = *p.files
				return component.RunMaster(ctx, s, r, at)
			})
		},
	}
	c.Flags().StringVar(&at.RPC, "rpc-address", fmt.Sprintf(":%d", contract.MasterRPCPort), "where to serve gRPC")
	c.Flags().StringVar(&at.HTTP, "http-address", fmt.Sprintf(":%d", contract.MasterHTTPPort), "where to serve the summary, health and metrics")
	c.Flags().StringVar(&at.StateDir, "state-dir", os.Getenv(contract.EnvStateDir),
		"where to save the metadata for a restart, $"+contract.EnvStateDir+" if not given; nowhere if empty")
	return c
}
