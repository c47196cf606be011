package contract

import (
	"fmt"
	"path"
	"strings"
)

// Environment of the containers of a runtime. The FLUID_ names are Fluid's
// contract with any cache engine.
const (
	EnvDatasetName      = "FLUID_DATASET_NAME"
	EnvDatasetNamespace = "FLUID_DATASET_NAMESPACE"
	EnvRuntimeConfig    = "FLUID_RUNTIME_CONFIG_PATH"
	EnvRuntimeMountPath = "FLUID_RUNTIME_MOUNT_PATH"
	EnvComponentType    = "FLUID_RUNTIME_COMPONENT_TYPE"
	EnvComponentService = "FLUID_RUNTIME_COMPONENT_SVC_NAME"

	EnvDataLoadMetadata = "FLUID_DATALOAD_METADATA"
	EnvDataLoadPath     = "FLUID_DATALOAD_DATA_PATH"
	EnvDataLoadReplicas = "FLUID_DATALOAD_PATH_REPLICAS"

	// EnvNodeName, EnvPodName and EnvPodIP are filled by the downward API.
	EnvNodeName = "MILLRACE_NODE_NAME"
	EnvPodName  = "MILLRACE_POD_NAME"
	EnvPodIP    = "MILLRACE_POD_IP"
	// EnvLoadID names a load job to the master: the DataLoad's UID, or of one that
	// runs more than once <UID>-<run>. A loader that is restarted joins the job
	// with the same id. A load whose id begins with a UID is cancelled when there
	// is no such DataLoad, so others take other ids.
	EnvLoadID = "MILLRACE_LOAD_ID"
	// EnvLoadOptions are spec.options of the DataLoad, as a JSON object; see
	// ParseLoadOptions.
	EnvLoadOptions = "MILLRACE_LOAD_OPTIONS"
	// EnvMasterAddress overrides where the master's gRPC is (host:port).
	EnvMasterAddress = "MILLRACE_MASTER_ADDRESS"
	// EnvPprof is where a process serves its profiles (host:port, best of
	// loopback); not set, it serves none.
	EnvPprof = "MILLRACE_PPROF"
)

// ComponentType is the value of EnvComponentType.
type ComponentType string

// The components of a runtime.
const (
	ComponentMaster ComponentType = "master"
	ComponentWorker ComponentType = "worker"
	ComponentClient ComponentType = "client"
)

// Paths inside the containers of a runtime.
const (
	RuntimeConfigDir  = "/etc/fluid/config"
	RuntimeConfigPath = RuntimeConfigDir + "/" + RuntimeConfigKey
	SecretsDir        = "/etc/fluid/secrets"
	hadoopConfigDir   = "/etc/fluid/hadoop"
	TieredStoreDir    = "/etc/fluid/mount/tiered-store"
	ProcessMemoryDir  = "/dev/shm"

	// RunDir holds WorkerSocket. It is short because a Unix socket's path may
	// have 107 bytes.
	RunDir       = "/run/millrace"
	WorkerSocket = RunDir + "/worker.sock"

	underStorageDir = "/underFSStorage"
)

// Ports of the native engine inside its pods.
const (
	MasterRPCPort  = 7510
	MasterHTTPPort = 7511
	WorkerDataPort = 7520
	WorkerHTTPPort = 7521
	ClientHTTPPort = 7531
)

// How `cache load` ends. 0 says that everything asked for is cached. Whatever
// ends it badly is told, in one line for people, in TerminationMessagePath.
const (
	// LoadExitRetry: another try may succeed.
	LoadExitRetry = 1
	// LoadExitHopeless: the same request would fail again (no such path, no room).
	LoadExitHopeless = 2

	// TerminationMessagePath is Kubernetes' default.
	TerminationMessagePath = "/dev/termination-log"
)

// LoaderContainer is the container of a loader's Job.
const LoaderContainer = "dataloader"

