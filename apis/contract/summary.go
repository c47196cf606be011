package contract

import "time"

// StatusAge is how old the numbers of a status may be while something moves:
// one half is for workers to tell their master, and one for masters to tell the
// manager, which writes what it hears at once.
const StatusAge = 5 * time.Second

// The HTTP interface of a native master, on MasterHTTPPort.
const (
	// PathSummary answers GET with one Summary as JSON; with ?watch=true with a
	// stream of them, one a line, on every change and at most once a second,
	// and the last one again every 15 s so that a dead peer is noticed.
	PathSummary = "/v1/summary"
	// PathRetire answers POST: the runtime is being deleted, so every worker
	// drops its cached files and stops caching. Summary.Retired tells when all
	// connected workers have done so. Idempotent.
	PathRetire = "/v1/retire"
	// PathRevalidate answers POST, with ?path=/train for a part: the sources are
	// looked at again, now, and the answer comes when that is done, with the name
	// of the snapshot then: {"snapshot":"…"}.
	PathRevalidate = "/v1/revalidate"
	// PathPin, PathUnpin and PathFree answer POST, with ?path=/train and more
	// paths, at least one: files, directories, or patterns such as /train/*.tar.
	// They do so to what the workers have of these now, and answer with a
	// KeepSummary when that is done. What is pinned is not evicted, also after a
	// restart of its worker; what comes into the cache later is not pinned. Free
	// drops all but what is pinned. They may be asked again.
	PathPin   = "/v1/pin"
	PathUnpin = "/v1/unpin"
	PathFree  = "/v1/free"
	// PathCancelLoad answers POST, with ?id=…&reason=…: the load ends, for good,
	// and the answer comes when it has: {"cancelled":true} if it was running. What
	// it has cached stays. It may be asked again.
	PathCancelLoad = "/v1/loads/cancel"
	// PathHealthy answers GET with 200 when the process serves.
	PathHealthy = "/healthz"
	// PathMetrics serves Prometheus metrics.
	PathMetrics = "/metrics"
)

// KeepSummary is what was pinned, unpinned or freed.
type KeepSummary struct {
	// Files are those that the paths name, Bytes what they have at the source.
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
	// CachedFiles had something in the cache with which it was done, CachedBytes
	// on the disks of all workers.
	CachedFiles int64 `json:"cachedFiles"`
	CachedBytes int64 `json:"cachedBytes"`
	// PinnedFiles were not freed because they are pinned.
	PinnedFiles int64 `json:"pinnedFiles,omitempty"`
}

// RevalidateReply is the answer of PathRevalidate.
type RevalidateReply struct {
	Snapshot string `json:"snapshot"`
}

// Summary is what the native engine tells the controllers of itself. Sizes are
// bytes.
type Summary struct {
	// Revision grows with every change of one master process.
	Revision int64 `json:"revision"`
	// Snapshot names the state of the sources that is served.
	Snapshot string `json:"snapshot,omitempty"`
	// LookedAt is when the sources were last looked at from end to end: of the mount
	// for which that is longest ago, when that look began. It moves with every look
	// and is no news by itself; zero before every mount was walked by this process.
	LookedAt time.Time `json:"lookedAt,omitzero"`
	// MountTable is RuntimeConfig.MountTable of the mounts that are served.
	MountTable string `json:"mountTable,omitempty"`
	// Live is RuntimeConfig.LiveTable of what the master has taken in.
	Live string `json:"live,omitempty"`
	// MetadataComplete: every mount was walked, so UFSTotalBytes and FileNum are whole.
	MetadataComplete bool  `json:"metadataComplete"`
	UFSTotalBytes    int64 `json:"ufsTotalBytes"`
	FileNum          int64 `json:"fileNum"`
	// CachedBytes counts every byte of the current snapshot once that at least
	// one worker holds; it equals UFSTotalBytes when everything is cached.
	CachedBytes   int64           `json:"cachedBytes"`
	CapacityBytes int64           `json:"capacityBytes"`
	Mounts        []MountSummary  `json:"mounts,omitempty"`
	Workers       []WorkerSummary `json:"workers,omitempty"`
	Reads         ReadSummary     `json:"reads"`
	Loads         []LoadSummary   `json:"loads,omitempty"`
	Retired       bool            `json:"retired,omitempty"`
	// Engine is set by an engine that is not ours.
	Engine *EngineSummary `json:"engine,omitempty"`
	// Drain is how far workers that are to go were relieved of what they have;
	// nil while none is to go.
	Drain *DrainSummary `json:"drain,omitempty"`
}

