package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
)

func TestQuotasAndLiveOptionsChangeWithoutARestart(t *testing.T) {
	p := newPlace(t)
	rt := p.cacheRuntime("data").(*datav1alpha1.CacheRuntime)
	rt.Spec.Worker.TieredStore.Levels = []datav1alpha1.CacheLevel{{High: "0.95", Low: "0.7", HostPath: &datav1alpha1.HostPathTier{
		Paths: []string{"/cache"}, Quotas: []resource.Quantity{resource.MustParse("1Gi")}}}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: p.namespace + "-node"}}
	p.create(node)
	t.Cleanup(func() { _ = world.Delete(context.Background(), node) })
	p.dataset("data")
	p.create(rt)
	p.serves("data", "/")
	p.run("data", node.Name)
	p.becomes("data", datav1alpha1.BoundDatasetPhase)
	masters.change(p.key("data"), func(s *contract.Summary) {
		config := p.config("data")
		s.Live = config.LiveTable(contract.ComponentMaster)
		s.Workers = []contract.WorkerSummary{{Name: "data-worker-0", Live: config.LiveTable(contract.ComponentWorker)}}
	})
	templates := func() (all []corev1.PodTemplateSpec) {
		for _, name := range []string{contract.MasterName("data"), contract.WorkerName("data")} {
			set := &appsv1.StatefulSet{}
			p.must(world.Get(p.Context(), p.key(name), set))
			all = append(all, set.Spec.Template)
		}
		return all
	}
	before := templates()
	change := func(edit func(*datav1alpha1.CacheRuntime)) {
		eventually(t, func() error {
			p.must(world.Get(p.Context(), p.key("data"), rt))
			edit(rt)
			return world.Update(p.Context(), rt)
		})
	}
	change(func(rt *datav1alpha1.CacheRuntime) {
		level := &rt.Spec.Worker.TieredStore.Levels[0]
		level.HostPath.Quotas[0], level.High = resource.MustParse("3Gi"), "0.9"
		rt.Spec.Options = map[string]string{contract.OptionStoreTTL: "24h", contract.OptionBandwidth: "100Mi"}
	})
	eventually(t, func() error {
		config := p.config("data")
		if level := config.Worker.TieredStoreLevels[0]; level.Quotas[0] != "3Gi" || config.Worker.Options[contract.OptionStoreTTL] != "24h" {
			return fmt.Errorf("runtime.json has %+v", config.Worker)
		}
		worker := &corev1.Pod{}
		p.must(world.Get(p.Context(), p.key("data-worker-0"), worker))
		if !strings.HasPrefix(worker.Annotations[engine.AnnotationTold], config.LiveTable(contract.ComponentWorker)+"@") {
			return errors.New("the worker's kubelet was not told")
		}
		p.must(world.Get(p.Context(), client.ObjectKeyFromObject(node), node))
		if got := node.Labels[contract.CapacityNodeLabel(contract.RuntimeCache, contract.MediumDisk, p.namespace, "data", "")]; got != "3GiB" {
			return fmt.Errorf("the node says that it has %q", got)
		}
		return nil
	})
	if diff := cmp.Diff(before, templates()); diff != "" {
		t.Errorf("the pods would be restarted:\n%s", diff)
	}

	change(func(rt *datav1alpha1.CacheRuntime) { rt.Spec.Options[contract.OptionStoreTTL] = "tomorrow" })
	p.runtimeSays(rt, "InvalidSpec", contract.OptionStoreTTL, "tomorrow", "24h")
	change(func(rt *datav1alpha1.CacheRuntime) {
		rt.Spec.Options = map[string]string{contract.OptionStorePolicy: "tinylfu"} // one that needs a restart
	})
	eventually(t, func() error {
		if cmp.Equal(before, templates()) {
			return errors.New("the workers are not restarted for an option that they read when they start")
		}
		return nil
	})
}
