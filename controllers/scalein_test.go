package controllers_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
)

// scale changes the replicas of a runtime through its scale subresource.
func (p *place) scale(runtime client.Object, replicas int32) {
	p.Helper()
	scale := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: runtime.GetName()}, Spec: autoscalingv1.ScaleSpec{Replicas: replicas}}
	p.must(world.SubResource("scale").Update(p.Context(), runtime, client.WithSubResourceBody(scale)))
}

// scales waits until the scale subresource says what an autoscaler asks: how many
// workers there are, and which pods they are.
func (p *place) scales(runtime client.Object, replicas int32) {
	p.Helper()
	eventually(p.T, func() error {
		scale := &autoscalingv1.Scale{}
		if err := world.SubResource("scale").Get(p.Context(), runtime, scale); err != nil {
			return err
		}
		selector, err := labels.Parse(scale.Status.Selector)
		if err != nil {
			return err
		}
		pods := &corev1.PodList{}
		p.must(world.List(p.Context(), pods, client.InNamespace(p.namespace), client.MatchingLabelsSelector{Selector: selector}))
		if scale.Spec.Replicas != replicas || scale.Status.Replicas != replicas || len(pods.Items) != int(replicas) {
			return fmt.Errorf("scale says %+v, which selects %d pods", scale, len(pods.Items))
		}
		return nil
	})
}

// config is runtime.json as the pods have it.
func (p *place) config(name string) *contract.RuntimeConfig {
	p.Helper()
	config := &corev1.ConfigMap{}
	p.must(world.Get(p.Context(), p.key(contract.ConfigMapName(name)), config))
	decoded, err := contract.DecodeRuntimeConfig([]byte(config.Data[contract.RuntimeConfigKey]))
	p.must(err)
	return decoded
}

// workers waits until the StatefulSet of the workers has so many replicas and
// runtime.json names those that are to go.
func (p *place) workers(name string, replicas int32, leaving ...string) {
	p.Helper()
	eventually(p.T, func() error {
		set := &appsv1.StatefulSet{}
		if err := world.Get(p.Context(), p.key(contract.WorkerName(name)), set); err != nil {
			return err
		}
		if got := p.config(name).Worker.Leaving; *set.Spec.Replicas != replicas || !slices.Equal(got, leaving) {
			return fmt.Errorf("%d workers of which %v are to go, want %d and %v", *set.Spec.Replicas, got, replicas, leaving)
		}
		return nil
	})
}

// drains has the master of a runtime tell of workers that are to go.
func (p *place) drains(name string, d *contract.DrainSummary) {
	masters.change(p.key(name), func(s *contract.Summary) { s.Drain = d })
}

func (p *place) ready(pod string) {
	p.Helper()
	one := &corev1.Pod{}
	p.must(world.Get(p.Context(), p.key(pod), one))
	one.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
	p.must(world.Status().Update(p.Context(), one))
}

// ofThree is a runtime of one of the kinds that Millrace drives, with three workers.
func (p *place) ofThree(kind string) client.Object {
	if kind == "alluxio" {
		rt := p.alluxioRuntime(kind).(*datav1alpha1.AlluxioRuntime)
		rt.Spec.Replicas = 3
		return rt
	}
	rt := p.cacheRuntime(kind).(*datav1alpha1.CacheRuntime)
	rt.Spec.Worker.Replicas = 3
	return rt
}

func conditionsOf(p *place, runtime client.Object) func() []metav1.Condition {
	return func() []metav1.Condition {
		p.Helper()
		p.must(world.Get(p.Context(), client.ObjectKeyFromObject(runtime), runtime))
		return *engine.ConditionsOf(runtime)
	}
}

