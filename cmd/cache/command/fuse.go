package command

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/component"
)

func fuseCommand(p *program) *cobra.Command {
	var at component.ClientPlace
	c := &cobra.Command{
		Use:   "fuse",
		Short: "Mount the dataset as a file system",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.run(cmd, func(ctx context.Context, s *component.Settings, r *component.Registry) error {
				if at.Dir == "" {
					at.Dir = s.TargetPath
				}
				if at.Dir == "" {
					return fmt.Errorf("where to mount: neither --mount-path nor $%s nor targetPath is set", contract.EnvRuntimeMountPath)
				}
				at.TLS = *p.files
				return component.RunClient(ctx, s, r, at)
			})
		},
	}
	c.Flags().StringVar(&at.Dir, "mount-path", os.Getenv(contract.EnvRuntimeMountPath), "the mount point; else targetPath of the configuration")
	c.Flags().StringVar(&at.HTTP, "http-address", fmt.Sprintf(":%d", contract.ClientHTTPPort), "where to serve health and metrics; empty for nowhere")
	c.Flags().StringVar(&at.Socket, "socket", contract.WorkerSocket, "Unix socket of the worker on this node")
	return c
}
