package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Phase of a data operation, for people.
type Phase string

// Phases of a data operation.
const (
	PhaseNone      Phase = ""
	PhasePending   Phase = "Pending"
	PhaseExecuting Phase = "Executing"
	PhaseComplete  Phase = "Complete"
	PhaseFailed    Phase = "Failed"
)

// Condition types of a data operation.
const (
	OperationComplete     = "Complete"
	OperationFailed       = "Failed"
	OperationReady        = "Ready"
	OperationNotSupported = "NotSupported"
)

// Policy says when an operation runs.
// +kubebuilder:validation:Enum=Once;Cron;OnEvent;""
type Policy string

// Policies.
const (
	Once    Policy = "Once"
	Cron    Policy = "Cron"
	OnEvent Policy = "OnEvent"
)

// AffinityStrategy says where an operation runs in relation to the one before it.
// +kubebuilder:validation:Enum="";Require;Prefer
type AffinityStrategy string

// PreferTerm is a preferred key with its weight.
type PreferTerm struct {
	// name of the key.
	// +kubebuilder:validation:MaxLength=317
	Name string `json:"name"`
	// weight of the key.
	Weight int32 `json:"weight"`
}

// RequireTerm is a required key.
type RequireTerm struct {
	// name of the key.
	// +kubebuilder:validation:MaxLength=317
	Name string `json:"name"`
}

// AffinityPolicy relates an operation's place to another's.
type AffinityPolicy struct {
	// dependOn is the operation whose place matters, if it is not the one to run after.
	// +optional
	DependOn *ObjectRef `json:"dependOn,omitempty"`
	// policy Require binds the pod to where the other operation ran, Prefer
	// prefers that place; with none its place does not matter.
	// +optional
	Policy AffinityStrategy `json:"policy,omitempty"`
	// prefers are the node labels to share with that place by preference;
	// kubernetes.io/hostname with weight 100 if there are none.
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +optional
	Prefers []PreferTerm `json:"prefers,omitempty"`
	// requires are the node labels to share with that place;
	// kubernetes.io/hostname if there are none.
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +optional
	Requires []RequireTerm `json:"requires,omitempty"`
}

// ObjectRef names an operation.
type ObjectRef struct {
	// apiVersion of the operation.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	APIVersion string `json:"apiVersion,omitempty"`
	// kind of the operation.
	// +kubebuilder:validation:Enum=DataLoad;DataBackup;DataMigrate;DataProcess
	Kind string `json:"kind"`
	// name of the operation.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// namespace of the operation.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Namespace string `json:"namespace,omitempty"`
}

// OperationRef names the operation to run after.
type OperationRef struct {
	ObjectRef `json:",inline"`
	// affinityStrategy relates the places of both.
	// +optional
	AffinityStrategy AffinityPolicy `json:"affinityStrategy,omitempty"`
}

// TargetDataset names a Dataset.
type TargetDataset struct {
	// name of the Dataset.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// namespace of the Dataset; the operation's own if empty.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Namespace string `json:"namespace,omitempty"`
}

// TargetPath is a path to load.
type TargetPath struct {
	// path within the Dataset: a file, a directory with all below it, or a pattern
	// such as /train/*.tar that matches at least one of these (* and ? match within
	// a name, [a-c] one character).
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Path string `json:"path"`
	// replicas: on how many workers the bytes are to lie; 0 or 1 means the
	// Dataset's own number.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	// +optional
	Replicas int32 `json:"replicas,omitempty"`
}

