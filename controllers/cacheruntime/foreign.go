package cacheruntime

import (
	"cmp"
	"slices"
	"strings"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
)

// native tells whether a class is of Millrace's own engine.
func native(class *datav1alpha1.CacheRuntimeClass) bool {
	return class.FileSystemType == contract.FuseMountType || class.FileSystemType == contract.NativeClass
}

// describeForeign turns a runtime and the class of an engine that is not ours
// into the engine's words.
func describeForeign(rt *datav1alpha1.CacheRuntime, class *datav1alpha1.CacheRuntimeClass, options Options) *engine.Description {
	topology := class.Topology
	if topology == nil {
		topology = &datav1alpha1.RuntimeTopology{}
	}
	d := &engine.Description{Volumes: rt.Spec.Volumes, ImagePullSecrets: rt.Spec.ImagePullSecrets, CleanPolicy: rt.Spec.Client.CleanPolicy}
	d.Foreign = &engine.Foreign{FileSystem: class.FileSystemType, Helper: options.NativeImage, HelperPull: options.PullPolicy}
	for _, extra := range class.ExtraResources.ConfigMaps {
		d.Foreign.ConfigMaps = append(d.Foreign.ConfigMaps, engine.ExtraConfigMap{Name: extra.Name, Data: extra.Data})
	}
	options.NativeImage, options.PullPolicy = "", "" // an engine's image is its class's or its runtime's
	d.Master = foreignComponent(rt, topology.Master, &rt.Spec.Master.RuntimeComponentSpec, options, true)
	d.Worker = foreignComponent(rt, topology.Worker, &rt.Spec.Worker.RuntimeComponentSpec, options, true)
	d.Client = foreignComponent(rt, topology.Client, &rt.Spec.Client.RuntimeComponentSpec, options, false)
	if !d.Master.Absent {
		d.Master.Replicas = rt.Spec.Master.Replicas
	}
	if !d.Worker.Absent {
		d.Worker.Replicas = rt.Spec.Worker.Replicas
		d.Worker.Tiers = tiers(rt.Spec.Worker.TieredStore.Levels)
	}
	if !d.Client.Absent {
		d.Client.Tiers = tiers(rt.Spec.Client.TieredStore.Levels)
	}
	if master := topology.Master; master != nil && master.ExecutionEntries != nil {
		d.Foreign.Commands.MountUFS = command(master.ExecutionEntries.MountUFS)
		d.Foreign.Commands.ReportSummary = command(master.ExecutionEntries.ReportSummary)
	}
	for _, spec := range class.DataOperationSpecs {
		if spec.Name == "DataLoad" {
			d.Foreign.Commands.DataLoad = &contract.EngineOperation{Image: spec.Image, Command: spec.Command, Args: spec.Args}
		}
	}
	d.NotServed = append(foreignNotServed(class, topology), foreignSpecNotServed(rt, topology)...)
	return d
}

// foreignComponent is a component with what only engines that are not ours have.
func foreignComponent(
	rt *datav1alpha1.CacheRuntime, class *datav1alpha1.RuntimeComponentDefinition, spec *datav1alpha1.RuntimeComponentSpec, options Options, secrets bool,
) engine.Component {
	if class == nil || spec.Disabled {
		return engine.Component{Absent: true}
	}
	c := component(rt, class, spec, options)
	c.NoService = class.Service.Headless == nil
	switch needs := class.Dependencies; {
	case needs.SecretMount != nil && needs.SecretMount.Enabled != nil:
		secrets = *needs.SecretMount.Enabled
	case needs.SecretMount != nil, needs.EncryptOption != nil:
		secrets = true
	}
	c.NoSecrets = !secrets
	if extra := class.Dependencies.ExtraResources; extra != nil {
		for _, m := range extra.ConfigMaps {
			c.ExtraMounts = append(c.ExtraMounts, engine.ExtraMount{ConfigMap: m.Name, MountPath: m.MountPath})
		}
	}
	return c
}

func command(entry *datav1alpha1.ExecutionCommonEntry) *contract.EngineCommand {
	if entry == nil || len(entry.Command) == 0 {
		return nil
	}
	return &contract.EngineCommand{Command: entry.Command, TimeoutSeconds: entry.Timeout}
}

// foreignNotServed names the fields of a class that do nothing.
func foreignNotServed(class *datav1alpha1.CacheRuntimeClass, topology *datav1alpha1.RuntimeTopology) (out []string) {
	of := " of CacheRuntimeClass " + class.Name
	for _, role := range []struct {
		name, kind string
		definition *datav1alpha1.RuntimeComponentDefinition
	}{{"master", "StatefulSet", topology.Master}, {"worker", "StatefulSet", topology.Worker}, {"client", "DaemonSet", topology.Client}} {
		c := role.definition
		if c == nil {
			continue
		}
		if c.WorkloadType != nil && cmp.Or(c.WorkloadType.Kind, role.kind) != role.kind {
			out = append(out, "topology."+role.name+".workloadType "+c.WorkloadType.Kind+" (a "+role.kind+" is run)"+of)
		}
		if c.ExecutionEntries != nil && role.name != "master" {
			out = append(out, "topology."+role.name+".executionEntries (those of the master are run)"+of)
		}
	}
	var operations []string
	for _, spec := range class.DataOperationSpecs {
		if spec.Name != "DataLoad" {
			operations = append(operations, spec.Name)
		}
	}
	if len(operations) > 0 {
		out = append(out, "dataOperationSpecs "+strings.Join(operations, " and ")+of)
	}
	return out
}

// foreignSpecNotServed names the fields of a runtime that do nothing.
func foreignSpecNotServed(rt *datav1alpha1.CacheRuntime, topology *datav1alpha1.RuntimeTopology) (out []string) {
	spec := &rt.Spec
	for field, set := range map[string]bool{
		"spec.client.replicas":                              spec.Client.Replicas > 0,
		"spec.worker.tieredStore (the class has no worker)": topology.Worker == nil && len(spec.Worker.TieredStore.Levels) > 0,
	} {
		if set {
			out = append(out, field)
		}
	}
	slices.Sort(out)
	return out
}
