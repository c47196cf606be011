package alluxioruntime

import (
	"reflect"

	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// notServed names the fields of Alluxio that are set and that the native engine
// has no use for.
func notServed(spec *datav1alpha1.AlluxioRuntimeSpec) []string {
	var out []string
	name := func(field string, value any) {
		if v := reflect.ValueOf(value); v.IsValid() && !v.IsZero() && (v.Kind() != reflect.Map && v.Kind() != reflect.Slice || v.Len() > 0) {
			out = append(out, "spec."+field)
		}
	}
	name("alluxioVersion", spec.AlluxioVersion)
	name("jobMaster", spec.JobMaster)
	name("jobWorker", spec.JobWorker)
	name("apiGateway", spec.APIGateway)
	name("initUsers", spec.InitUsers)
	for key := range spec.Properties {
		out = append(out, "spec.properties["+key+"]")
	}
	name("jvmOptions", spec.JvmOptions)
	name("data.pin", spec.Data.Pin)
	name("runAs", spec.RunAs)
	name("disablePrometheus", spec.DisablePrometheus)
	name("management", spec.RuntimeManagement)
	name("master.replicas (one master is run)", spec.Master.Replicas > 1)
	for role, c := range map[string]*datav1alpha1.AlluxioCompTemplateSpec{"master": &spec.Master, "worker": &spec.Worker} {
		name(role+".jvmOptions", c.JvmOptions)
		name(role+".properties", c.Properties)
		name(role+".ports", c.Ports)
		name(role+".networkMode", c.NetworkMode)
	}
	name("fuse.image", spec.Fuse.Image)
	name("fuse.imageTag", spec.Fuse.ImageTag)
	name("fuse.jvmOptions", spec.Fuse.JvmOptions)
	name("fuse.properties", spec.Fuse.Properties)
	name("fuse.args", spec.Fuse.Args)
	name("fuse.networkMode", spec.Fuse.NetworkMode)
	name("fuse.cleanPolicy OnDemand", spec.Fuse.CleanPolicy == datav1alpha1.OnDemandCleanPolicy)
	return out
}
