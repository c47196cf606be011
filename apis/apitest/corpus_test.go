package apitest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/apitest"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

func corpus(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("testdata/fluid/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no manifests", err)
	}
	out := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(file)] = string(text)
	}
	return out
}

// Whoever comes from Fluid applies what he has: no field is unknown, no value
// is refused.
func TestAnyManifestOfFluidApplies(t *testing.T) {
	for name, manifest := range corpus(t) {
		t.Run(name, func(t *testing.T) {
			c := client.WithFieldValidation(apitest.Client(t), "Strict")
			for _, obj := range objects(t, manifest) {
				if err := c.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(obj), client.FieldOwner("kubectl"), client.ForceOwnership, client.DryRunAll); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestEveryKindHasManifestsOfFluid(t *testing.T) {
	seen := map[string]bool{}
	for _, manifest := range corpus(t) {
		for _, obj := range objects(t, manifest) {
			seen[obj.GetKind()] = true
		}
	}
	for kind, of := range apitest.Scheme().AllKnownTypes() {
		if kind.Group != datav1alpha1.GroupVersion.Group || of.PkgPath() != "github.com/millrace/millrace/apis/data/v1alpha1" || strings.HasSuffix(kind.Kind, "List") {
			continue
		}
		if !seen[kind.Kind] {
			t.Errorf("no manifest of a %s", kind.Kind)
		}
	}
}

// What a controller reads into our types and writes back is what was there.
func TestAnObjectOutlivesOurTypes(t *testing.T) {
	manifests := corpus(t)
	files, err := filepath.Glob("../data/v1alpha1/testdata/every-*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no manifests", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		manifests[filepath.Base(file)] = string(text)
	}
	c := apitest.Client(t)
	serial := 0
	for name, manifest := range manifests {
		t.Run(name, func(t *testing.T) {
			for _, obj := range objects(t, manifest) {
				serial++
				obj.SetName(fmt.Sprintf("kept-%d", serial))
				if err := c.Create(t.Context(), obj); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Delete(t.Context(), obj) })
				stored := obj.DeepCopy()
				typed, err := c.Scheme().New(obj.GroupVersionKind())
				if err != nil {
					t.Fatal(err)
				}
				ours := typed.(client.Object)
				if err := c.Get(t.Context(), client.ObjectKeyFromObject(obj), ours); err != nil {
					t.Fatal(err)
				}
				ours.SetLabels(map[string]string{"seen": "true"})
				if err := c.Update(t.Context(), ours); err != nil {
					t.Fatal(err)
				}
				if err := c.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(meaning(stored), meaning(obj)); diff != "" {
					t.Errorf("%s (-before +after):\n%s", obj.GetKind(), diff)
				}
			}
		})
	}
}

// meaning is what an object says, without its metadata, its status and the
// empty structs that Go writes for fields that are left out.
func meaning(obj *unstructured.Unstructured) any {
	content := map[string]any{}
	for key, value := range obj.Object {
		if key != "metadata" && key != "status" {
			content[key] = value
		}
	}
	return full(content)
}

func full(value any) any {
	switch value := value.(type) {
	case map[string]any:
		out := map[string]any{}
		for key, child := range value {
			if child = full(child); !empty(child) {
				out[key] = child
			}
		}
		return out
	case []any:
		out := make([]any, len(value))
		for i := range value {
			out[i] = full(value[i])
		}
		return out
	case int64:
		return fmt.Sprint(value) // 1 and "1" are one quantity
	default:
		return value
	}
}

func empty(value any) bool {
	switch value := value.(type) {
	case nil:
		return true
	case map[string]any:
		return len(value) == 0
	case []any:
		return len(value) == 0
	case string:
		return value == "" || value == "0"
	case bool:
		return !value
	default:
		return false
	}
}
