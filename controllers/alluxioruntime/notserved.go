package alluxioruntime

import (
	"reflect"
	"strings"

	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// served are the fields of the spec that do something, and those that ask for
// what is done anyway. Every other one that is set is told of, also one that
// was added to the type and forgotten here.
var served = set(
	"replicas", "data.replicas", "hadoopConfig", "volumes", "podMetadata", "imagePullSecrets",
	"master.enabled", "worker.enabled", "master.replicas", // see notServed
	"master.resources", "master.env", "master.nodeSelector", "master.tolerations", "master.volumeMounts", "master.podMetadata", "master.imagePullSecrets",
	"worker.resources", "worker.env", "worker.nodeSelector", "worker.tolerations", "worker.volumeMounts", "worker.podMetadata", "worker.imagePullSecrets",
	"fuse.resources", "fuse.env", "fuse.nodeSelector", "fuse.volumeMounts", "fuse.podMetadata", "fuse.imagePullSecrets", "fuse.cleanPolicy",
	"tieredstore.levels.mediumtype", "tieredstore.levels.volumeType", "tieredstore.levels.path", "tieredstore.levels.quota",
	"tieredstore.levels.quotaList", "tieredstore.levels.high", "tieredstore.levels.low",
	"properties",
)

// whole are named as one, whatever is set below them.
var whole = set("alluxioVersion", "jobMaster", "jobWorker", "apiGateway", "initUsers", "management", "runAs")

func set(names ...string) map[string]bool {
	out := map[string]bool{}
	for _, name := range names {
		out[name] = true
	}
	return out
}

// notServed names the fields of Alluxio that are set and that the native engine
// has no use for.
func notServed(spec *datav1alpha1.AlluxioRuntimeSpec) []string {
	out := append(unservedFields(spec, served, whole), limits(spec)...)
	_, _, rest := translate(spec.Properties)
	for _, name := range rest {
		out = append(out, "spec.properties["+name+"]")
	}
	return out
}

// unservedFields are those that are set and not served, each once.
func unservedFields(spec *datav1alpha1.AlluxioRuntimeSpec, served, whole map[string]bool) []string {
	seen := map[string]bool{}
	var out []string
	unserved(reflect.ValueOf(*spec), "", served, whole, func(path string) {
		if !seen[path] {
			seen[path] = true
			out = append(out, "spec."+path)
		}
	})
	return out
}

// limits names values of fields that are served with others.
func limits(spec *datav1alpha1.AlluxioRuntimeSpec) (out []string) {
	if spec.Master.Replicas > 1 {
		out = append(out, "spec.master.replicas (one master is run)")
	}
	for _, level := range spec.TieredStore.Levels {
		switch level.VolumeType {
		case datav1alpha1.VolumeTypeDefault, datav1alpha1.VolumeTypeHostPath, datav1alpha1.VolumeTypeEmptyDir:
		default:
			out = append(out, "spec.tieredstore.levels.volumeType "+string(level.VolumeType))
		}
	}
	return out
}

// unserved tells of every field below v that is set and does nothing.
func unserved(v reflect.Value, path string, served, whole map[string]bool, tell func(path string)) {
	if v.Kind() == reflect.Slice && isOurs(v.Type().Elem()) {
		for i := range v.Len() {
			unserved(v.Index(i), path, served, whole, tell)
		}
		return
	}
	if isEmpty(v) || served[path] {
		return
	}
	if !isOurs(v.Type()) || whole[path] {
		tell(path)
		return
	}
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		below := path
		if name != "" {
			below = strings.TrimPrefix(path+"."+name, ".")
		}
		unserved(v.Field(i), below, served, whole, tell)
	}
}

// isOurs tells whether a type is a struct of the API, whose fields are looked at.
func isOurs(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t.PkgPath() == reflect.TypeFor[datav1alpha1.AlluxioRuntimeSpec]().PkgPath()
}

func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Map, reflect.Slice:
		return v.Len() == 0
	default:
		return v.IsZero()
	}
}
