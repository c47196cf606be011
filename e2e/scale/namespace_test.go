package scale

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// tenant is a namespace with a Dataset, its runtime and what uses them.
type tenant struct {
	t         *testing.T
	s         *Stand
	namespace string
}

func (n *tenant) create(objs ...client.Object) {
	n.t.Helper()
	for _, obj := range objs {
		if err := n.s.Create(n.t.Context(), obj); err != nil {
			n.t.Fatal(err)
		}
	}
}

func (n *tenant) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: n.namespace, Name: name}
}

// moveIn makes a Dataset whose keys are in a Secret that is there or not.
func (n *tenant) moveIn(secret bool) {
	n.t.Helper()
	n.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n.namespace}})
	if secret {
		n.create(&corev1.Secret{ObjectMeta: n.meta("keys"), StringData: map[string]string{"access": "a"}})
	}
	rt := &datav1alpha1.CacheRuntime{ObjectMeta: n.meta("data"), Spec: datav1alpha1.CacheRuntimeSpec{RuntimeClassName: contract.NativeClass}}
	rt.Spec.Worker.Replicas = 1
	rt.Spec.Worker.TieredStore.Levels = []datav1alpha1.CacheLevel{{EmptyDir: &datav1alpha1.EmptyDirTier{Quota: resource.MustParse("1Gi")}}}
	load := &datav1alpha1.DataLoad{ObjectMeta: n.meta("load")}
	load.Spec.Dataset.Name, load.Spec.Dataset.Namespace = "data", n.namespace
	n.create(&datav1alpha1.Dataset{ObjectMeta: n.meta("data"), Spec: datav1alpha1.DatasetSpec{PlacementMode: datav1alpha1.ShareMode, Mounts: []datav1alpha1.Mount{{
		MountPoint: "s3://bucket", Name: "bucket", Path: "/", EncryptOptions: []datav1alpha1.EncryptOption{
			{Name: "aws.accessKeyId", ValueFrom: datav1alpha1.EncryptOptionSource{SecretKeyRef: datav1alpha1.SecretKeySelector{Name: "keys", Key: "access"}}}},
	}}}}, rt, load)
}

func (n *tenant) awaits(what string, ok func(*datav1alpha1.Dataset, *datav1alpha1.DataLoad) bool) {
	n.t.Helper()
	eventually(n.t, n.namespace+": "+what, func(ctx context.Context) error {
		ds, load := &datav1alpha1.Dataset{}, &datav1alpha1.DataLoad{}
		if err := n.s.Get(ctx, types.NamespacedName{Namespace: n.namespace, Name: "data"}, ds); err != nil {
			return err
		}
		if err := n.s.Get(ctx, types.NamespacedName{Namespace: n.namespace, Name: "load"}, load); err != nil {
			return err
		}
		if !ok(ds, load) {
			return fmt.Errorf("the Dataset is %s: %+v; the DataLoad is %s: %+v", ds.Status.Phase, ds.Status.Conditions, load.Status.Phase, load.Status.Conditions)
		}
		return nil
	})
}

// TestPain2TerminatingNamespacesEnd deletes namespaces with all that is in
// them, in the order in which Kubernetes does.
func TestPain2TerminatingNamespacesEnd(t *testing.T) {
	s := open(t, 2)
	newCrasher(t, s, false)
	tenants := map[string]func(*tenant){
		"bound-loading-and-read": func(n *tenant) {
			n.moveIn(true)
			n.awaits("a load runs", func(ds *datav1alpha1.Dataset, load *datav1alpha1.DataLoad) bool {
				return ds.Status.Phase == datav1alpha1.BoundDatasetPhase && load.Status.Phase == datav1alpha1.PhaseExecuting
			})
			n.create(&corev1.Pod{ObjectMeta: n.meta("reader"), Spec: corev1.PodSpec{
				Containers: []corev1.Container{{Name: "app", Image: "app"}},
				Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
					PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}},
			}})
		},
		"never-bound": func(n *tenant) {
			n.moveIn(false)
			n.awaits("it fails", func(ds *datav1alpha1.Dataset, _ *datav1alpha1.DataLoad) bool {
				return ds.Status.Phase == datav1alpha1.FailedDatasetPhase
			})
		},
		"a-moment-old": func(n *tenant) { n.moveIn(true) },
		"not-served": func(n *tenant) {
			n.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n.namespace}},
				&datav1alpha1.Dataset{ObjectMeta: n.meta("data"), Spec: datav1alpha1.DatasetSpec{Mounts: []datav1alpha1.Mount{{MountPoint: "juicefs:///", Name: "j"}}}},
				&datav1alpha1.JuiceFSRuntime{ObjectMeta: n.meta("data")})
		},
	}
	for namespace, arrange := range tenants {
		arrange(&tenant{t, s, namespace})
	}
	for namespace := range tenants {
		if err := s.Delete(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
			t.Fatal(err)
		}
	}
	for namespace := range tenants {
		eventually(t, "namespace "+namespace+" is gone", func(ctx context.Context) error {
			ns := &corev1.Namespace{}
			if err := s.Get(ctx, types.NamespacedName{Name: namespace}, ns); apierrors.IsNotFound(err) {
				return nil
			} else if err != nil {
				return err
			}
			var why []string
			for _, c := range ns.Status.Conditions {
				if c.Status == corev1.ConditionTrue {
					why = append(why, c.Message)
				}
			}
			ds := &datav1alpha1.Dataset{}
			_ = s.Get(ctx, types.NamespacedName{Namespace: namespace, Name: "data"}, ds)
			return fmt.Errorf("it is there: %s; the Dataset says %+v", why, ds.Status.Conditions)
		})
	}
	// What is the cluster's goes as well: volumes, and labels of nodes.
	eventually(t, "nothing is left in the cluster", func(ctx context.Context) error {
		volumes, nodes := &corev1.PersistentVolumeList{}, &corev1.NodeList{}
		if err := s.List(ctx, volumes); err != nil {
			return err
		}
		if err := s.List(ctx, nodes); err != nil {
			return err
		}
		for i := range volumes.Items {
			return fmt.Errorf("volume %s is %s", volumes.Items[i].Name, volumes.Items[i].Status.Phase)
		}
		for i := range nodes.Items {
			if labels := nodes.Items[i].Labels; len(labels) > 1 {
				return fmt.Errorf("node %s has %v", nodes.Items[i].Name, labels)
			}
		}
		return nil
	})
}
