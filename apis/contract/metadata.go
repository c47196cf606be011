package contract

const (
	// EnvStateDir is the directory where a master saves the metadata, so that it
	// answers at once when it is started again; nowhere if empty.
	EnvStateDir = "MILLRACE_STATE_DIR"
	// MasterStateDir is that directory in a master's pod: an emptyDir, or what the
	// runtime's master mounts there.
	MasterStateDir = "/var/lib/millrace"
)
