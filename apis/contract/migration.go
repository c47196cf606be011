package contract

// EnvMigration holds a Migration as JSON: what `cache migrate` does.
const EnvMigration = "MILLRACE_MIGRATION"

// MigrateContainer is the container of a migration's Job.
const MigrateContainer = "migrate"

// Migration is what a copying Job does. The values of encrypted options are in
// files, as those of runtime.json are.
type Migration struct {
	// ID names the copy in the Summary that its pod serves.
	ID string `json:"id"`
	// From and To are storage, and FromPath and ToPath lie below.
	From     MountConfig `json:"from"`
	FromPath string      `json:"fromPath,omitempty"`
	To       MountConfig `json:"to"`
	ToPath   string      `json:"toPath,omitempty"`
	// Streams is how many files are copied at once; 0 leaves it to the program.
	Streams int           `json:"streams,omitempty"`
	Egress  *EgressConfig `json:"egress,omitempty"`
}

// Migrated is what a copying pod says at its end, as JSON in its termination
// message: Files and Bytes are at the target, of which KeptFiles were there
// before; Links are symbolic links, which are not copied.
type Migrated struct {
	Files     int64 `json:"files"`
	Bytes     int64 `json:"bytes"`
	KeptFiles int64 `json:"keptFiles"`
	Links     int64 `json:"links"`
}
