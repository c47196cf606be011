package main

import (
	"context"
	"fmt"
	"net"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/worker"
)

func workerCommand() *cobra.Command {
	var dataAddress, httpAddress, socket string
	c := &cobra.Command{
		Use:   "worker",
		Short: "Keep bytes, and give them to peers and to the clients of this node",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runWorker(cmd.Context(), dataAddress, httpAddress, socket)
		},
	}
	c.Flags().StringVar(&dataAddress, "data-address", fmt.Sprintf(":%d", contract.WorkerDataPort), "where to serve peers")
	c.Flags().StringVar(&httpAddress, "http-address", fmt.Sprintf(":%d", contract.WorkerHTTPPort), "where to serve health and metrics; empty for nowhere")
	c.Flags().StringVar(&socket, "socket", contract.WorkerSocket, "Unix socket for the clients of this node")
	return c
}

func runWorker(ctx context.Context, dataAddress, httpAddress, socket string) error {
	s, err := readSettings()
	if err != nil {
		return err
	}
	tiers, err := tiersOf(s.Worker.TieredStoreLevels)
	if err != nil {
		return err
	}
	master, err := s.masterAddress()
	if err != nil {
		return err
	}
	registry := newRegistry()
	config := worker.Config{
		Name: s.pod, Node: s.node, Listen: dataAddress, Socket: socket, Master: master,
		Mounts: s.mounts(), Tiers: tiers, Version: version, Registerer: registry,
	}
	if s.ip != "" {
		_, port, err := net.SplitHostPort(dataAddress)
		if err != nil {
			return fmt.Errorf("--data-address %q: %w", dataAddress, err)
		}
		config.Advertise = net.JoinHostPort(s.ip, port)
	}
	w, err := worker.New(config)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.Run(ctx) })
	group.Go(func() error {
		return serveHTTP(ctx, httpAddress, healthHandler(registry, func() error { return nil }))
	})
	return group.Wait()
}
