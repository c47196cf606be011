package scene

import (
	"context"
	"io"
	"path/filepath"

	"github.com/millrace/millrace/e2e/localcluster"
	"github.com/millrace/millrace/scheduler/profile"
)

// images are the archives that `make images` packs for the nodes.
var images = []string{"cache", "manager", "csi-node", "stage", "versitygw", "rclone-client"}

// StartCluster starts a local cluster that runs our scheduler and has our
// images. out is the directory that `make images` filled.
func StartCluster(ctx context.Context, out, name string, nodes int, log io.Writer) (*localcluster.Cluster, error) {
	cfg := localcluster.Config{Name: name, Nodes: nodes, OutDir: out, Scheduler: ourScheduler(out), Log: log}
	if name == DemoCluster {
		cfg.Kubeconfig = filepath.Join(out, "kubeconfig")
	}
	for _, image := range images {
		cfg.Images = append(cfg.Images, filepath.Join(out, "images", image+".tar"))
	}
	return localcluster.Start(ctx, cfg)
}

// DemoCluster is the cluster of `make demo` and `make cluster-up`; its
// kubeconfig is out/kubeconfig.
const DemoCluster = "millrace"

func ourScheduler(out string) localcluster.Scheduler {
	return localcluster.Scheduler{
		Binary:        filepath.Join(out, "bin", "scheduler"),
		Configuration: func(kubeconfig string) []byte { return profile.Configuration(profile.Options{Kubeconfig: kubeconfig}) },
	}
}

// OurScheduler makes the scheduler with CacheLocality the cluster's own.
func OurScheduler(ctx context.Context, out string, c *localcluster.Cluster) error {
	return c.UseScheduler(ctx, ourScheduler(out))
}

// StockScheduler makes upstream's scheduler the cluster's own.
func StockScheduler(ctx context.Context, c *localcluster.Cluster) error {
	return c.UseScheduler(ctx, localcluster.Scheduler{})
}
