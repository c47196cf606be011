package contract

import "strings"

// Groups, versions and well-known objects.
const (
	SystemNamespace  = "fluid-system"
	CSIDriver        = "fuse.csi.fluid.io"
	StorageClass     = "fluid"
	WebhookConfig    = "fluid-pod-admission-webhook"
	WebhookPath      = "/mutate-fluid-io-v1alpha1-schedulepod"
	WebhookPort      = 9443
	CategoryFluid    = "fluid"
	RuntimeConfigKey = "runtime.json"
)

// Labels.
const (
	LabelDatasetID       = "fluid.io/dataset-id"
	LabelDataset         = "fluid.io/dataset"
	LabelDatasetPlace    = "fluid.io/dataset-placement"
	LabelDatasetNum      = "fluid.io/dataset-num"
	LabelExclusive       = "fluid_exclusive"
	LabelCacheRuntime    = "cacheruntime.fluid.io/name"
	LabelComponent       = "cacheruntime.fluid.io/component-name"
	LabelJobPolicy       = "fluid.io/jobPolicy"
	LabelServerlessFuse  = "serverless.fluid.io/inject"
	LabelServerfulFuse   = "fuse.serverful.fluid.io/inject"
	LabelEnableInjection = "fluid.io/enable-injection"
	LabelInjectDone      = "done.sidecar.fluid.io/inject"

	// LabelReferringName and its sibling are on the claim of a Dataset that refers
	// to another, and name that one.
	LabelReferringName      = "fluid.io/dataset.referring-name"
	LabelReferringNamespace = "fluid.io/dataset.referring-namespace"

	LabelUnprivilegedSidecar = "unprivileged.sidecar.fluid.io/inject"
	LabelCacheDirSidecar     = "cachedir.sidecar.fluid.io/inject"
	LabelAppPostStart        = "app.poststart.fluid.io/inject"
	LabelFusePostStart       = "fuse.sidecar.poststart.fluid.io/inject"

	// LabelSidecarDatasetName and its sibling are prefixes: the container's name follows.
	LabelSidecarDatasetName      = "dataset-name.sidecar.fluid.io/"
	LabelSidecarDatasetNamespace = "dataset-namespace.sidecar.fluid.io/"
)

// DatasetSchedLabel is the pod label that, with the value "required", admits
// only nodes which hold the Dataset.
func DatasetSchedLabel(dataset string) string {
	return prefixSched + dataset + suffixSched
}

// SchedRequired is the value of DatasetSchedLabel that makes it a must.
const SchedRequired = "required"

const (
	prefixSched = "fluid.io/dataset."
	suffixSched = ".sched"
)

// SchedLabelDataset is the Dataset that a DatasetSchedLabel names.
func SchedLabelDataset(key string) (dataset string, ok bool) {
	rest, ok := strings.CutPrefix(key, prefixSched)
	if !ok {
		return "", false
	}
	dataset, ok = strings.CutSuffix(rest, suffixSched)
	return dataset, ok && dataset != ""
}

// Annotations.
const (
	AnnotationCreatedBy      = "CreatedBy"
	AnnotationCreatedByValue = "fluid"
	AnnotationStorageRequest = "pvc.fluid.io/resources.requests.storage"
	AnnotationDatasetsInUse  = "fluid.io/datasets-in-use"
	AnnotationPlatform       = "serverless.fluid.io/platform"
	AnnotationSkipPrecheck   = "sidecar.fluid.io/skip-precheck"
	AnnotationPrefetch       = "file-prefetcher.fluid.io/inject"
	// AnnotationRefresh on a Dataset asks for a look at its sources, once for each
	// value that it is given; the Dataset's status.source.refresh answers.
	AnnotationRefresh = "cache.millrace.io/refresh"
	// AnnotationSharedWith on a Dataset lists the namespaces, with commas between,
	// whose Datasets may refer to it; "*" is all, and so is none such annotation.
	AnnotationSharedWith = "cache.millrace.io/shared-with"
	// AnnotationNotServed says what a pod asked of the webhook and did not get.
	AnnotationNotServed = "cache.millrace.io/not-served"
)