// DataLoadSpec is what to load.
// +kubebuilder:validation:XValidation:rule="!has(self.policy) || self.policy != 'Cron' || (has(self.schedule) && self.schedule.size() > 0)",message="schedule is needed with policy Cron: give five fields such as '0 * * * *'"
// +kubebuilder:validation:XValidation:rule="!has(self.policy) || self.policy != 'Cron' || !has(self.schedule) || self.schedule.size() == 0 || self.schedule.matches('^[[:space:]]*(@[a-z]+([[:space:]]+[^[:space:]]+)?|[^[:space:]]+([[:space:]]+[^[:space:]]+){4})[[:space:]]*$')",message="schedule is not one of cron: give five fields such as '0 * * * *', or a name such as @hourly"
type DataLoadSpec struct {
	// dataset to load.
	// +required
	Dataset TargetDataset `json:"dataset,omitempty"`
	// loadMetadata true looks at the source before: what is new or changed below
	// the targets is loaded as it is now. false takes the listing that is known,
	// which is as old as metadata.ttl of the runtime allows.
	// +optional
	LoadMetadata bool `json:"loadMetadata,omitempty"`
	// target paths; none means /. What several name is loaded once.
	// +kubebuilder:validation:MaxItems=1000
	// +listType=atomic
	// +optional
	Target []TargetPath `json:"target,omitempty"`
	// options of the load. The native engine knows: bandwidth (bytes per second
	// that are read from the source, over all workers, such as 100Mi), parallelism
	// (blocks under way at once, 1 to 4096), priority (-1000 to 1000, 0 if not
	// given; of the loads of one Dataset the higher go first), keep (pin: what is
	// loaded is pinned; unpin or free: that is done to the targets instead of
	// loading). Others are named in condition NotSupported; the command of another
	// engine gets all of them.
	// +kubebuilder:validation:MaxProperties=128
	// +kubebuilder:validation:XValidation:rule="!('bandwidth' in self) || self['bandwidth'].matches('^[1-9][0-9]{0,5}(M|G|T|Mi|Gi|Ti)$')",message="bandwidth is bytes per second with M, Mi, G, Gi, T or Ti: give a value such as 100Mi"
	// +kubebuilder:validation:XValidation:rule="!('parallelism' in self) || (self['parallelism'].matches('^[1-9][0-9]{0,3}$') && int(self['parallelism']) <= 4096)",message="parallelism is how many blocks are read at once: give a whole number from 1 to 4096"
	// +kubebuilder:validation:XValidation:rule="!('priority' in self) || (self['priority'].matches('^(0|-?[1-9][0-9]{0,3})$') && int(self['priority']) >= -1000 && int(self['priority']) <= 1000)",message="priority orders the loads of a Dataset: give a whole number from -1000 to 1000, higher goes first"
	// +kubebuilder:validation:XValidation:rule="!('keep' in self) || self['keep'] in ['pin', 'unpin', 'free']",message="keep is what becomes of the targets beside or instead of loading: give pin, unpin or free"
	// +optional
	Options map[string]string `json:"options,omitempty"`
	// podMetadata of the loader's pod.
	// +optional
	PodMetadata PodMetadata `json:"podMetadata,omitempty"`
	// affinity of the loader's pod.
	// +optional
	Affinity *corev1.Affinity `json:"affinity,omitempty"`
	// tolerations of the loader's pod.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`
	// nodeSelector of the loader's pod.
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	// schedulerName of the loader's pod.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	SchedulerName string `json:"schedulerName,omitempty"`
	// policy: Once (the default), Cron (at the times of schedule) or OnEvent (now,
	// and whenever the Dataset's sources have changed).
	// +kubebuilder:default=Once
	// +optional
	Policy Policy `json:"policy,omitempty"`
	// schedule of policy Cron in UTC: five fields such as '0 3 * * *', a name such
	// as @daily, or '@every 90m'.
	// +kubebuilder:validation:MaxLength=256
	// +optional
	Schedule string `json:"schedule,omitempty"`
	// runAfter another operation is complete.
	// +optional
	RunAfter *OperationRef `json:"runAfter,omitempty"`
	// ttlSecondsAfterFinished removes the finished operation; one of policy Cron
	// or OnEvent does not finish.
	// +kubebuilder:validation:Minimum=0
	// +optional
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`
	// resources of the loader's container.
	// +optional
	Resources corev1.ResourceRequirements `json:"resources,omitempty"`
}

// WaitingStatus names what an operation waits for.
type WaitingStatus struct {
	// operationComplete is true while the operation of spec.runAfter is waited
	// for, and false once it was complete.
	// +optional
	OperationComplete *bool `json:"operationComplete,omitempty"`
}

// OperationProgress is how far an operation is.
type OperationProgress struct {
	// percent of the bytes, such as 57.3%.
	// +optional
	Percent string `json:"percent,omitempty"`
	// bytesDone so far.
	BytesDone int64 `json:"bytesDone"`
	// bytesTotal asked for.
	BytesTotal int64 `json:"bytesTotal"`
	// filesDone so far.
	FilesDone int64 `json:"filesDone"`
	// filesTotal asked for.
	FilesTotal int64 `json:"filesTotal"`
	// filesFailed had their turn and are not wholly there.
	// +optional
	FilesFailed int64 `json:"filesFailed,omitempty"`
	// failures are the first of these files, with what is wrong.
	// +kubebuilder:validation:MaxItems=10
	// +listType=atomic
	// +optional
	Failures []FileFailure `json:"failures,omitempty"`
	// bytesPerSecond lately.
	BytesPerSecond int64 `json:"bytesPerSecond"`
	// eta is the time left at that rate, such as 1m20s.
	// +optional
	ETA string `json:"eta,omitempty"`
}

// FileFailure is a file that an operation could not work on.
type FileFailure struct {
	// path of the file within the Dataset.
	Path string `json:"path"`
	// error that kept it from being worked on.
	Error string `json:"error"`
}

// OperationRun is one run of an operation of policy Cron or OnEvent.
type OperationRun struct {
	// job that runs it, in the operation's namespace.
	Job string `json:"job"`
	// scheduledTime at which it was due, of policy Cron.
	// +optional
	ScheduledTime *metav1.Time `json:"scheduledTime,omitempty"`
	// snapshot of the Dataset's sources that it was started for, of policy OnEvent.
	// +optional
	Snapshot string `json:"snapshot,omitempty"`
	// startTime at which it was begun.
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`
	// completionTime at which it ended, well or badly.
	// +optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty"`
	// phase: Pending, Executing, Complete or Failed.
	// +optional
	Phase Phase `json:"phase,omitempty"`
	// message says how it ended.
	// +optional
	Message string `json:"message,omitempty"`
}

