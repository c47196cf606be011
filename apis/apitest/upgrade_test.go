package apitest_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/millrace/millrace/apis/apitest"
)

// lax is a group of this test's own, so that the CRDs of the other tests stay.
const lax = "lax.fluid.io"

// An object that Fluid took, and that breaks a rule of ours, must still get its
// status and lose its finalizers: else it would hang for ever.
func TestObjectsThatFluidTookCanStillBeServedAndDeleted(t *testing.T) {
	c := apitest.Client(t)
	for name, tc := range map[string]struct{ file, old, worse string }{
		"a Dataset with two mounts on one path and a scheme of its own": {"datasets", `
kind: Dataset
metadata: {name: 1.old, finalizers: [lax.fluid.io/f]}
spec: {mounts: [{mountPoint: "demofs:///", name: a}, {mountPoint: "s3://b", name: a}]}
status: {phase: Bound, conditions: [{type: Ready, status: "True", reason: Dataset is ready, lastUpdateTime: "2024-01-01T00:00:00Z"}]}
`, `{"spec": {"mounts": [{"mountPoint": "pvc://"}]}}`},
		"an AlluxioRuntime with a long name, equal marks and a bad volume": {"alluxioruntimes", `
kind: AlluxioRuntime
metadata: {name: ` + strings.Repeat("x", 60) + `, finalizers: [lax.fluid.io/f]}
spec:
  tieredstore: {levels: [{mediumtype: MEM, path: /dev/shm, quota: 1Gi, high: "0.99", low: "0.99"}]}
  volumes: [{name: v, secret: {secretName: s, defaultMode: 99999999999}}]
status: {masterPhase: Ready, conditions: [{type: WorkersReady, status: "True", reason: The workers are ready., lastProbeTime: "2024-01-01T00:00:00Z"}]}
`, `{"spec": {"tieredstore": {"levels": [{"mediumtype": "MEM", "quota": "1Gi", "high": "0.5", "low": "0.9"}]}}}`},
		"a DataLoad of nothing": {"dataloads", `
kind: DataLoad
metadata: {name: 1.old, finalizers: [lax.fluid.io/f]}
spec: {policy: Cron}
status: {phase: Pending, duration: Unfinished, conditions: []}
`, `{"spec": {"policy": "Sometimes"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			crd, ours := ourCRD(t, tc.file), ourCRD(t, tc.file)
			anything := schemaOf(crd)
			clear(anything)
			anything["type"], anything["x-kubernetes-preserve-unknown-fields"] = "object", true
			if err := c.Create(ctx, crd); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Delete(context.Background(), crd) })

			obj := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte("apiVersion: "+lax+"/v1alpha1\n"+tc.old), obj); err != nil {
				t.Fatal(err)
			}
			obj.SetNamespace("default")
			status := obj.Object["status"]
			soon(t, func(ctx context.Context) error { return c.Create(ctx, obj) })
			obj.Object["status"] = status
			if err := c.Status().Update(ctx, obj); err != nil {
				t.Fatal(err)
			}

			soon(t, func(ctx context.Context) error {
				if err := c.Get(ctx, client.ObjectKeyFromObject(crd), crd); err != nil {
					return err
				}
				ours.SetResourceVersion(crd.GetResourceVersion())
				return c.Update(ctx, ours)
			})
			soon(t, func(ctx context.Context) error {
				if err := c.Patch(ctx, obj.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(tc.worse)), client.DryRunAll); err == nil {
					return errStillLax
				}
				return nil
			})

			if err := c.Get(ctx, client.ObjectKeyFromObject(obj), obj); err != nil {
				t.Fatal(err)
			}
			obj.SetLabels(map[string]string{"seen": "true"})
			if err := c.Update(ctx, obj); err != nil {
				t.Errorf("label: %v", err)
			}
			now := metav1.Now().UTC().Format(time.RFC3339)
			obj.Object["status"] = map[string]any{"phase": "Pending", "conditions": []any{map[string]any{
				"type": "Ready", "status": "False", "reason": "Invalid", "message": "m", "lastTransitionTime": now, "observedGeneration": int64(1)}}}
			if tc.file == "alluxioruntimes" {
				delete(obj.Object["status"].(map[string]any), "phase")
			}
			if err := c.Status().Update(ctx, obj); err != nil {
				t.Errorf("write status: %v", err)
			}
			if err := c.Delete(ctx, obj); err != nil {
				t.Errorf("delete: %v", err)
			}
			obj.SetFinalizers(nil)
			if err := c.Patch(ctx, obj, client.RawPatch("application/merge-patch+json", []byte(`{"metadata": {"finalizers": null}}`))); err != nil {
				t.Errorf("drop the finalizer: %v", err)
			}
			if err := c.Get(ctx, client.ObjectKeyFromObject(obj), obj); client.IgnoreNotFound(err) != nil || err == nil {
				t.Errorf("is still there: %v", err)
			}
		})
	}
}

var errStillLax = errors.New("the API server does not know the rules yet")

// ourCRD is one of the chart's, moved to the group lax.
func ourCRD(t *testing.T, plural string) *unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile("../../charts/millrace/crds/data.fluid.io_" + plural + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	crd := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(text, crd); err != nil {
		t.Fatal(err)
	}
	crd.SetName(plural + "." + lax)
	spec := crd.Object["spec"].(map[string]any)
	spec["group"] = lax
	names := spec["names"].(map[string]any)
	delete(names, "shortNames")
	delete(names, "categories")
	return crd
}

// schemaOf is the schema inside a CRD: a change to it changes the CRD.
func schemaOf(crd *unstructured.Unstructured) map[string]any {
	version := crd.Object["spec"].(map[string]any)["versions"].([]any)[0].(map[string]any)
	return version["schema"].(map[string]any)["openAPIV3Schema"].(map[string]any)
}

// soon tries until it works: an API server learns of a CRD after a moment.
func soon(t *testing.T, try func(context.Context) error) {
	t.Helper()
	var last error
	if err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, 3*time.Minute, true, func(ctx context.Context) (bool, error) {
		last = try(ctx)
		return last == nil, nil
	}); err != nil {
		t.Fatal(last)
	}
}
