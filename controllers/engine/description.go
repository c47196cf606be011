package engine

import (
	"k8s.io/apimachinery/pkg/types"

	corev1 "k8s.io/api/core/v1"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// Description is a runtime in the engine's own words: what every kind of
// runtime is turned into, together with its Dataset.
type Description struct {
	Type      contract.RuntimeType
	Namespace string
	Name      string
	// APIVersion, Kind and UID are of the runtime object, which owns all that is made.
	APIVersion string
	Kind       string
	UID        types.UID
	DatasetUID types.UID
	// DatasetGeneration is the generation of the Dataset's spec that is served.
	DatasetGeneration int64
	MountRoot         string
	// Egress is that of Options.
	Egress []string

	Sources Sources
	// SourceOptions lie under the options of every mount.
	SourceOptions map[string]string
	// HadoopConfig is the ConfigMap of hdfs:// mounts that name none.
	HadoopConfig string

	// Exclusive keeps workers off nodes where other Datasets have theirs.
	Exclusive bool
	// WorkerNodes is where workers may run; nil is everywhere.
	WorkerNodes *corev1.NodeSelector
	// WorkerTolerations are the Dataset's own.
	WorkerTolerations []corev1.Toleration

	// Volumes may be named by the components' VolumeMounts.
	Volumes          []corev1.Volume
	ImagePullSecrets []corev1.LocalObjectReference

	Master, Worker, Client Component
	// CleanPolicy says when FUSE pods go before the runtime does.
	CleanPolicy datav1alpha1.FuseCleanPolicy
	// FirstNodeLabels is AnnotationNodeLabels as the workers' template has it; ""
	// where there is none yet. It stays, so that a quota that grows restarts
	// nothing: pods are given another one as they are.
	FirstNodeLabels string
	// Leaving are the pods of workers that are to go, and Kept is how many
	// workers there are until they may; 0 is as many as are wanted.
	Leaving []string
	Kept    int32

	// Foreign is set for an engine that is not ours.
	Foreign *Foreign

	// NotServed names fields beside the runtime that do nothing.
	NotServed []string
}

// Sources is where the bytes come from and what is needed to read them.
type Sources struct {
	Mounts      []contract.MountConfig
	AccessModes []string
	// Secrets maps the name of each Secret to the keys that are used of it.
	Secrets map[string][]string
	// Claims are the PersistentVolumeClaims of pvc:// mounts, sorted.
	Claims []string
	// HostPaths are the directories of local:// mounts, sorted.
	HostPaths []string
	// HadoopConfigs are the ConfigMaps that hdfs:// mounts name, sorted.
	HadoopConfigs []string
}

// Component describes the masters, the workers or the clients.
type Component struct {
	Replicas     int32
	Options      map[string]string
	Image        string
	PullPolicy   corev1.PullPolicy
	Labels       map[string]string
	Annotations  map[string]string
	Env          []corev1.EnvVar
	Args         []string
	Resources    corev1.ResourceRequirements
	VolumeMounts []corev1.VolumeMount
	NodeSelector map[string]string
	Tolerations  []corev1.Toleration
	// Template is what the rest lies over.
	Template corev1.PodTemplateSpec
	// Tiers of the cache from fast to slow; workers, and clients that are not ours.
	Tiers []Tier

	// Of an engine that is not ours: Absent components are not run, NoService ones
	// have no name of their own, NoSecrets ones do not see those of the sources.
	Absent, NoService, NoSecrets bool
	ExtraMounts                  []ExtraMount
}

// Tier is one level of a cache.
type Tier struct {
	// Medium is contract.TierMEM, TierSSD or TierHDD.
	Medium    string
	High, Low string
	Dirs      []TierDir
}

// TierDir is one directory of a tier.
type TierDir struct {
	// HostPath is a directory of the node; "" stands for an emptyDir.
	HostPath string
	// Memory puts an emptyDir into memory; at /dev/shm when ProcessMemory.
	Memory        bool
	ProcessMemory bool
	QuotaBytes    int64
}

// inMemory tells whether the directory's bytes count against the pod's memory.
func (d TierDir) inMemory() bool { return d.HostPath == "" && (d.Memory || d.ProcessMemory) }

// MemoryBytes is what the tiers take of the pod's memory.
func (c *Component) MemoryBytes() int64 {
	var sum int64
	for _, tier := range c.Tiers {
		for _, dir := range tier.Dirs {
			if dir.inMemory() {
				sum += dir.QuotaBytes
			}
		}
	}
	return sum
}

// capacity sums the tiers up by what users see on nodes: memory and disk.
func (c *Component) capacity() (memory, disk int64) {
	for _, tier := range c.Tiers {
		for _, dir := range tier.Dirs {
			if tier.Medium == contract.TierMEM {
				memory += dir.QuotaBytes
			} else {
				disk += dir.QuotaBytes
			}
		}
	}
	return memory, disk
}

// Problem is why a runtime cannot be described or must wait, told as a condition.
type Problem struct {
	Reason  string
	Message string
}

func (p *Problem) Error() string { return p.Reason + ": " + p.Message }

// Reasons of conditions that several kinds share.
const (
	ReasonReady            = "Ready"
	ReasonDatasetNotFound  = "DatasetNotFound"
	ReasonConflict         = "RuntimeConflict"
	ReasonClassNotFound    = "ClassNotFound"
	ReasonInvalid          = "InvalidSpec"
	ReasonSecretNotFound   = "SecretNotFound"
	ReasonSecretKey        = "SecretKeyNotFound"
	ReasonClaimNotFound    = "PersistentVolumeClaimNotFound"
	ReasonConfigMap        = "ConfigMapNotFound"
	ReasonForeign          = "NameTaken"
	ReasonMasterNotReady   = "MasterNotReady"
	ReasonWorkersNotReady  = "WorkersNotReady"
	ReasonUpdating         = "Updating"
	ReasonTakeover         = "ReplacingFluid"
	ReasonInUse            = "InUse"
	ReasonDeleting         = "Deleting"
	ReasonRetiring         = "Retiring"
	ReasonOldPods          = "OldPods"
	ReasonDraining         = "Draining"
	ReasonDrained          = "Drained"
	ReasonDrainIncomplete  = "DrainIncomplete"
	ReasonDrainTimeout     = "DrainTimedOut"
	ReasonKept             = "Kept"
	ReasonWorkerLimited    = "WorkerLimited"
	ReasonFieldsNotServed  = "FieldsNotServed"
	ReasonEveryFieldServed = "EveryFieldServed"
)
