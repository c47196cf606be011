package scene

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/millrace/millrace/e2e/stage"
)

// Install puts Millrace on the cluster by its chart and waits until it serves.
func (s *Scene) Install(ctx context.Context, chart string, values ...string) error {
	args := []string{"upgrade", "--install", "millrace", chart, "--kubeconfig", s.Kubeconfig,
		"--namespace", "fluid-system", "--create-namespace", "--wait", "--timeout", "180s"}
	for _, v := range values {
		args = append(args, "--set", v)
	}
	if _, err := run(ctx, s.Bin+"/helm", args...); err != nil {
		state, _ := s.Kubectl(ctx, "get", "pods", "-A", "-o", "wide")
		return fmt.Errorf("install Millrace: %w\n%s", err, state)
	}
	return nil
}

// LocalImages are the chart values for images that were loaded into the nodes.
func LocalImages() []string {
	return []string{"image.prefix=docker.io/local", "image.tag=dev", "image.pullPolicy=IfNotPresent", "scheduler.enabled=false"}
}

// Storage applies the remote file system and the S3 server and waits until both
// hold their files.
func (s *Scene) Storage(ctx context.Context, firstNode string) error {
	if err := s.Apply(ctx, "default", Manifest("storage", "$FIRST_NODE", firstNode)); err != nil {
		return err
	}
	ds := &appsv1.DaemonSet{}
	ds.Namespace, ds.Name = "storage", "remote-store"
	if err := s.Until(ctx, ds, func() (string, bool) {
		return fmt.Sprintf("%d of %d ready", ds.Status.NumberReady, ds.Status.DesiredNumberScheduled),
			ds.Status.DesiredNumberScheduled > 0 && ds.Status.NumberReady == ds.Status.DesiredNumberScheduled
	}); err != nil {
		return fmt.Errorf("wait for the remote store: %w", err)
	}
	_, err := s.JobEnds(ctx, "storage", "seed")
	return err
}

// Copies reads the copies that a pod's log tells of.
func Copies(log string) ([]stage.Copied, error) {
	var out []stage.Copied
	for line := range strings.Lines(log) {
		var c stage.Copied
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			return nil, fmt.Errorf("decode copy %q: %w", line, err)
		}
		out = append(out, c)
	}
	return out, nil
}
