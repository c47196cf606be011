package cacheruntime

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
)

// Describe turns a runtime and its class into the engine's words.
func Describe(rt *datav1alpha1.CacheRuntime, class *datav1alpha1.CacheRuntimeClass, options Options) *engine.Description {
	if native(class) {
		return describe(rt, class, options)
	}
	return describeForeign(rt, class, options)
}

// describe turns a runtime of the native engine into its words.
func describe(rt *datav1alpha1.CacheRuntime, class *datav1alpha1.CacheRuntimeClass, options Options) *engine.Description {
	topology := class.Topology
	if topology == nil {
		topology = &datav1alpha1.RuntimeTopology{}
	}
	d := &engine.Description{Volumes: rt.Spec.Volumes, ImagePullSecrets: rt.Spec.ImagePullSecrets, CleanPolicy: rt.Spec.Client.CleanPolicy}
	d.Master = component(rt, topology.Master, &rt.Spec.Master.RuntimeComponentSpec, options)
	d.Worker = component(rt, topology.Worker, &rt.Spec.Worker.RuntimeComponentSpec, options)
	d.Client = component(rt, topology.Client, &rt.Spec.Client.RuntimeComponentSpec, options)
	d.Master.Replicas = 1
	d.Worker.Replicas = rt.Spec.Worker.Replicas
	if rt.Spec.Worker.Disabled {
		d.Worker.Replicas = 0
	}
	d.Worker.Tiers = tiers(rt.Spec.Worker.TieredStore.Levels)
	d.NotServed = append(notServedOf(class, topology), notServed(&rt.Spec)...)
	return d
}

// notServedOf names the fields of a class that the native engine has no use for.
func notServedOf(class *datav1alpha1.CacheRuntimeClass, topology *datav1alpha1.RuntimeTopology) (out []string) {
	name := func(field string, set bool) {
		if set {
			out = append(out, field+" of CacheRuntimeClass "+class.Name)
		}
	}
	for role, c := range map[string]*datav1alpha1.RuntimeComponentDefinition{"master": topology.Master, "worker": topology.Worker, "client": topology.Client} {
		if c == nil {
			continue
		}
		of := "topology." + role + "."
		name(of+"workloadType", c.WorkloadType != nil)
		name(of+"dependencies.secretMount", c.Dependencies.SecretMount != nil)
		name(of+"dependencies.extraResources", c.Dependencies.ExtraResources != nil)
		name(of+"executionEntries", c.ExecutionEntries != nil)
	}
	name("extraResources", len(class.ExtraResources.ConfigMaps) > 0)
	name("dataOperationSpecs", len(class.DataOperationSpecs) > 0)
	return out
}

// component lays the runtime's options over the class's, and its own over both.
func component(rt *datav1alpha1.CacheRuntime, class *datav1alpha1.RuntimeComponentDefinition, spec *datav1alpha1.RuntimeComponentSpec, options Options) engine.Component {
	if class == nil {
		class = &datav1alpha1.RuntimeComponentDefinition{}
	}
	c := engine.Component{
		Options:      over(class.Options, rt.Spec.Options, spec.Options),
		Labels:       over(rt.Spec.PodMetadata.Labels, spec.PodMetadata.Labels),
		Annotations:  over(rt.Spec.PodMetadata.Annotations, spec.PodMetadata.Annotations),
		Env:          spec.Env,
		Args:         spec.Args,
		Resources:    spec.Resources,
		VolumeMounts: spec.VolumeMounts,
		NodeSelector: spec.NodeSelector,
		Tolerations:  spec.Tolerations,
		Template:     class.Template,
	}
	c.Image, c.PullPolicy = image(&class.Template, spec.RuntimeVersion, options)
	return c
}

// image: the runtime's choice, else the class's, else the manager's.
func image(template *corev1.PodTemplateSpec, version datav1alpha1.VersionSpec, options Options) (string, corev1.PullPolicy) {
	name, policy := options.NativeImage, options.PullPolicy
	if containers := template.Spec.Containers; len(containers) > 0 && containers[0].Image != "" {
		name, policy = containers[0].Image, containers[0].ImagePullPolicy
	}
	if version.Image != "" {
		name = version.Image
		if version.ImageTag != "" {
			name += ":" + version.ImageTag
		}
	}
	if version.ImagePullPolicy != "" {
		policy = corev1.PullPolicy(version.ImagePullPolicy)
	}
	return name, policy
}

func tiers(levels []datav1alpha1.CacheLevel) []engine.Tier {
	var out []engine.Tier
	for _, level := range levels {
		tier := engine.Tier{High: level.High, Low: level.Low, Medium: contract.TierHDD}
		switch {
		case level.ProcessMemory != nil:
			tier.Medium = contract.TierMEM
			tier.Dirs = []engine.TierDir{{ProcessMemory: true, QuotaBytes: level.ProcessMemory.Quota.Value()}}
		case level.EmptyDir != nil:
			memory := level.EmptyDir.Medium == corev1.StorageMediumMemory
			if memory {
				tier.Medium = contract.TierMEM
			}
			tier.Dirs = []engine.TierDir{{Memory: memory, QuotaBytes: level.EmptyDir.Quota.Value()}}
		case level.HostPath != nil:
			for i, path := range level.HostPath.Paths {
				tier.Dirs = append(tier.Dirs, engine.TierDir{HostPath: path, QuotaBytes: level.HostPath.Quotas[i].Value()})
			}
		}
		out = append(out, tier)
	}
	return out
}

// NotServed: what has no meaning depends on the class, so the Description says it.
func (k *kind) NotServed(client.Object) []string { return nil }

// notServed names the fields that the native engine has no use for.
func notServed(spec *datav1alpha1.CacheRuntimeSpec) []string {
	var out []string
	name := func(field string, set bool) {
		if set {
			out = append(out, "spec."+field)
		}
	}
	name("master.disabled", spec.Master.Disabled)
	name("master.replicas (one master is run)", spec.Master.Replicas > 1)
	name("client.disabled", spec.Client.Disabled)
	name("client.replicas", spec.Client.Replicas > 0)
	name("client.tieredStore", len(spec.Client.TieredStore.Levels) > 0)
	return out
}

// over lays later maps over earlier ones; nil when there is nothing.
func over(layers ...map[string]string) map[string]string {
	var out map[string]string
	for _, layer := range layers {
		if out == nil && len(layer) > 0 {
			out = map[string]string{}
		}
		maps.Copy(out, layer)
	}
	return out
}
