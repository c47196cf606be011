package controllers_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
)

// table is what the mounts that a runtime is to serve are called.
func (p *place) table(name string) string {
	p.Helper()
	config := &corev1.ConfigMap{}
	p.must(world.Get(p.Context(), p.key(contract.ConfigMapName(name)), config))
	decoded, err := contract.DecodeRuntimeConfig([]byte(config.Data[contract.RuntimeConfigKey]))
	p.must(err)
	return decoded.MountTable()
}

// servesTable has the master of a runtime name the mounts that it serves.
func (p *place) servesTable(name, table string) {
	masters.change(p.key(name), func(s *contract.Summary) { s.MountTable = table })
}

func TestPain10MountsOfABoundDatasetChangeWithoutARestart(t *testing.T) {
	p := newPlace(t)
	p.bind("data", p.cacheRuntime("data"))
	first := p.table("data")
	p.servesTable("data", first)
	p.becomes("data", datav1alpha1.BoundDatasetPhase)
	templates := func() (all []corev1.PodTemplateSpec) {
		for _, name := range []string{contract.MasterName("data"), contract.WorkerName("data")} {
			set := &appsv1.StatefulSet{}
			p.must(world.Get(p.Context(), p.key(name), set))
			all = append(all, set.Spec.Template)
		}
		return all
	}
	before := templates()

	ds := p.get("data")
	ds.Spec.Mounts = append(ds.Spec.Mounts, datav1alpha1.Mount{MountPoint: "s3://other", Name: "other"})
	p.must(world.Update(p.Context(), ds))
	p.becomes("data", datav1alpha1.UpdatingDatasetPhase)
	p.datasetSays("data", metav1.ConditionFalse, "told of the changed mounts")
	eventually(t, func() error {
		if p.table("data") == first {
			return errors.New("runtime.json has the former mounts")
		}
		for _, name := range []string{contract.MasterName("data"), contract.WorkerName("data")} {
			pod := &corev1.Pod{}
			p.must(world.Get(p.Context(), p.key(name+"-0"), pod))
			if want := p.table("data") + "@"; len(pod.Annotations[engine.AnnotationTold]) <= len(want) || pod.Annotations[engine.AnnotationTold][:len(want)] != want {
				return fmt.Errorf("pod %s was told %q", pod.Name, pod.Annotations[engine.AnnotationTold])
			}
		}
		return nil
	})
	if diff := cmp.Diff(before, templates()); diff != "" {
		t.Errorf("the pods would be restarted:\n%s", diff)
	}
	if ds := p.get("data"); len(ds.Status.Mounts) != 1 {
		t.Errorf("shows mounts that are not served: %+v", ds.Status.Mounts)
	}

	p.serves("data", "/", "/other")
	p.servesTable("data", p.table("data"))
	if ds := p.becomes("data", datav1alpha1.BoundDatasetPhase); len(ds.Status.Mounts) != 2 {
		t.Errorf("does not show the mounts that are served: %+v", ds.Status.Mounts)
	}
}

func TestMountsThatClashLeaveTheFormerOnes(t *testing.T) {
	p := newPlace(t)
	p.bind("data", p.cacheRuntime("data"))
	first := p.table("data")
	ds := p.get("data")
	ds.Spec.Mounts = append(ds.Spec.Mounts, datav1alpha1.Mount{MountPoint: "s3://other", Name: "other", Path: "/"})
	if err := world.Update(p.Context(), ds); err != nil {
		return // the API says so
	}
	p.datasetSays("data", metav1.ConditionFalse, "both the path /")
	if ds := p.get("data"); ds.Status.Phase != datav1alpha1.UpdatingDatasetPhase || p.table("data") != first {
		t.Errorf("phase %s", ds.Status.Phase)
	}
}
