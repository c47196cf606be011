// Package demo tells Millrace's story on a cluster: a remote file and a bucket,
// each bound, warmed and read through the cache, with the figures side by side.
package demo

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	cachev1alpha1 "github.com/millrace/millrace/apis/cache/v1alpha1"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/e2e/scene"
	"github.com/millrace/millrace/e2e/stage"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	namespace = "default"
	largeFile = "hbase-2.2.5-bin.tar"
	// remoteRate is the limit of the remote store in the storage manifest:
	// 0.2 GB/s, what the CephFS of the article gave (3.3 GB in 16.37 s).
	remoteRate = "200 MB/s"
)

// Story is one telling.
type Story struct {
	*scene.Scene
	Out   io.Writer
	start time.Time
	table []row
	// uncached is the copy that the cached one is held against.
	uncached stage.Copied
}

type row struct{ what, got, want string }

// Say prints one step with the time since the start.
func (s *Story) Say(format string, args ...any) {
	if s.start.IsZero() {
		s.start = time.Now()
	}
	fmt.Fprintf(s.Out, "\n\033[1m[%5.1fs] %s\033[0m\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
}

// Note puts a time into the closing table.
func (s *Story) Note(what string, took time.Duration) { s.note(what, seconds(took), "") }

func (s *Story) note(what, got, want string) { s.table = append(s.table, row{what, got, want}) }

// Tell runs the story from the first manifest to the closing table.
func (s *Story) Tell(ctx context.Context, firstNode string) error {
	for _, chapter := range []func(context.Context) error{
		func(ctx context.Context) error { return s.furnish(ctx, firstNode) },
		s.copyUncached, s.bindArticle, s.warmArticle, s.copyCached, s.bindBucket, s.warmBucket, s.runSidecarJob,
	} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	s.close(ctx)
	return nil
}

func (s *Story) furnish(ctx context.Context, firstNode string) error {
	s.Say("Storage: a remote file system limited to %s with a 1 GiB file behind a PVC, and an S3 server with a 1 GiB object and 2,000 small ones", remoteRate)
	return s.Storage(ctx, firstNode)
}

func (s *Story) copyUncached(ctx context.Context) error {
	s.Say("Copy the large file straight from the remote file system (kubectl apply -f uncached-copy.yaml)")
	if err := s.again(ctx, "uncached-copy"); err != nil {
		return err
	}
	log, node, err := s.PodEnds(ctx, namespace, "uncached-copy")
	if err != nil {
		return err
	}
	copies, err := scene.Copies(log)
	if err != nil {
		return err
	}
	s.uncached = copies[0]
	s.line("%s on %s: %s", largeFile, node, rate(copies[0]))
	return nil
}

func (s *Story) bindArticle(ctx context.Context) error {
	s.Say("The article's manifests, unchanged: a Dataset on pvc://cephfs-pvc and an AlluxioRuntime with a 2Gi memory tier")
	return s.bind(ctx, "hbase", "article-dataset", "article-runtime")
}

func (s *Story) warmArticle(ctx context.Context) error {
	s.Say("Prefetch it: DataLoad hbase-warmup")
	return s.warm(ctx, "hbase", "hbase-warmup", "article-dataload")
}

func (s *Story) bindBucket(ctx context.Context) error {
	s.Say("A bucket with keys in a Secret: Dataset training on s3://training, CacheRuntime with two workers")
	return s.bind(ctx, "training", "s3-dataset", "s3-runtime")
}

func (s *Story) warmBucket(ctx context.Context) error {
	s.Say("Prefetch 2,001 objects: DataLoad training-warmup")
	return s.warm(ctx, "training", "training-warmup", "s3-dataload")
}

func (s *Story) bind(ctx context.Context, dataset string, files ...string) error {
	began := time.Now()
	for _, file := range files {
		if err := s.Apply(ctx, namespace, scene.Manifest(file)); err != nil {
			return err
		}
	}
	ds := &datav1alpha1.Dataset{}
	ds.Namespace, ds.Name = namespace, dataset
	if err := s.Until(ctx, ds, func() (string, bool) {
		return fmt.Sprintf("phase %q, conditions %+v", ds.Status.Phase, ds.Status.Conditions), ds.Status.Phase == datav1alpha1.BoundDatasetPhase
	}); err != nil {
		return fmt.Errorf("wait until dataset %s is bound: %w", dataset, err)
	}
	s.note("Dataset "+dataset+": apply to Bound", seconds(time.Since(began)), "")
	return s.show(ctx, "get", "datasets", dataset)
}

func (s *Story) warm(ctx context.Context, dataset, load, file string) error {
	began := time.Now()
	if err := s.Apply(ctx, namespace, scene.Manifest(file)); err != nil {
		return err
	}
	dl := &datav1alpha1.DataLoad{}
	dl.Namespace, dl.Name = namespace, load
	shown := time.Now()
	if err := s.Until(ctx, dl, func() (string, bool) {
		if time.Since(shown) > 2*time.Second {
			shown = time.Now()
			if err := s.show(ctx, "get", "dataloads", load); err != nil {
				return err.Error(), false
			}
		}
		return fmt.Sprintf("phase %q, conditions %+v", dl.Status.Phase, dl.Status.Conditions),
			dl.Status.Phase == datav1alpha1.PhaseComplete || dl.Status.Phase == datav1alpha1.PhaseFailed
	}); err != nil {
		return fmt.Errorf("wait until dataload %s ends: %w", load, err)
	}
	if dl.Status.Phase == datav1alpha1.PhaseFailed {
		return fmt.Errorf("dataload %s failed: %+v", load, dl.Status.Conditions)
	}
	took := time.Since(began)
	ds := &datav1alpha1.Dataset{}
	ds.Namespace, ds.Name = namespace, dataset
	if err := s.Until(ctx, ds, func() (string, bool) {
		cache := ds.Status.CacheStates
		return fmt.Sprintf("ufsTotal %s, cached %s, %s", ds.Status.UfsTotal, cache["cached"], cache["cachedPercentage"]),
			cache["cachedPercentage"] == "100.0%" && ds.Status.UfsTotal == cache["cached"]
	}); err != nil {
		return fmt.Errorf("wait until dataset %s says 100.0%%: %w", dataset, err)
	}
	s.note("DataLoad "+load+": apply to Complete", seconds(took), "")
	s.note("Dataset "+dataset+": cached", ds.Status.CacheStates["cachedPercentage"]+" ("+ds.Status.CacheStates["cached"]+" of "+ds.Status.UfsTotal+")", "100.0%")
	if err := s.show(ctx, "get", "dataloads", load); err != nil {
		return err
	}
	return s.show(ctx, "get", "datasets")
}

func (s *Story) copyCached(ctx context.Context) error {
	s.Say("The same copy through the Dataset's volume; our scheduler picks the node by bytes")
	locality := &cachev1alpha1.LocalitySliceList{}
	if err := s.List(ctx, locality, client.InNamespace(namespace)); err != nil {
		return fmt.Errorf("list locality slices: %w", err)
	}
	best, most := "", int64(-1)
	for _, slice := range locality.Items {
		for _, n := range slice.Nodes {
			s.line("%s holds %d MiB of %s", n.NodeName, n.CachedBytes>>20, slice.Dataset.Name)
			if n.CachedBytes > most {
				best, most = n.NodeName, n.CachedBytes
			}
		}
	}
	if err := s.again(ctx, "cached-copy"); err != nil {
		return err
	}
	log, node, err := s.PodEnds(ctx, namespace, "cached-copy")
	if err != nil {
		return err
	}
	copies, err := scene.Copies(log)
	if err != nil {
		return err
	}
	var cached, local []float64
	for _, c := range copies {
		if strings.HasPrefix(c.Path, "/data/") {
			cached = append(cached, c.BytesPerSecond())
		} else {
			local = append(local, c.BytesPerSecond())
		}
	}
	s.line("on %s: cached %.2f GB/s (first %.2f), plain local copy %.2f GB/s (medians of %d, in turn)", node, median(cached)/1e9, cached[0]/1e9, median(local)/1e9, len(cached))
	s.note("Copy from the remote file system", rate(s.uncached), "")
	s.note("Copy through the cache, first", fmt.Sprintf("%.2f GB/s", cached[0]/1e9), "")
	s.note("Copy through the cache, median", fmt.Sprintf("%.2f GB/s", median(cached)/1e9), "")
	s.note("  against no cache ("+remoteRate+")", fmt.Sprintf("%.1f x", median(cached)/s.uncached.BytesPerSecond()), ">= 8.6 x")
	s.note("  against a plain local copy", fmt.Sprintf("%.2f", median(cached)/median(local)), ">= 0.9")
	s.note("The pod went to", node, "the node with the most bytes: "+best)
	return nil
}

func (s *Story) runSidecarJob(ctx context.Context) error {
	s.Say("A Job with the label serverless.fluid.io/inject: the FUSE client comes along as a sidecar, and the Job ends by itself")
	began := time.Now()
	if err := s.Remove(ctx, namespace, scene.Manifest("sidecar-job")); err != nil {
		return err
	}
	if err := s.Apply(ctx, namespace, scene.Manifest("sidecar-job")); err != nil {
		return err
	}
	log, err := s.JobEnds(ctx, namespace, "train")
	if err != nil {
		return err
	}
	copies, err := scene.Copies(log)
	if err != nil {
		return err
	}
	for _, c := range copies {
		verdict := "the right bytes"
		if c.SHA256 != stage.Digest(strings.TrimPrefix(c.Path, "/data/"), c.Bytes) {
			return fmt.Errorf("job train read wrong bytes of %s", c.Path)
		}
		s.line("%s: %d bytes, sha256 %s…: %s", c.Path, c.Bytes, c.SHA256[:12], verdict)
	}
	s.note("Job with a sidecar: apply to Complete", seconds(time.Since(began)), "ends by itself")
	return s.show(ctx, "get", "jobs", "train")
}

// close prints the table and what to try next.
func (s *Story) close(ctx context.Context) {
	s.Say("What was seen")
	for _, r := range s.table {
		fmt.Fprintf(s.Out, "  %-46s %-42s %s\n", r.what, r.got, r.want)
	}
	fmt.Fprintf(s.Out, `
Try next:
  export KUBECONFIG=%s PATH=%s:$PATH
  kubectl get datasets -o wide
  kubectl describe dataset hbase
  kubectl get localityslices
  kubectl get pods -A -o wide
  make demo-down        # stop it all and leave nothing behind
`, s.Kubeconfig, s.Bin)
}

func (s *Story) again(ctx context.Context, pod string) error {
	if err := s.Remove(ctx, namespace, scene.Manifest(pod)); err != nil {
		return err
	}
	return s.Apply(ctx, namespace, scene.Manifest(pod))
}

func (s *Story) show(ctx context.Context, args ...string) error {
	out, err := s.Kubectl(ctx, args...)
	if err != nil {
		return err
	}
	s.line("$ kubectl %s", strings.Join(args, " "))
	s.line("%s", strings.TrimRight(out, "\n"))
	return nil
}

func (s *Story) line(format string, args ...any) {
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		fmt.Fprintf(s.Out, "  %s\n", strings.TrimRight(line, "\n"))
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func rate(c stage.Copied) string {
	return fmt.Sprintf("%.2f s, %.2f GB/s", c.Seconds, c.BytesPerSecond()/1e9)
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