// SecretPath is where a key of a Secret is found inside a container.
func SecretPath(secret, key string) string { return path.Join(SecretsDir, secret, key) }

// HadoopConfigPath is where the ConfigMap that OptionHadoopConfig names is found
// inside a container.
func HadoopConfigPath(configMap string) string { return path.Join(hadoopConfigDir, configMap) }

// HostPathTierDir is where directory j of hostPath level i is mounted.
func HostPathTierDir(level, index int) string {
	return fmt.Sprintf("%s/level-%d-index-%d-hostpath", TieredStoreDir, level, index)
}

// EmptyDirTierDir is where the emptyDir of level i is mounted.
func EmptyDirTierDir(level int) string {
	return fmt.Sprintf("%s/level-%d-index-0-emptydir", TieredStoreDir, level)
}

// Schemes of sources that are mounted into the cache's pods as directories.
const (
	SchemePVC   = "pvc://"
	SchemeLocal = "local://"
)

// SchemeDataset is that of a Dataset that refers to another.
const SchemeDataset = "dataset://"

// Reference names a Dataset, and a directory below its root.
type Reference struct {
	Namespace, Name string
	// Sub is relative and clean; "" is the whole Dataset.
	Sub string
}

// ParseReference splits dataset://<namespace>/<name>[/sub]. Sub never leads out of
// the Dataset.
func ParseReference(mountPoint string) (r Reference, ok bool) {
	rest, ok := strings.CutPrefix(mountPoint, SchemeDataset)
	if !ok {
		return Reference{}, false
	}
	r.Namespace, rest, _ = strings.Cut(rest, "/")
	r.Name, rest, _ = strings.Cut(rest, "/")
	r.Sub = strings.TrimPrefix(path.Clean("/"+rest), "/")
	return r, true
}

// SchemesS3 are those of stores that speak the protocol of S3 at an endpoint of
// theirs.
var SchemesS3 = []string{"s3", "s3a", "s3n", "oss", "cos", "cosn", "obs", "gs", "minio", "tos"}

// SchemeHDFS is that of sources whose options may name a ConfigMap.
const SchemeHDFS = "hdfs://"

// PVCClaim splits pvc://<claim>[/sub] into its claim and sub directory.
func PVCClaim(mountPoint string) (claim, sub string, ok bool) {
	rest, ok := strings.CutPrefix(mountPoint, SchemePVC)
	if !ok {
		return "", "", false
	}
	claim, sub, _ = strings.Cut(rest, "/")
	return claim, strings.Trim(sub, "/"), claim != ""
}

// PVCDir is where the claim of a pvc:// source is mounted in the cache's pods.
func PVCDir(claim string) string { return underStorageDir + "/pvc/" + claim }

// LocalPath is the host path of a local:// source.
func LocalPath(mountPoint string) (hostPath string, ok bool) {
	rest, ok := strings.CutPrefix(mountPoint, SchemeLocal)
	if !ok {
		return "", false
	}
	return path.Clean("/" + rest), true
}

// LocalDir is where the host path of a local:// source is mounted in the cache's pods.
func LocalDir(hostPath string) string { return underStorageDir + "/local" + path.Clean("/"+hostPath) }

// SourceDir is the directory inside the cache's pods that a pvc:// or local://
// mount point stands for.
func SourceDir(mountPoint string) (dir string, ok bool) {
	if claim, sub, ok := PVCClaim(mountPoint); ok {
		return path.Join(PVCDir(claim), path.Clean("/"+sub)), true
	}
	if host, ok := LocalPath(mountPoint); ok {
		return LocalDir(host), true
	}
	return "", false
}

// MountPath is where a mount's data appears below the root of the Dataset:
// path if it is absolute, else /<name>.
func MountPath(mountPathField, name string) string {
	if strings.HasPrefix(mountPathField, "/") {
		return path.Clean(mountPathField)
	}
	return path.Clean("/" + name)
}
