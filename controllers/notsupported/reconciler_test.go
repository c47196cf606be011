package notsupported_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	"github.com/millrace/millrace/apis/apitest"
	"github.com/millrace/millrace/controllers/notsupported"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }

const patience = 60 * time.Second

func eventually(t *testing.T, ask func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = ask(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func start(t *testing.T) client.Client {
	t.Helper()
	mgr, err := ctrl.NewManager(apitest.Config(t), ctrl.Options{
		Scheme: apitest.Scheme(), Metrics: server.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: ptr.To(true)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := notsupported.SetupWithManager(mgr); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return apitest.Client(t)
}

func object(t *testing.T, manifest string) *unstructured.Unstructured {
	t.Helper()
	obj := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte("apiVersion: data.fluid.io/v1alpha1\n"+manifest), obj); err != nil {
		t.Fatal(err)
	}
	if obj.GetKind() != "ThinRuntimeProfile" {
		obj.SetNamespace("default")
	}
	return obj
}

func condition(obj *unstructured.Unstructured, conditionType string) map[string]any {
	list, _, _ := unstructured.NestedSlice(obj.Object, "status", "conditions")
	for _, item := range list {
		if c := item.(map[string]any); c["type"] == conditionType {
			return c
		}
	}
	return nil
}

func TestKindsWithoutBehaviourAreAnsweredAndGo(t *testing.T) {
	c := start(t)
	for kind, tc := range map[string]struct{ spec, finalizer, remedy string }{
		"JuiceFSRuntime":     {"{replicas: 1}", "juicefs-runtime-controller-finalizer", "CacheRuntime of class millrace named x"},
		"ThinRuntime":        {"{profileName: nfs}", "thin-runtime-controller-finalizer", "CacheRuntime of class millrace named x"},
		"ThinRuntimeProfile": {"{fileSystemType: nfs}", "", "can be deleted"},
		"DataBackup":         {"{dataset: d}", "fluid-databackup-controller-finalizer", "delete it"},
	} {
		t.Run(kind, func(t *testing.T) {
			obj := object(t, "kind: "+kind+"\nmetadata: {name: x}\nspec: "+tc.spec+"\n")
			if tc.finalizer != "" {
				obj.SetFinalizers([]string{tc.finalizer})
			}
			if err := c.Create(t.Context(), obj); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() error {
				if err := c.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
					return err
				}
				said := condition(obj, "NotSupported")
				if message := fmt.Sprint(said["message"]); said["status"] != "True" || !strings.Contains(message, kind) || !strings.Contains(message, tc.remedy) {
					return fmt.Errorf("condition %v", said)
				}
				return nil
			})
			if strings.HasPrefix(kind, "Data") {
				if phase, _, _ := unstructured.NestedString(obj.Object, "status", "phase"); phase != "Failed" || condition(obj, "Failed") == nil {
					t.Errorf("phase %q", phase)
				}
			}
			if err := c.Delete(t.Context(), obj); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() error {
				if err := c.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); !apierrors.IsNotFound(err) {
					return fmt.Errorf("is still there with %v: %w", obj.GetFinalizers(), err)
				}
				return nil
			})
		})
	}
	t.Run("a finalizer of somebody else is left to him", func(t *testing.T) {
		obj := object(t, "kind: JuiceFSRuntime\nmetadata: {name: held, finalizers: [juicefs-runtime-controller-finalizer, example.org/held]}\n")
		if err := c.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
		if err := c.Delete(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error {
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
				return err
			}
			if got := fmt.Sprint(obj.GetFinalizers()); got != "[example.org/held]" {
				return fmt.Errorf("finalizers %s", got)
			}
			return nil
		})
		if err := c.Patch(t.Context(), obj, client.RawPatch("application/merge-patch+json", []byte(`{"metadata": {"finalizers": null}}`))); err != nil {
			t.Error(err)
		}
	})
	t.Run("an operation that ended under Fluid stays as it ended", func(t *testing.T) {
		done := object(t, "kind: DataBackup\nmetadata: {name: done, labels: {a: b}}\nspec: {dataset: d}\n")
		if err := c.Create(t.Context(), done); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Delete(context.Background(), done) })
		eventually(t, func() error {
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(done), done); err != nil {
				return err
			}
			if condition(done, "NotSupported") == nil {
				return fmt.Errorf("not answered")
			}
			return nil
		})
		done.Object["status"] = map[string]any{"phase": "Complete", "duration": "3s", "conditions": []any{}}
		if err := c.Status().Update(t.Context(), done); err != nil {
			t.Fatal(err)
		}
		done.Object["spec"].(map[string]any)["backupPath"] = "pvc://c/d" // another generation
		if err := c.Update(t.Context(), done); err != nil {
			t.Fatal(err)
		}
		// What is answered later was seen after this one.
		later := object(t, "kind: DataBackup\nmetadata: {name: later}\nspec: {dataset: d}\n")
		if err := c.Create(t.Context(), later); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Delete(context.Background(), later) })
		eventually(t, func() error {
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(later), later); err != nil {
				return err
			}
			if condition(later, "NotSupported") == nil {
				return fmt.Errorf("not answered")
			}
			return nil
		})
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(done), done); err != nil {
			t.Fatal(err)
		}
		if phase, _, _ := unstructured.NestedString(done.Object, "status", "phase"); phase != "Complete" || condition(done, "NotSupported") != nil {
			t.Errorf("status %v", done.Object["status"])
		}
	})
}
