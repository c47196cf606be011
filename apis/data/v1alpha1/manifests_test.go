package v1alpha1_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/yaml"

	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// manifests are the documents of testdata, by file and kind.
func manifests(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("testdata is empty", err)
	}
	out := map[string][]byte{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, doc := range bytes.Split(text, []byte("\n---\n")) {
			kind := struct{ Kind string }{}
			if err := yaml.Unmarshal(doc, &kind); err != nil {
				t.Fatal(file, err)
			}
			out[filepath.Base(file)+" "+kind.Kind] = doc
		}
	}
	return out
}

func decode(t *testing.T, manifest []byte) runtime.Object {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := datav1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	obj, _, err := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer().Decode(manifest, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return obj
}

func TestManifestsKeepEveryFieldThroughOurTypes(t *testing.T) {
	for name, manifest := range manifests(t) {
		t.Run(name, func(t *testing.T) {
			text, err := yaml.Marshal(decode(t, manifest))
			if err != nil {
				t.Fatal(err)
			}
			var written, read any
			if err := yaml.Unmarshal(manifest, &written); err != nil {
				t.Fatal(err)
			}
			if err := yaml.Unmarshal(text, &read); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(written, common(written, read)); diff != "" {
				t.Errorf("lost or changed (-written +read):\n%s", diff)
			}
		})
	}
}

// common leaves out of read what written does not say: empty structs that Go writes.
func common(written, read any) any {
	switch written := written.(type) {
	case map[string]any:
		got, ok := read.(map[string]any)
		if !ok {
			return read
		}
		out := map[string]any{}
		for k, v := range written {
			if r, ok := got[k]; ok {
				out[k] = common(v, r)
			}
		}
		return out
	case []any:
		got, ok := read.([]any)
		if !ok || len(got) != len(written) {
			return read
		}
		out := make([]any, len(written))
		for i := range written {
			out[i] = common(written[i], got[i])
		}
		return out
	default:
		// 1 and "1" are one quantity.
		if fmt.Sprint(written) == fmt.Sprint(read) {
			return written
		}
		return read
	}
}

// The manifests named every-* are the record of what Fluid's users may write:
// a field that they lack is not tested by any of the suites that read them.
func TestTheManifestsOfEveryKindUseEveryField(t *testing.T) {
	all := manifests(t)
	for kind, of := range map[string]any{
		"Dataset":           datav1alpha1.Dataset{},
		"AlluxioRuntime":    datav1alpha1.AlluxioRuntime{},
		"CacheRuntime":      datav1alpha1.CacheRuntime{},
		"CacheRuntimeClass": datav1alpha1.CacheRuntimeClass{},
		"DataLoad":          datav1alpha1.DataLoad{},

		"JuiceFSRuntime":     datav1alpha1.JuiceFSRuntime{},
		"ThinRuntime":        datav1alpha1.ThinRuntime{},
		"ThinRuntimeProfile": datav1alpha1.ThinRuntimeProfile{},
		"DataMigrate":        datav1alpha1.DataMigrate{},
		"DataBackup":         datav1alpha1.DataBackup{},
		"DataProcess":        datav1alpha1.DataProcess{},
	} {
		t.Run(kind, func(t *testing.T) {
			var doc any
			if err := yaml.Unmarshal(all["every-"+strings.ToLower(kind)+".yaml "+kind], &doc); err != nil {
				t.Fatal(err)
			}
			for _, path := range fields("", reflect.TypeOf(of)) {
				if !strings.HasPrefix(path, ".status") && !has(doc, strings.Split(path[1:], ".")) {
					t.Errorf("%s is not used", path)
				}
			}
		})
	}
}

// fields lists the paths of our own types' fields; [] stands for each item of a list.
func fields(at string, of reflect.Type) []string {
	switch of.Kind() {
	case reflect.Pointer:
		return fields(at, of.Elem())
	case reflect.Slice:
		return fields(at+".[]", of.Elem())
	case reflect.Struct:
	default:
		return nil
	}
	if of.PkgPath() != reflect.TypeFor[datav1alpha1.Dataset]().PkgPath() {
		return nil
	}
	var out []string
	for field := range of.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case field.Name == "ObjectMeta":
		case strings.Contains(options, "inline"):
			out = append(out, fields(at, field.Type)...)
		default:
			out = append(out, at+"."+name)
			out = append(out, fields(at+"."+name, field.Type)...)
		}
	}
	return out
}

func has(doc any, path []string) bool {
	if len(path) == 0 {
		return true
	}
	switch doc := doc.(type) {
	case []any:
		return path[0] == "[]" && slices.ContainsFunc(doc, func(item any) bool { return has(item, path[1:]) })
	case map[string]any:
		child, ok := doc[path[0]]
		return ok && has(child, path[1:])
	default:
		return false
	}
}
