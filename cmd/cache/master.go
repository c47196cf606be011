package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/master"
)

func masterCommand() *cobra.Command {
	var rpcAddress, httpAddress string
	c := &cobra.Command{
		Use:   "master",
		Short: "List the sources, know the workers, run load jobs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runMaster(cmd.Context(), rpcAddress, httpAddress)
		},
	}
	c.Flags().StringVar(&rpcAddress, "rpc-address", fmt.Sprintf(":%d", contract.MasterRPCPort), "where to serve gRPC")
	c.Flags().StringVar(&httpAddress, "http-address", fmt.Sprintf(":%d", contract.MasterHTTPPort), "where to serve the summary, health and metrics")
	return c
}

// Dead peers are noticed by pings, which peers may send as often.
const (
	pingEvery   = 10 * time.Second
	pingTimeout = 5 * time.Second
)

func runMaster(ctx context.Context, rpcAddress, httpAddress string) error {
	s, err := readSettings()
	if err != nil {
		return err
	}
	opts := master.Options{Mounts: s.mounts(), Workers: int(s.Worker.Replicas)}
	if opts.TTL, err = s.metadataTTL(); err != nil {
		return err
	}
	if opts.Replicas, err = s.replicas(); err != nil {
		return err
	}
	m, err := master.New(opts)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", rpcAddress)
	if err != nil {
		m.Close()
		return err
	}
	server := grpc.NewServer(
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingTimeout, PermitWithoutStream: true}),
	)
	m.Register(server)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Serve(listener) })
	group.Go(func() error { return serveHTTP(ctx, httpAddress, m.Handler()) })
	group.Go(func() error {
		<-ctx.Done()
		m.Close() // ends the streams, so that the server can stop
		server.Stop()
		return nil
	})
	return group.Wait()
}