// OperationStatus is what was seen of a data operation.
type OperationStatus struct {
	// phase sums the conditions up.
	// +optional
	Phase Phase `json:"phase,omitempty"`
	// duration of the operation, as text.
	// +optional
	Duration string `json:"duration,omitempty"`
	// conditions of the operation.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// infos of the operation.
	// +optional
	Infos map[string]string `json:"infos,omitempty"`
	// lastScheduleTime of policy Cron: when the latest run was due.
	// +optional
	LastScheduleTime *metav1.Time `json:"lastScheduleTime,omitempty"`
	// lastSuccessfulTime of policy Cron or OnEvent: when a run last ended well.
	// +optional
	LastSuccessfulTime *metav1.Time `json:"lastSuccessfulTime,omitempty"`
	// nextScheduleTime of policy Cron: when the next run is due.
	// +optional
	NextScheduleTime *metav1.Time `json:"nextScheduleTime,omitempty"`
	// runs of policy Cron or OnEvent: the latest, newest first.
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +optional
	Runs []OperationRun `json:"runs,omitempty"`
	// waitingFor another operation.
	// +optional
	WaitingFor WaitingStatus `json:"waitingFor,omitempty"`
	// nodeAffinity of the finished operation's place, for those that run after it.
	// +optional
	NodeAffinity *corev1.NodeAffinity `json:"nodeAffinity,omitempty"`
	// progress while it runs and when it has ended.
	// +optional
	Progress *OperationProgress `json:"progress,omitempty"`
	// observedGeneration of the spec that this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
}

// DataLoad brings paths of a Dataset into its cache.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories=fluid,shortName=load
// +kubebuilder:printcolumn:name="Dataset",type="string",JSONPath=`.spec.dataset.name`
// +kubebuilder:printcolumn:name="Phase",type="string",JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Duration",type="string",JSONPath=`.status.duration`
// +kubebuilder:printcolumn:name="Progress",type="string",JSONPath=`.status.progress.percent`
// +kubebuilder:printcolumn:name="Failed Files",type="integer",JSONPath=`.status.progress.filesFailed`,priority=1
type DataLoad struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   DataLoadSpec    `json:"spec,omitempty"`
	Status OperationStatus `json:"status,omitempty"`
}

// DataLoadList is a list of DataLoads.
//
// +kubebuilder:object:root=true
type DataLoadList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []DataLoad `json:"items"`
}
