package dataload_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// foreign makes a bound Dataset with a Secret whose engine is not ours.
func (w *world) foreign(name string, config contract.EngineConfig) {
	w.Helper()
	text, err := config.Encode()
	w.must(err)
	w.must(w.Create(w.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: contract.ConfigMapName(name), Annotations: map[string]string{contract.AnnotationFileSystem: "fuse.other"}},
		Data:       map[string]string{contract.EngineConfigKey: string(text)},
	}))
	w.dataset(name, datav1alpha1.NotBoundDatasetPhase)
	ds := &datav1alpha1.Dataset{}
	w.must(w.Get(w.Context(), w.key(name), ds))
	ds.Spec.SharedEncryptOptions = []datav1alpha1.EncryptOption{{Name: "key", ValueFrom: datav1alpha1.EncryptOptionSource{
		SecretKeyRef: datav1alpha1.SecretKeySelector{Name: "keys", Key: "secret"}}}}
	w.must(w.Update(w.Context(), ds))
	w.dataset(name, datav1alpha1.BoundDatasetPhase)
}

func TestAnotherEngineLoadsByItsOwnCommand(t *testing.T) {
	w := newWorld(t)
	w.foreign("training", contract.EngineConfig{DataLoad: &contract.EngineOperation{Image: "engine:1", Command: []string{"/engine", "load"}, Args: []string{"-v"}}})
	dl := w.load("warm", dataset("training"))
	job := w.job(dl)
	main := job.Spec.Template.Spec.Containers[0]
	if main.Image != "engine:1" || main.Name != contract.LoaderContainer {
		t.Errorf("container %+v", main)
	}
	if diff := cmp.Diff([]string{"/engine", "load", "-v"}, append(main.Command, main.Args...)); diff != "" {
		t.Error(diff)
	}
	env := map[string]string{}
	for _, e := range main.Env {
		env[e.Name] = e.Value
	}
	if env[contract.EnvDataLoadPath] != "/" || env[contract.EnvDataLoadReplicas] != "1" || env[contract.EnvDataLoadMetadata] != "false" {
		t.Errorf("environment %v", env)
	}
	mounts := map[string]bool{}
	for _, m := range main.VolumeMounts {
		mounts[m.MountPath] = true
	}
	if !mounts[contract.RuntimeConfigDir] || !mounts[contract.SecretPath("keys", "")] {
		t.Errorf("mounts %v", mounts)
	}

	say := func(cached int64) {
		w.master.mu.Lock()
		w.master.summary[w.key("training")] = contract.Summary{
			CachedBytes: cached, UFSTotalBytes: 1000, MetadataComplete: true, Engine: &contract.EngineSummary{Reported: true},
		}
		w.master.mu.Unlock()
		w.master.wake(w.key("training"))
	}
	say(573)
	w.until(func() string {
		w.must(w.Get(t.Context(), client.ObjectKeyFromObject(dl), dl))
		if p := dl.Status.Progress; p == nil || p.Percent != "57.3%" || p.BytesDone != 573 {
			return fmt.Sprintf("progress %+v", p)
		}
		return ""
	})
	// What the engine did not say is not made up.
	say(990)
	w.ends(job, batchv1.JobComplete)
	w.says(dl, datav1alpha1.PhaseComplete, datav1alpha1.OperationComplete, "ended well in 1s; the engine last told of 990.00B")
	if p := dl.Status.Progress; p.Percent != "99.0%" || p.BytesDone != 990 {
		t.Errorf("progress at the end: %+v", p)
	}
}

func TestAnEngineThatLoadsNothingSaysSo(t *testing.T) {
	w := newWorld(t)
	w.foreign("training", contract.EngineConfig{})
	dl := w.load("warm", dataset("training"))
	w.says(dl, datav1alpha1.PhaseFailed, datav1alpha1.OperationFailed, "no DataLoad among its dataOperationSpecs")
}
