package contract

import "strings"

// RuntimeType is the short name of a kind of runtime as it appears in labels,
// host paths and finalizers.
type RuntimeType string

// The runtime types that Millrace serves.
const (
	RuntimeCache   RuntimeType = "cache"
	RuntimeAlluxio RuntimeType = "alluxio"
)

// NativeClass is the CacheRuntimeClass of Millrace's own engine.
const NativeClass = "millrace"

// maxLabelKey is where Fluid replaces <ns>-<name> by the Dataset's UID: a label
// name may have 63 characters, and Fluid counts its prefix in.
const maxLabelKey = 63

// FuseNodeLabelPrefix begins every FuseNodeLabel.
const FuseNodeLabelPrefix = "fluid.io/f-"

// Prefixes of labels that carry <ns>-<name> of a Dataset.
const (
	prefixStorage = "fluid.io/s-"
	prefixFuse    = FuseNodeLabelPrefix
)

func keyed(prefix, namespace, name, uid string) string {
	key := prefix + namespace + "-" + name
	if len(key) >= maxLabelKey && uid != "" {
		return prefix + uid
	}
	return key
}

// DatasetLabel is the key of the label on a Dataset's PV and PVC, and on nodes
// where a worker of the Dataset runs.
func DatasetLabel(namespace, name, uid string) string {
	return keyed(prefixStorage, namespace, name, uid)
}

// RuntimeNodeLabel is the key of the node label that says a worker of this
// runtime type runs there for the Dataset.
func RuntimeNodeLabel(t RuntimeType, namespace, name, uid string) string {
	return keyed(prefixStorage+string(t)+"-", namespace, name, uid)
}

// FuseNodeLabel is the key of the node label that asks for a FUSE pod of the
// Dataset; it selects the pods of the client DaemonSet.
func FuseNodeLabel(namespace, name, uid string) string {
	return keyed(prefixFuse, namespace, name, uid)
}

// Medium is the middle part of a capacity label.
type Medium string

// The media that Fluid names in capacity labels.
const (
	MediumMemory Medium = "m"
	MediumDisk   Medium = "d"
	MediumTotal  Medium = "t"
)

// CapacityNodeLabel is the key of the node label whose value is the tier
// capacity that a worker of the Dataset offers there, such as 2GiB.
func CapacityNodeLabel(t RuntimeType, m Medium, namespace, name, uid string) string {
	return keyed(prefixStorage+"h-"+string(t)+"-"+string(m)+"-", namespace, name, uid)
}

// DatasetID is the value of LabelDatasetID: <ns>-<name>, or the UID when that
// is too long for a label value.
func DatasetID(namespace, name, uid string) string {
	id := namespace + "-" + name
	if len(id) >= maxLabelKey && uid != "" {
		return uid
	}
	return id
}

// ExclusiveValue is the value of LabelExclusive on a node that one Dataset has
// for itself.
func ExclusiveValue(namespace, name string) string { return namespace + "_" + name }

// PVName is the name of a Dataset's PersistentVolume. It is ambiguous: when it
// belongs to another Dataset, use PVNameWithUID.
func PVName(namespace, name string) string { return namespace + "-" + name }

// PVNameWithUID is the PersistentVolume's name when PVName is taken.
func PVNameWithUID(namespace, name, uid string) string {
	short := uid
	if len(short) > 8 {
		short = short[:8]
	}
	return namespace + "-" + name + "-" + short
}

// DefaultMountRoot is the host directory below which FUSE mounts are made.
const DefaultMountRoot = "/runtime-mnt"

// RuntimeDir is the host directory that belongs to one runtime on a node.
func RuntimeDir(mountRoot string, t RuntimeType, namespace, name string) string {
	return strings.Join([]string{mountRoot, string(t), namespace, name}, "/")
}

// FuseMountPath is the host path where a Dataset's FUSE is mounted:
// <root>/<type>/<ns>/<name>/<type>-fuse.
func FuseMountPath(mountRoot string, t RuntimeType, namespace, name string) string {
	return RuntimeDir(mountRoot, t, namespace, name) + "/" + string(t) + "-fuse"
}

// HostRunDir is the host directory with the worker's Unix socket. Worker, FUSE
// and sidecar pods mount it at RunDir.
func HostRunDir(mountRoot string, t RuntimeType, namespace, name string) string {
	return RuntimeDir(mountRoot, t, namespace, name) + "/run"
}

// SidecarMountDir is the host directory that holds the FUSE mount of one pod's
// sidecar; suffix is unique to the pod.
func SidecarMountDir(mountRoot string, t RuntimeType, namespace, name, suffix string) string {
	return RuntimeDir(mountRoot, t, namespace, name) + "/pods/" + suffix
}

// TierHostDir is the directory below a hostPath tier that belongs to one
// runtime, so that runtimes which name the same path never share files.
func TierHostDir(path, namespace, name string) string {
	return strings.TrimRight(path, "/") + "/" + namespace + "/" + name
}

// Names of the objects that belong to a runtime.

// MasterName is the StatefulSet of the masters.
func MasterName(runtime string) string { return runtime + "-master" }

// WorkerName is the StatefulSet of the workers.
func WorkerName(runtime string) string { return runtime + "-worker" }

// ClientName is the DaemonSet of the FUSE pods: <n>-client for a CacheRuntime,
// <n>-fuse for the legacy kinds.
func ClientName(t RuntimeType, runtime string) string {
	if t == RuntimeCache {
		return runtime + "-client"
	}
	return runtime + "-fuse"
}

// ServiceName is the headless Service of a component: svc-<n>-<component>.
func ServiceName(componentObject string) string { return "svc-" + componentObject }

// ConfigMapName is the ConfigMap that holds runtime.json.
func ConfigMapName(runtime string) string { return "fluid-runtime-config-" + runtime }

// LoaderJobName is the Job of a DataLoad.
func LoaderJobName(dataload string) string { return dataload + "-loader-job" }

// MigrateJobName is the Job of a DataMigrate.
func MigrateJobName(datamigrate string) string { return datamigrate + "-migrate-migrate" }

// ProcessorJobName is the Job of a DataProcess.
func ProcessorJobName(dataprocess string) string { return dataprocess + "-processor-job" }
