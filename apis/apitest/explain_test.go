package apitest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// TestEveryFieldIsExplained walks what `kubectl explain --recursive` shows.
func TestEveryFieldIsExplained(t *testing.T) {
	files, err := filepath.Glob("../../charts/millrace/crds/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no definitions", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.Unmarshal(text, crd); err != nil {
			t.Fatal(err)
		}
		t.Run(crd.Spec.Names.Kind, func(t *testing.T) {
			for _, version := range crd.Spec.Versions {
				explained(t, crd.Spec.Names.Singular, version.Schema.OpenAPIV3Schema)
			}
		})
	}
}

func explained(t *testing.T, path string, schema *apiextensionsv1.JSONSchemaProps) {
	if len(schema.Description) < 10 {
		t.Errorf("kubectl explain %s says %q", path, schema.Description)
	}
	for name, field := range schema.Properties {
		if path+"."+name != root(path)+".metadata" { // the API server explains it
			below(t, path+"."+name, &field)
		}
	}
}

func root(path string) string {
	name, _, _ := strings.Cut(path, ".")
	return name
}

// below leads through lists and maps, whose elements are explained with them.
func below(t *testing.T, path string, schema *apiextensionsv1.JSONSchemaProps) {
	if strings.Contains(schema.Description, "Its fields: kubectl explain pod") {
		return // a type of Kubernetes' own
	}
	explained(t, path, schema)
	inner := schema
	for inner.Items != nil && inner.Items.Schema != nil || inner.AdditionalProperties != nil && inner.AdditionalProperties.Schema != nil {
		if inner.Items != nil && inner.Items.Schema != nil {
			inner = inner.Items.Schema
		} else {
			inner = inner.AdditionalProperties.Schema
		}
	}
	if inner == schema {
		return
	}
	for name, field := range inner.Properties {
		below(t, path+"."+name, &field)
	}
}
