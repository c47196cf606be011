// Command generate-bounds closes, in the CRD files that it is given, the gaps
// between what an OpenAPI schema admits and what Go can decode. An object in
// such a gap would be stored, and then every typed list of its kind would fail:
// one bad manifest would stop a controller for everybody. The fields lie mostly
// in types of Kubernetes itself (volumes, affinity, pod templates), where no
// marker of ours reaches.
package main

import (
	"fmt"
	"math"
	"os"
	"strings"

	"sigs.k8s.io/yaml"
)

// The pattern of a quantity as controller-gen writes it, and as
// resource.ParseQuantity reads it: its exponent is an integer, and a small one.
const (
	looseExponent  = `[eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))`
	strictExponent = `[eE](\+|-)?[0-9]{1,2}`
)

func main() {
	for _, file := range os.Args[1:] {
		if err := rewrite(file); err != nil {
			fmt.Fprintln(os.Stderr, "generate-bounds:", err)
			os.Exit(1)
		}
	}
}

func rewrite(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	crd := map[string]any{}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	spec, _ := crd["spec"].(map[string]any)
	versions, _ := spec["versions"].([]any)
	for _, v := range versions {
		bound(v)
	}
	text, err = yaml.Marshal(crd)
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.WriteFile(file, append([]byte("---\n"), text...), 0o644)
}

// bound walks a schema with everything below it.
func bound(node any) {
	switch node := node.(type) {
	case []any:
		for _, child := range node {
			bound(child)
		}
	case map[string]any:
		for name, child := range node {
			if where := explainedAt[name]; where != "" {
				refer(child, where)
			}
			if name == "metadata" {
				explainMeta(child)
			}
			bound(child)
		}
		boundNumber(node)
	}
}

func boundNumber(schema map[string]any) {
	intOrString := schema["x-kubernetes-int-or-string"] == true
	pattern, quantity := schema["pattern"].(string)
	switch {
	case intOrString && quantity:
		schema["pattern"] = strings.Replace(pattern, looseExponent, strictExponent, 1)
	case intOrString || schema["format"] == "int32":
		if _, ok := schema["minimum"]; !ok {
			schema["minimum"] = math.MinInt32
		}
		if _, ok := schema["maximum"]; !ok {
			schema["maximum"] = math.MaxInt32
		}
	}
}

// explainedAt is where the fields of Kubernetes' own types are explained.
var explainedAt = map[string]string{"template": "pod", "podSpec": "pod.spec", "volumeSource": "pod.spec.volumes"}

// refer says of a field of a type of Kubernetes' where its own fields are explained.
func refer(field any, where string) {
	schema, ok := field.(map[string]any)
	if !ok {
		return
	}
	text, _ := schema["description"].(string)
	dropDescriptions(field)
	if schema["properties"] != nil {
		schema["description"] = strings.TrimSpace(text + " Its fields: kubectl explain " + where)
	}
}

// explainMeta explains the metadata of what is made from a template, which the
// generator of definitions takes for a type of its own.
func explainMeta(field any) {
	schema, _ := field.(map[string]any)
	fields, _ := schema["properties"].(map[string]any)
	for name, field := range fields {
		if f, ok := field.(map[string]any); ok && f["description"] == nil {
			f["description"] = name + " of what is made from this."
		}
	}
}

// dropDescriptions keeps pod templates, of which a class has three, pods and volume
// sources within what an API server likes to store: kubectl explain pod says
// the same.
func dropDescriptions(node any) {
	switch node := node.(type) {
	case []any:
		for _, child := range node {
			dropDescriptions(child)
		}
	case map[string]any:
		if _, text := node["description"].(string); text {
			delete(node, "description")
		}
		for _, child := range node {
			dropDescriptions(child)
		}
	}
}
