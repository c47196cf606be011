package command

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/component"
	"github.com/millrace/millrace/runtime/standalone"
)

func (p *program) master() *cobra.Command {
	var plan standalone.Plan
	m := &standalone.Master{Version: p.version, Open: p.open}
	c := &cobra.Command{
		Use:   "master [SOURCE]",
		Short: "Be the master of a cache on several hosts: list the sources, know the workers, run loads",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if len(args) == 1 {
				plan.Source = args[0]
			}
			if m.Config, err = plan.Config(); err != nil {
				return component.Hopeless{Err: err}
			}
			return m.Run(cmd.Context())
		},
	}
	sourceFlags(c.Flags(), &plan)
	c.Flags().StringVar(&m.Listen, "listen", fmt.Sprintf(":%d", contract.MasterRPCPort), "where to serve workers and clients")
	c.Flags().StringVar(&m.HTTP, "metrics-address", "", "where to serve health and Prometheus metrics, such as :7511; empty for nowhere")
	c.Flags().StringVar(&m.Profiles, "pprof", "", "where to serve profiles, such as 127.0.0.1:6060; empty for nowhere")
	c.Flags().StringVar(&m.Name, "name", "", "label dataset of the metrics")
	component.TLSFlags(c.Flags(), &m.TLS)
	c.Flags().StringVar(&m.StateDir, "state-dir", filepath.Join(standalone.DefaultStateDir(), "master"), "where listings are kept for the next start; empty for nowhere")
	c.Flags().IntVar(&m.Workers, "workers", 0, "how many workers there shall be; loads wait a moment for them after a start")
	return c
}

func (p *program) worker() *cobra.Command {
	var plan standalone.Plan
	w := &standalone.Worker{Version: p.version, Open: p.open}
	c := &cobra.Command{
		Use:   "worker --master HOST:PORT --cache DIR:SIZE",
		Short: "Be a worker of a cache on several hosts: keep bytes, and give them to peers and to this host's clients",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			w.Secrets, plan.Secrets = plan.Secrets, nil // they are for the sources that the master tells of
			if w.Config, err = plan.Config(); err != nil {
				return component.Hopeless{Err: err}
			}
			return w.Run(cmd.Context())
		},
	}
	c.Flags().StringVar(&w.Master, "master", "", "host:port of the master")
	_ = c.MarkFlagRequired("master")
	c.Flags().DurationVar(&w.Wait, "wait", standalone.DefaultWait, "how long the master may take to answer")
	c.Flags().StringVar(&w.Listen, "listen", fmt.Sprintf(":%d", contract.WorkerDataPort), "where to serve peers")
	c.Flags().StringVar(&w.Advertise, "advertise", "", "host:port by which peers reach this worker (default: the address by which this host reaches the master)")
	c.Flags().StringVar(&w.Socket, "socket", standalone.DefaultWorkerSocket(), "Unix socket for the clients of this host")
	c.Flags().StringVar(&w.HTTP, "metrics-address", "", "where to serve health and Prometheus metrics, such as :7521; empty for nowhere")
	c.Flags().StringVar(&w.Profiles, "pprof", "", "where to serve profiles, such as 127.0.0.1:6060; empty for nowhere")
	c.Flags().StringVar(&w.Member, "member", "", "name in the cache, the same after a restart (default: the host's name)")
	c.Flags().StringVar(&w.Node, "node", "", "name of the machine (default: the host's name)")
	c.Flags().StringVar(&w.Name, "name", "", "label dataset of the metrics")
	secretFlag(c.Flags(), &plan)
	engineFlag(c.Flags(), &plan)
	component.TLSFlags(c.Flags(), &w.TLS)
	cacheFlags(c.Flags(), &plan)
	return c
}
