// Command localcluster starts and stops real Kubernetes clusters on this machine.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/e2e/localcluster"
	"github.com/millrace/millrace/e2e/localcluster/image"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var out, name string
	root := &cobra.Command{Use: "localcluster", SilenceUsage: true}
	root.PersistentFlags().StringVar(&out, "out", "out", "directory with bin/, and for the cluster's state")
	root.PersistentFlags().StringVar(&name, "name", "millrace", "name of the cluster")
	absolute := func() string {
		dir, err := filepath.Abs(out)
		if err != nil {
			return out
		}
		return dir
	}
	root.AddCommand(up(&name, absolute), down(&name, absolute), load(&name, absolute), exec(&name, absolute), pack(), node())
	if err := root.ExecuteContext(ctx); err != nil {
		os.Exit(1)
	}
}

func up(name *string, out func() string) *cobra.Command {
	var nodes int
	var images []string
	c := &cobra.Command{Use: "up", Short: "start a cluster", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		cluster, err := localcluster.Start(c.Context(), localcluster.Config{Name: *name, Nodes: nodes, OutDir: out(), Images: images, Log: os.Stderr})
		if err == nil {
			fmt.Printf("export KUBECONFIG=%s\n", cluster.Kubeconfig())
		}
		return err
	}}
	c.Flags().IntVar(&nodes, "nodes", 2, "how many nodes")
	c.Flags().StringSliceVar(&images, "image", nil, "docker archive for every node")
	return c
}

func down(name *string, out func() string) *cobra.Command {
	return &cobra.Command{Use: "down", Short: "stop a cluster and leave nothing behind", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		return localcluster.Down(c.Context(), out(), *name)
	}}
}

func load(name *string, out func() string) *cobra.Command {
	return &cobra.Command{Use: "load-image ARCHIVE...", Short: "give docker archives to every node", Args: cobra.MinimumNArgs(1), RunE: func(c *cobra.Command, archives []string) error {
		cluster, err := localcluster.Attach(out(), *name)
		if err != nil {
			return err
		}
		return cluster.LoadImages(c.Context(), archives...)
	}}
}

func exec(name *string, out func() string) *cobra.Command {
	return &cobra.Command{Use: "exec-node NODE -- COMMAND...", Short: "run a command inside a node", Args: cobra.MinimumNArgs(2), RunE: func(c *cobra.Command, args []string) error {
		cluster, err := localcluster.Attach(out(), *name)
		if err != nil {
			return err
		}
		text, err := cluster.Exec(c.Context(), args[0], args[1:]...)
		fmt.Print(text)
		return err
	}}
}

func pack() *cobra.Command {
	var file, name, base, entrypoint string
	var files []string
	c := &cobra.Command{Use: "image", Short: "pack files into a docker archive", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		spec := image.Spec{Name: name, Base: base, Files: map[string]string{}, Entrypoint: []string{entrypoint}}
		for _, f := range files {
			from, to, ok := strings.Cut(f, ":")
			if !ok {
				return fmt.Errorf("--file %q: write it as HOST:/PATH/IN/IMAGE", f)
			}
			spec.Files[from] = to
		}
		return image.Write(file, spec)
	}}
	c.Flags().StringVarP(&file, "output", "o", "", "archive to write")
	c.Flags().StringVar(&name, "image-name", "", "full name of the image")
	c.Flags().StringVar(&base, "base", "", "tar of a file system that the files lie over")
	c.Flags().StringVar(&entrypoint, "entrypoint", "", "what the image runs")
	c.Flags().StringArrayVar(&files, "file", nil, "HOST:/PATH/IN/IMAGE")
	return c
}

func node() *cobra.Command {
	return &cobra.Command{Use: "node-init SPEC", Hidden: true, Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
		return localcluster.RunNode(args[0])
	}}
}
