package command

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/component"
)

func workerCommand(p *program) *cobra.Command {
	var at component.WorkerPlace
	c := &cobra.Command{
		Use:   "worker",
		Short: "Keep bytes, and give them to peers and to the clients of this node",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.run(cmd, func(ctx context.Context, s *component.Settings, r *component.Registry) error {
				at.TLS = *p.files
				return component.RunWorker(ctx, s, r, at)
			})
		},
	}
	c.Flags().StringVar(&at.Data, "data-address", fmt.Sprintf(":%d", contract.WorkerDataPort), "where to serve peers")
	c.Flags().StringVar(&at.HTTP, "http-address", fmt.Sprintf(":%d", contract.WorkerHTTPPort), "where to serve health and metrics; empty for nowhere")
	c.Flags().StringVar(&at.Socket, "socket", contract.WorkerSocket, "Unix socket for the clients of this node")
	return c
}