func TestWorkersGoWhenTheirBlocksWereMoved(t *testing.T) {
	for _, name := range []string{"cache", "alluxio"} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			runtime := p.ofThree(name)
			p.dataset(name)
			p.create(runtime)
			p.run(name, "a", "b", "c")
			p.ready(contract.WorkerName(name) + "-2")
			p.serves(name, "/")
			masters.change(p.key(name), func(s *contract.Summary) { s.Live = p.config(name).LiveTable(contract.ComponentMaster) })
			p.becomes(name, datav1alpha1.BoundDatasetPhase)
			conditions := conditionsOf(p, runtime)
			last := contract.WorkerName(name) + "-2"
			p.scales(runtime, 3)

			p.scale(runtime, 2)
			p.workers(name, 3, last)
			says(t, conditions, datav1alpha1.RuntimeDrained, metav1.ConditionFalse, "Draining", last, "the master is told")
			eventually(t, func() error {
				pod := &corev1.Pod{}
				p.must(world.Get(p.Context(), p.key(contract.MasterName(name)+"-0"), pod))
				if pod.Annotations[engine.AnnotationTold] == "" {
					return errors.New("the kubelet of the master was not told")
				}
				return nil
			})
			p.drains(name, &contract.DrainSummary{Workers: []string{last}, MovedBytes: 1 << 30, LeftBytes: 2 << 30, BytesPerSecond: 1 << 20})
			says(t, conditions, datav1alpha1.RuntimeDrained, metav1.ConditionFalse, "1.00GiB moved", "2.00GiB left at 1.00MiB/s", "15m0s at the latest")

			// Raised again: nobody goes.
			p.scale(runtime, 3)
			p.workers(name, 3)
			says(t, conditions, datav1alpha1.RuntimeDrained, metav1.ConditionTrue, "Kept")

			// Lowered again, and what the master said before counts no more.
			p.drains(name, nil)
			p.scale(runtime, 2)
			p.workers(name, 3, last)
			p.drains(name, &contract.DrainSummary{Workers: []string{last}, Done: true, Absent: []string{last}, MovedBytes: 3 << 30})
			says(t, conditions, datav1alpha1.RuntimeDrained, metav1.ConditionFalse, "not connected")
			p.drains(name, &contract.DrainSummary{Workers: []string{last}, Done: true, MovedBytes: 3 << 30})
			p.workers(name, 2, last) // it is to go until its pod is gone
			says(t, conditions, datav1alpha1.RuntimeDrained, metav1.ConditionTrue, "Drained", "3.00GiB moved")
			p.rollOut(contract.WorkerName(name), 2)
			p.workers(name, 2)
		})
	}
}

func TestWhatFindsNoRoomIsSaidWhenWorkersGo(t *testing.T) {
	p := newPlace(t)
	runtime := p.ofThree("cache")
	p.dataset("cache")
	p.create(runtime)
	p.run("cache", "a", "b", "c")
	p.serves("cache", "/")
	p.becomes("cache", datav1alpha1.BoundDatasetPhase)
	leaving := []string{"cache-worker-1", "cache-worker-2"}
	p.scale(runtime, 1)
	p.workers("cache", 3, leaving...)
	p.drains("cache", &contract.DrainSummary{Workers: leaving, Done: true, MovedBytes: 1 << 30, StuckBytes: 1 << 20, Message: "cache-worker-0 has no room"})
	p.workers("cache", 1, leaving...)
	says(t, conditionsOf(p, runtime), datav1alpha1.RuntimeDrained, metav1.ConditionTrue, "DrainIncomplete", "1.00MiB", "no room")
	eventually(t, func() error {
		list := &corev1.EventList{}
		p.must(world.List(p.Context(), list, client.InNamespace(p.namespace)))
		for _, e := range list.Items {
			if e.Reason == contract.EventRuntimeScaleInFailed {
				return nil
			}
		}
		return errors.New("no event tells of it")
	})
}

func TestADrainIsBounded(t *testing.T) {
	p := newPlace(t)
	runtime := p.ofThree("cache").(*datav1alpha1.CacheRuntime)
	runtime.Spec.Options = map[string]string{contract.OptionDrainTimeout: "2s"}
	p.dataset("cache")
	p.create(runtime)
	p.run("cache", "a", "b", "c")
	p.serves("cache", "/")
	p.becomes("cache", datav1alpha1.BoundDatasetPhase)
	p.scale(runtime, 2)
	p.workers("cache", 2, "cache-worker-2") // though the master says nothing
	says(t, conditionsOf(p, runtime), datav1alpha1.RuntimeDrained, metav1.ConditionTrue, "DrainTimedOut", "2s", "the master is told")
}
