package engine

import (
	"maps"

	"github.com/millrace/millrace/apis/contract"
)

// Annotations and labels of our own on what the builders make.
const (
	// AnnotationConfigHash on pods restarts them when runtime.json changes in
	// more than its mounts.
	AnnotationConfigHash = "cache.millrace.io/config-hash"
	// AnnotationDatasetGeneration on the master's StatefulSet tells which
	// generation of the Dataset it serves.
	AnnotationDatasetGeneration = "cache.millrace.io/dataset-generation"
	// AnnotationMountTable on the master's StatefulSet names the mounts that the
	// engine is to serve, as its Summary names those that it serves.
	AnnotationMountTable = "cache.millrace.io/mount-table"
	// AnnotationMute on the ConfigMap of an engine that is not ours says that
	// nobody tells how it is.
	AnnotationMute = "cache.millrace.io/mute"
	// AnnotationTold on pods says of which mounts, and when, their kubelet was
	// told; that it changes is what tells it.
	AnnotationTold = "cache.millrace.io/told"
	// AnnotationNodeLabels on worker pods holds, as JSON, the labels that their
	// node carries because of them.
	AnnotationNodeLabels = "cache.millrace.io/node-labels"
)

// objectName is the name of a component's StatefulSet or DaemonSet.
func (d *Description) objectName(c contract.ComponentType) string {
	switch c {
	case contract.ComponentMaster:
		return contract.MasterName(d.Name)
	case contract.ComponentWorker:
		return contract.WorkerName(d.Name)
	default:
		return contract.ClientName(d.Type, d.Name)
	}
}

// serviceName is the name of a component's headless Service; "" if it has none.
func (d *Description) serviceName(c contract.ComponentType) string {
	if !d.has(c) || d.component(c).NoService {
		return ""
	}
	return contract.ServiceName(d.objectName(c))
}

// selector is what a component's pods are known by.
func (d *Description) selector(c contract.ComponentType) map[string]string {
	return map[string]string{contract.LabelCacheRuntime: d.Name, contract.LabelComponent: d.objectName(c)}
}

// objectLabels are the labels of a component's objects and pods.
func (d *Description) objectLabels(c contract.ComponentType) map[string]string {
	labels := d.selector(c)
	labels[contract.LabelDatasetID] = contract.DatasetID(d.Namespace, d.Name, string(d.DatasetUID))
	if d.Type != contract.RuntimeCache {
		role := string(c)
		if c == contract.ComponentClient {
			role = "fuse"
		}
		maps.Copy(labels, map[string]string{
			"app": string(d.Type), "release": d.Name, "role": string(d.Type) + "-" + role,
		})
	}
	return labels
}

func (d *Description) component(c contract.ComponentType) *Component {
	switch c {
	case contract.ComponentMaster:
		return &d.Master
	case contract.ComponentWorker:
		return &d.Worker
	default:
		return &d.Client
	}
}

// FuseMountPath is the host path where the runtime's FUSE is mounted.
func (d *Description) FuseMountPath() string {
	return contract.FuseMountPath(d.MountRoot, d.Type, d.Namespace, d.Name)
}

func (d *Description) datasetID() string {
	return contract.DatasetID(d.Namespace, d.Name, string(d.DatasetUID))
}