// DrainSummary tells of workers that are to go. They own nothing any more, and
// what they have is copied to those that own it now, within their room.
type DrainSummary struct {
	// Workers are those that are to go, as the master was told, sorted.
	Workers []string `json:"workers"`
	// Absent are those of them that are not connected, so that nothing can be
	// had from them.
	Absent []string `json:"absent,omitempty"`
	// Done: nothing is left that could be moved from those that are connected.
	Done bool `json:"done,omitempty"`
	// MovedBytes were copied since the first of them was to go, or since the
	// master started; LeftBytes are still to be.
	MovedBytes int64 `json:"movedBytes"`
	LeftBytes  int64 `json:"leftBytes"`
	// StuckBytes are nowhere else and go with the workers: their new owners have
	// no room for them, or could not get them. Message says why.
	StuckBytes     int64  `json:"stuckBytes,omitempty"`
	BytesPerSecond int64  `json:"bytesPerSecond,omitempty"`
	Message        string `json:"message,omitempty"`
}

// Reasons why a mount is not served.
const (
	MountReady        = "Ready"
	MountNotFound     = "SourceNotFound"
	MountDenied       = "SourceDenied"
	MountUnavailable  = "SourceUnavailable"
	MountInvalid      = "SourceInvalid"
	MountNotSupported = "NotSupported"
)

// MountSummary is the state of one source. Message names the URI and the next
// step, never credentials.
type MountSummary struct {
	Path    string `json:"path"`
	Ready   bool   `json:"ready"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	Files   int64  `json:"files"`
	Bytes   int64  `json:"bytes"`
}

// WorkerSummary is one connected worker.
type WorkerSummary struct {
	Name          string `json:"name"`
	Node          string `json:"node"`
	CapacityBytes int64  `json:"capacityBytes"`
	UsedBytes     int64  `json:"usedBytes"`
	// CachedBytes counts the bytes of the current snapshot on this worker.
	CachedBytes int64 `json:"cachedBytes"`
	// Complete: the worker holds every byte of the snapshot.
	Complete bool `json:"complete"`
	// Message names what keeps the worker from caching, such as a full disk.
	Message string `json:"message,omitempty"`
	// Live is RuntimeConfig.LiveTable of what the worker has taken in.
	Live string `json:"live,omitempty"`
	// Leaving: it is to go.
	Leaving bool `json:"leaving,omitempty"`
}

// ReadSummary counts bytes that readers were given since the master started.
type ReadSummary struct {
	LocalBytes  int64 `json:"localBytes"`
	RemoteBytes int64 `json:"remoteBytes"`
	SourceBytes int64 `json:"sourceBytes"`
}

// Phases of a load job.
const (
	LoadRunning   = "Running"
	LoadComplete  = "Complete"
	LoadFailed    = "Failed"
	LoadCancelled = "Cancelled"
)

// LoadSummary is the progress of one load job. Finished jobs stay listed for
// ten minutes.
type LoadSummary struct {
	ID             string `json:"id"`
	Phase          string `json:"phase"`
	Message        string `json:"message,omitempty"`
	BytesTotal     int64  `json:"bytesTotal"`
	BytesDone      int64  `json:"bytesDone"`
	FilesTotal     int64  `json:"filesTotal"`
	FilesDone      int64  `json:"filesDone"`
	BytesPerSecond int64  `json:"bytesPerSecond"`
	// FilesFailed are not wholly cached although they had their turn. Failures
	// names the first of them, at most MaxLoadFailures.
	FilesFailed int64         `json:"filesFailed,omitempty"`
	Failures    []LoadFailure `json:"failures,omitempty"`
}

// MaxLoadFailures bounds LoadSummary.Failures.
const MaxLoadFailures = 10

// LoadFailure is a file that a load did not bring into the cache, and why.
type LoadFailure struct {
	Path  string `json:"path"` // absolute within the dataset
	Error string `json:"error"`
}
