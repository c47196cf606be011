package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// fuse starts a FUSE pod of a runtime's DaemonSet, of a template of so long ago.
func (p *place) fuse(runtime, node, generation string) *corev1.Pod {
	p.Helper()
	set := &appsv1.DaemonSet{}
	eventually(p.T, func() error {
		return world.Get(p.Context(), p.key(contract.ClientName(contract.RuntimeCache, runtime)), set)
	})
	pod := &corev1.Pod{ObjectMeta: p.meta(set.Name + "-" + node), Spec: *set.Spec.Template.Spec.DeepCopy()}
	pod.Labels, pod.Spec.NodeName = map[string]string{"pod-template-generation": generation}, node
	for key, value := range set.Spec.Template.Labels {
		pod.Labels[key] = value
	}
	pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))}
	p.create(pod)
	return pod
}

func TestFUSEPodsAreNeverReplacedUnderAReader(t *testing.T) {
	for name, policy := range map[string]datav1alpha1.FuseCleanPolicy{
		"default": datav1alpha1.NoneCleanPolicy, "OnFuseChanged": datav1alpha1.OnFuseChangedCleanPolicy, "OnDemand": datav1alpha1.OnDemandCleanPolicy,
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			rt := p.cacheRuntime("data").(*datav1alpha1.CacheRuntime)
			rt.Spec.Client.CleanPolicy = policy
			p.bind("data", rt)
			label := contract.FuseNodeLabel(p.namespace, "data", "")
			nodes := map[string]*corev1.Node{}
			for _, which := range []string{"read", "idle"} {
				node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: p.namespace + "-" + which, Labels: map[string]string{label: "true"}}}
				p.create(node)
				t.Cleanup(func() { _ = world.Delete(context.Background(), node) })
				nodes[which] = node
			}
			reader := p.reader("reader", "data")
			binding := &corev1.Binding{ObjectMeta: p.meta("reader"), Target: corev1.ObjectReference{Kind: "Node", Name: nodes["read"].Name}}
			p.must(world.SubResource("binding").Create(p.Context(), reader, binding))
			read, idle := p.fuse("data", nodes["read"].Name, "1"), p.fuse("data", nodes["idle"].Name, "1")
			eventually(t, func() error {
				p.must(world.Get(p.Context(), p.key("data"), rt))
				rt.Spec.Client.RuntimeVersion = datav1alpha1.VersionSpec{Image: "cache", ImageTag: "next"}
				return world.Update(p.Context(), rt)
			})
			says(t, conditionsOf(p, rt), datav1alpha1.RuntimeFuseUpToDate, metav1.ConditionFalse, read.Name)

			gone := func() error {
				fuse, node := &corev1.Pod{}, &metav1.PartialObjectMetadata{}
				node.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Node"))
				err := client.IgnoreNotFound(world.Get(p.Context(), client.ObjectKeyFromObject(idle), fuse))
				p.must(errors.Join(err, world.Get(p.Context(), client.ObjectKeyFromObject(nodes["idle"]), node)))
				deleted := fuse.Name == "" || !fuse.DeletionTimestamp.IsZero()
				_, labelled := node.Labels[label]
				if deleted != (policy == datav1alpha1.OnFuseChangedCleanPolicy) || labelled != (policy != datav1alpha1.OnDemandCleanPolicy) {
					return fmt.Errorf("the idle FUSE pod is deleted: %v, its node is labelled: %v", deleted, labelled)
				}
				return nil
			}
			if policy == datav1alpha1.NoneCleanPolicy {
				p.must(gone())
			} else {
				eventually(t, gone)
			}
			p.must(world.Get(p.Context(), client.ObjectKeyFromObject(read), read))
			p.must(world.Get(p.Context(), client.ObjectKeyFromObject(nodes["read"]), nodes["read"]))
			if !read.DeletionTimestamp.IsZero() || nodes["read"].Labels[label] != "true" {
				t.Errorf("the FUSE pod under a reader goes")
			}
		})
	}
}
