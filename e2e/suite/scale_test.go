package suite_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/e2e/stage"
)

// summary asks the master of a runtime itself.
func (p *place) summary(runtime string) (s contract.Summary) {
	p.t.Helper()
	pod := &corev1.Pod{}
	pod.Namespace, pod.Name = p.namespace, contract.MasterName(runtime)+"-0"
	p.must(world.Until(p.ctx(), pod, func() (string, bool) { return string(pod.Status.Phase), pod.Status.PodIP != "" }))
	req, err := http.NewRequestWithContext(p.ctx(), http.MethodGet, fmt.Sprintf("http://%s:%d%s", pod.Status.PodIP, contract.MasterHTTPPort, contract.PathSummary), nil)
	p.must(err)
	resp, err := http.DefaultClient.Do(req)
	p.must(err)
	defer func() { _ = resp.Body.Close() }()
	p.must(json.NewDecoder(resp.Body).Decode(&s))
	return s
}

func TestWorkersAreScaledInWithoutLosingABlock(t *testing.T) {
	feature(t, "scalein", "kubectl scale takes a worker away, and every byte stays in the cache", func(p *place) {
		p.bucket("scalein", append(stage.SmallObjects(200, 64<<10), stage.Object{Name: "model.bin", Size: 192 << 20})...)
		p.dataset("model", "scalein")
		p.runtime("model", 2, "1Gi")
		p.bound("model")
		p.load("warm", "model", "/")
		if dl := p.loadEnds("warm"); dl.Status.Phase != datav1alpha1.PhaseComplete {
			p.t.Fatalf("dataload ended %s: %+v", dl.Status.Phase, dl.Status.Conditions)
		}
		p.fullyCached("model")
		read := p.summary("model").Reads.SourceBytes
		p.reader("reads", "model", "copy", "--sha256", "--runs=20", "/data/model.bin", "/data/train/000/img-00007.jpg")
		pod := &corev1.Pod{}
		pod.Namespace, pod.Name = p.namespace, "reads"
		p.must(world.Until(p.ctx(), pod, func() (string, bool) { return string(pod.Status.Phase), pod.Status.Phase != corev1.PodPending }))

		_, err := world.Kubectl(p.ctx(), "scale", "cacheruntime", "model", "-n", p.namespace, "--replicas=1")
		p.must(err)
		rt := &datav1alpha1.CacheRuntime{ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: "model"}}
		p.must(world.Until(p.ctx(), rt, func() (string, bool) {
			drained := meta.FindStatusCondition(rt.Status.Conditions, datav1alpha1.RuntimeDrained)
			return fmt.Sprintf("%d workers, %+v", rt.Status.Worker.CurrentReplicas, rt.Status.Conditions),
				drained != nil && drained.Status == metav1.ConditionTrue && drained.Reason == "Drained" && rt.Status.Worker.CurrentReplicas == 1
		}))
		p.t.Log(meta.FindStatusCondition(rt.Status.Conditions, datav1alpha1.RuntimeDrained).Message)
		p.reads("reads")
		p.fullyCached("model")
		if s := p.summary("model"); s.Reads.SourceBytes != read || len(s.Workers) != 1 || s.CachedBytes != s.UFSTotalBytes {
			p.t.Errorf("readers were given %d bytes of the source, %d before: %+v", s.Reads.SourceBytes, read, s)
		}
	})
}