// DefaultStorageRequest is the size of a Dataset's PV and PVC when nothing else is asked for.
const DefaultStorageRequest = "100Pi"

// SidecarName is the prefix of the injected container; its index follows.
const SidecarName = "fluid-fuse-"

// Attributes of the CSI volume of a Dataset.
const (
	AttrFluidPath         = "fluid_path"
	AttrMountType         = "mount_type"
	AttrRuntimeNamespace  = "runtime_namespace"
	AttrRuntimeName       = "runtime_name"
	AttrFuseNodeLabel     = "mount_pod_node_selector_key"
	AttrSubPath           = "fluid_sub_path"
	AttrNodePublishMethod = "node_publish_method"
	PublishMethodSymlink  = "symlink"
)

// FuseMountType is the value of AttrMountType of our FUSE file systems.
const FuseMountType = "fuse.millrace"

// Finalizers.
const (
	FinalizerDataset     = "fluid-dataset-controller-finalizer"
	FinalizerDataLoad    = "fluid-dataload-controller-finalizer"
	FinalizerDataMigrate = "fluid-datamigrate-controller-finalizer"
	FinalizerDataProcess = "fluid-dataprocess-controller-finalizer"
)

// RuntimeFinalizer is the finalizer of a runtime kind.
func RuntimeFinalizer(t RuntimeType) string { return string(t) + "-runtime-controller-finalizer" }

// IsFluidFinalizer tells the finalizers that controllers of Fluid set: those of
// its runtimes, and fluid-<kind>-controller-finalizer of everything else.
func IsFluidFinalizer(name string) bool {
	const end = "-controller-finalizer"
	return strings.HasSuffix(name, "-runtime"+end) || strings.HasPrefix(name, "fluid-") && strings.HasSuffix(name, end)
}

// Event reasons that Fluid's users know.
const (
	EventErrorCreateDataset         = "ErrorCreateDataset"
	EventErrorProcessDataset        = "ErrorProcessDataset"
	EventErrorDeleteDataset         = "ErrorDeleteDataset"
	EventErrorProcessRuntime        = "ErrorProcessRuntime"
	EventRuntimeScaleInFailed       = "RuntimeScaleInFailed"
	EventSucceed                    = "Succeed"
	EventRuntimeMountUfsFailed      = "RuntimeMountUfsFailed"
	EventTargetDatasetNotFound      = "TargetDatasetNotFound"
	EventTargetDatasetNotReady      = "TargetDatasetNotReady"
	EventTargetDatasetNamespaceDiff = "TargetDatasetNamespaceNotSame"
	EventDataOperationNotSupport    = "DataOperationNotSupport"
	EventDataOperationFailed        = "DataOperationFailed"
	EventDataOperationSucceed       = "DataOperationSucceed"
	EventDataOperationNotValid      = "DataOperationNotValid"
	EventDataOperationWaiting       = "DataOperationWaiting"
	EventDataOperationCollision     = "DataOperationCollision"
	EventDataOperationNotFound      = "DataOperationNotFound"
	EventRuntimeNotReady            = "RuntimeNotReady"
	EventDataLoadJobStarted         = "DataLoadJobStarted"
	EventDataLoadJobFailed          = "DataLoadJobFailed"
	EventDataLoadJobComplete        = "DataLoadJobComplete"
	EventDataProcessJobStarted      = "DataProcessJobStarted"
	EventDataProcessJobFailed       = "DataProcessJobFailed"
	EventDataProcessJobComplete     = "DataProcessJobComplete"
	EventDataMigrateJobStarted      = "DataMigrateJobStarted"
	EventDataMigrateJobFailed       = "DataMigrateJobFailed"
	EventDataMigrateJobComplete     = "DataMigrateJobComplete"
	EventProcessorNotSpecified      = "ProcessorNotSpecified"
	EventMultipleProcessorSpecified = "MultipleProcessorSpecified"
	EventConflictMountPath          = "ConflictMountPath"
	EventDatasetReady               = "DatasetReady"
)
