package suite_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/e2e/scene"
	"github.com/millrace/millrace/e2e/stage"
)

// started are the pods of a runtime with the times of their containers' starts.
func (p *place) started(prefix string) map[types.UID]string {
	p.t.Helper()
	all := map[types.UID]string{}
	for _, pod := range p.pods(prefix) {
		all[pod.UID] = fmt.Sprintf("%s, restarts %d", pod.Name, restarts(&pod))
	}
	return all
}

func restarts(pod *corev1.Pod) (n int32) {
	for _, c := range pod.Status.ContainerStatuses {
		n += c.RestartCount
	}
	return n
}

func TestPain10MountsChangeUnderAPodThatReads(t *testing.T) {
	feature(t, "live-mounts", "a mount is added, given another source and removed while a pod reads", func(p *place) {
		p.bucket("live-a", stage.Object{Name: "model.bin", Size: 64 << 20})
		p.bucket("live-b", stage.Object{Name: "b.bin", Size: 1 << 20})
		p.bucket("live-c", stage.Object{Name: "c.bin", Size: 1 << 20})
		p.apply(secretManifest)
		p.apply(fill(strings.Replace(datasetManifest, "path: /\n", "path: /a\n", 1), map[string]string{"$NAME": "live", "$BUCKET": "live-a"}))
		p.runtime("live", 2, "1Gi")
		p.bound("live")
		p.reader("reads", "live", "wait")
		pod := &corev1.Pod{}
		pod.Namespace, pod.Name = p.namespace, "reads"
		p.must(world.Until(p.ctx(), pod, func() (string, bool) { return string(pod.Status.Phase), pod.Status.Phase == corev1.PodRunning }))
		read := func(ctx context.Context, file, name string) error {
			log, err := world.Kubectl(ctx, "exec", "-n", p.namespace, "reads", "--", "/bin/stage", "copy", "--sha256", file)
			if err != nil {
				return err
			}
			copies, err := scene.Copies(log)
			if err != nil || len(copies) != 1 || copies[0].SHA256 != stage.Digest(name, copies[0].Bytes) {
				return fmt.Errorf("%s: %+v, %w", file, copies, err)
			}
			return nil
		}
		ctx, cancel := context.WithCancel(p.ctx())
		defer cancel()
		var rounds atomic.Int64
		ended := make(chan error, 1)
		go func() {
			for {
				err := read(ctx, "/data/a/model.bin", "model.bin")
				if err != nil {
					if ctx.Err() != nil {
						err = nil
					}
					ended <- err
					return
				}
				rounds.Add(1)
			}
		}()
		before := p.started("live-")

		change := func(patch string) {
			began := time.Now()
			_, err := world.Kubectl(p.ctx(), "patch", "dataset", "live", "-n", p.namespace, "--type=json", "-p", patch)
			p.must(err)
			ds := p.seen("live")
			p.must(world.Until(p.ctx(), ds, func() (string, bool) {
				return fmt.Sprintf("phase %q, conditions %+v", ds.Status.Phase, ds.Status.Conditions),
					ds.Status.Phase == datav1alpha1.BoundDatasetPhase && ds.Status.ObservedGeneration == ds.Generation
			}))
			if len(ds.Status.Mounts) != len(ds.Spec.Mounts) {
				p.t.Errorf("status shows %d mounts of %d", len(ds.Status.Mounts), len(ds.Spec.Mounts))
			}
			p.t.Logf("served after %s", time.Since(began).Round(time.Millisecond))
		}
		until := func(what string, ok func() bool) {
			for deadline := time.Now().Add(patience); !ok(); time.Sleep(100 * time.Millisecond) {
				if time.Now().After(deadline) {
					p.t.Fatalf("never: %s", what)
				}
			}
		}
		mount := func(bucket string) string {
			return fmt.Sprintf(`{"mountPoint":"s3://%s","name":"more","path":"/more","options":{"alluxio.underfs.s3.endpoint":"http://s3.storage.svc:9000","alluxio.underfs.s3.disable.dns.buckets":"true"},
				"encryptOptions":[{"name":"aws.accessKeyId","valueFrom":{"secretKeyRef":{"name":"keys","key":"access"}}},{"name":"aws.secretKey","valueFrom":{"secretKeyRef":{"name":"keys","key":"secret"}}}]}`, bucket)
		}
		change(`[{"op":"add","path":"/spec/mounts/-","value":` + mount("live-b") + `}]`)
		until("the added mount is read", func() bool { return read(p.ctx(), "/data/more/b.bin", "b.bin") == nil })
		change(`[{"op":"replace","path":"/spec/mounts/1","value":` + mount("live-c") + `}]`)
		until("the other source is read", func() bool { return read(p.ctx(), "/data/more/c.bin", "c.bin") == nil })
		until("the former source is gone", func() bool { return read(p.ctx(), "/data/more/b.bin", "b.bin") != nil })
		change(`[{"op":"remove","path":"/spec/mounts/1"}]`)
		until("the removed mount is gone", func() bool { return read(p.ctx(), "/data/more/c.bin", "c.bin") != nil })

		was := rounds.Load()
		until("the reader goes on", func() bool { return rounds.Load() > was || len(ended) > 0 })
		cancel()
		if err := <-ended; err != nil {
			p.t.Errorf("the pod that reads all the time: %v", err)
		}
		if after := p.started("live-"); fmt.Sprint(after) != fmt.Sprint(before) {
			p.t.Errorf("pods of the cache were %v and are %v", before, after)
		}
	})
}
