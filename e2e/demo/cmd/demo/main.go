// Command demo starts a local cluster with Millrace on it and tells its story.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/millrace/millrace/e2e/demo"
	"github.com/millrace/millrace/e2e/localcluster"
	"github.com/millrace/millrace/e2e/scene"
)

func main() {
	onlyInstall := flag.Bool("only-install", false, "start the cluster, install Millrace and stop there")
	out := flag.String("out", "out", "directory that `make images` filled")
	chart := flag.String("chart", "charts/millrace", "chart to install")
	flag.Parse()
	log.SetLogger(logr.Discard()) // the story is all that a visitor is to read
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	if err := run(ctx, *out, *chart, *onlyInstall); err != nil {
		interrupted := ctx.Err() != nil
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		if interrupted {
			fmt.Fprintln(os.Stderr, "demo: stopping the cluster")
			if err := localcluster.Down(context.WithoutCancel(ctx), absolute(*out), scene.DemoCluster); err != nil {
				fmt.Fprintln(os.Stderr, "demo:", err)
			}
		} else {
			fmt.Fprintln(os.Stderr, "demo: the cluster is left for you to look at; `make demo-down` stops it")
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, out, chart string, onlyInstall bool) error {
	out = absolute(out)
	began := time.Now()
	story := &demo.Story{Out: os.Stdout}
	// Two Datasets that are exclusive by default need a node each, the second one two.
	story.Say("A Kubernetes of three nodes on this machine, with Millrace's scheduler")
	cluster, err := scene.StartCluster(ctx, out, scene.DemoCluster, 3, os.Stdout)
	if err != nil {
		return err
	}
	up := time.Since(began)
	if story.Scene, err = scene.Open(cluster.Kubeconfig(), filepath.Join(out, "bin")); err != nil {
		return err
	}
	story.Say("Install Millrace (helm install millrace %s)", chart)
	began = time.Now()
	if err := story.Install(ctx, chart, scene.LocalImages()...); err != nil {
		return err
	}
	story.Note("Cluster start", up)
	story.Note("Millrace installed and ready", time.Since(began))
	if onlyInstall {
		fmt.Printf("\nexport KUBECONFIG=%s PATH=%s:$PATH\n", cluster.Kubeconfig(), story.Bin)
		return nil
	}
	return story.Tell(ctx, cluster.Nodes()[0])
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
