// Package suite_test proves on a real local cluster what README and docs promise.
package suite_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/e2e-framework/pkg/env"
	"sigs.k8s.io/e2e-framework/pkg/envconf"

	"github.com/millrace/millrace/e2e/localcluster"
	"github.com/millrace/millrace/e2e/scene"
	"github.com/millrace/millrace/e2e/stage"
)

var (
	testenv env.Environment
	cluster *localcluster.Cluster
	world   *scene.Scene
	// bucketServer is the S3 server, as this process reaches it.
	bucketServer stage.S3
)

const patience = 2 * time.Minute // for one thing to happen on a busy 2-core machine

func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	testenv = env.NewWithConfig(envconf.New())
	testenv.Setup(startCluster, installMillrace, furnishStorage)
	testenv.Finish(stopCluster)
	// The framework does not finish what a signal or a failed set-up interrupts.
	context.AfterFunc(ctx, func() {
		if _, err := stopCluster(context.Background(), nil); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(130)
	})
	code := testenv.Run(m)
	stop()
	os.Exit(code)
}

func repository() string {
	wd, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	return filepath.Join(wd, "..", "..")
}

func startCluster(ctx context.Context, _ *envconf.Config) (context.Context, error) {
	out := filepath.Join(repository(), "out")
	c, err := scene.StartCluster(ctx, out, "e2e", 2, os.Stderr)
	if err != nil {
		return ctx, err
	}
	cluster = c
	world, err = scene.Open(c.Kubeconfig(), filepath.Join(out, "bin"))
	return ctx, err
}

func installMillrace(ctx context.Context, _ *envconf.Config) (context.Context, error) {
	return ctx, world.Install(ctx, filepath.Join(repository(), "charts", "millrace"), append(scene.LocalImages(), "classes.alluxio.enabled=true")...)
}

func furnishStorage(ctx context.Context, _ *envconf.Config) (context.Context, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := world.Storage(ctx, cluster.Nodes()[0]); err != nil {
		return ctx, err
	}
	pods := &corev1.PodList{}
	if err := world.List(ctx, pods, client.InNamespace("storage"), client.MatchingLabels{"app": "s3"}); err != nil || len(pods.Items) != 1 {
		return ctx, fmt.Errorf("find the S3 server's pod: %d pods: %w", len(pods.Items), err)
	}
	bucketServer = stage.S3{Endpoint: fmt.Sprintf("http://%s:9000", pods.Items[0].Status.PodIP), AccessKey: "millrace-demo", SecretKey: "only-for-the-demo"}
	return context.WithoutCancel(ctx), nil
}

func stopCluster(ctx context.Context, _ *envconf.Config) (context.Context, error) {
	if cluster == nil {
		return ctx, nil
	}
	return ctx, cluster.Stop(context.WithoutCancel(ctx))
}
