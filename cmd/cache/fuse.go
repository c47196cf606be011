package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/reader"
)

func fuseCommand() *cobra.Command {
	var mountPath, httpAddress, socket string
	c := &cobra.Command{
		Use:   "fuse",
		Short: "Mount the dataset as a file system",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runFuse(cmd.Context(), mountPath, httpAddress, socket)
		},
	}
	c.Flags().StringVar(&mountPath, "mount-path", os.Getenv(contract.EnvRuntimeMountPath), "the mount point; else targetPath of the configuration")
	c.Flags().StringVar(&httpAddress, "http-address", fmt.Sprintf(":%d", contract.ClientHTTPPort), "where to serve health and metrics; empty for nowhere")
	c.Flags().StringVar(&socket, "socket", contract.WorkerSocket, "Unix socket of the worker on this node")
	return c
}

var errNotMounted = errors.New("not mounted")

func runFuse(ctx context.Context, mountPath, httpAddress, socket string) error {
	s, err := readSettings()
	if err != nil {
		return err
	}
	if mountPath == "" {
		mountPath = s.TargetPath
	}
	if mountPath == "" {
		return fmt.Errorf("where to mount: neither --mount-path nor $%s nor targetPath is set", contract.EnvRuntimeMountPath)
	}
	master, err := s.masterAddress()
	if err != nil {
		return err
	}
	registry := newRegistry()
	files, err := reader.New(reader.Config{
		Name: s.pod, Node: s.node, Master: master, Socket: socket, Mounts: s.mounts(), Registerer: registry,
	})
	if err != nil {
		return err
	}
	defer func() { _ = files.Close() }()

	var mounted atomic.Bool
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return serveHTTP(ctx, httpAddress, healthHandler(registry, func() error {
			if !mounted.Load() {
				return errNotMounted
			}
			return nil
		}))
	})
	group.Go(func() error {
		server, err := fuse.Mount(ctx, files, fuse.Options{Dir: mountPath, Metrics: registry})
		if err != nil {
			return fmt.Errorf("mount the dataset: %w", err)
		}
		mounted.Store(true)
		defer mounted.Store(false)
		if err := server.Serve(); err != nil {
			return err
		}
		if ctx.Err() == nil {
			return fmt.Errorf("%s was unmounted by others", mountPath)
		}
		return server.Unmount() // by the end of ctx; tells whether it worked
	})
	return group.Wait()
}
