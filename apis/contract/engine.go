package contract

import (
	"encoding/json"
	"fmt"
)

// Of an engine that is not ours, the pods carry helpers: the program of the
// native engine's image, copied into a directory of the pod. `cache prepare`
// copies it and makes the mount point ready, `cache fuse-ready` is a probe of the
// FUSE pods, `cache bridge` runs the class's commands beside the master and
// serves PathSummary on MasterHTTPPort, as a native master does.
const (
	HelperDir    = "/opt/millrace/bin"
	HelperBinary = HelperDir + "/cache"

	// PrepareContainer and BridgeContainer are the containers' names.
	PrepareContainer = "millrace-prepare"
	BridgeContainer  = "millrace-bridge"

	// EngineConfigKey is beside RuntimeConfigKey in the ConfigMap and holds an
	// EngineConfig.
	EngineConfigKey  = "engine.json"
	EngineConfigPath = RuntimeConfigDir + "/" + EngineConfigKey

	// AnnotationFileSystem on FUSE pods and on the ConfigMap of an engine that is
	// not ours is its class's fileSystemType. The FUSE is then mounted where
	// EnvRuntimeMountPath of the template says, also in a sidecar.
	AnnotationFileSystem = "cache.millrace.io/file-system"

	// AnnotationEngine on an AlluxioRuntime chooses its engine when it is made:
	// EngineAlluxio is the CacheRuntimeClass of a real Alluxio; without it, or with
	// NativeClass, Millrace's own engine serves the runtime.
	AnnotationEngine = "cache.millrace.io/engine"
	EngineAlluxio    = "alluxio"
)

// PathEngine begins the paths of a bridge: <PathEngine><start>/v1/summary, where
// start names one start of the engine that is ready. The first request that names
// another start than those before has the sources mounted.
const PathEngine = "/engine/"

// EngineConfig is what a class says of the commands of its engine.
type EngineConfig struct {
	MountUFS      *EngineCommand `json:"mountUFS,omitempty"`
	ReportSummary *EngineCommand `json:"reportSummary,omitempty"`
	// DataLoad is what a DataLoad runs; without it the engine loads nothing.
	DataLoad *EngineOperation `json:"dataLoad,omitempty"`
}

// EngineOperation is the container of a data operation.
type EngineOperation struct {
	// Image is empty for that of the master, or of the client where there is none.
	Image   string   `json:"image,omitempty"`
	Command []string `json:"command,omitempty"`
	Args    []string `json:"args,omitempty"`
}

// EngineCommand is a program and its arguments; no shell is put before them.
type EngineCommand struct {
	Command []string `json:"command"`
	// TimeoutSeconds is 0 for DefaultEngineTimeout.
	TimeoutSeconds int `json:"timeoutSeconds,omitempty"`
}

// DefaultEngineTimeout in seconds is for commands whose class names none.
const DefaultEngineTimeout = 60

// Encode writes c as engine.json.
func (c *EngineConfig) Encode() ([]byte, error) {
	out, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", EngineConfigKey, err)
	}
	return out, nil
}

// DecodeEngineConfig reads engine.json.
func DecodeEngineConfig(data []byte) (*EngineConfig, error) {
	c := &EngineConfig{}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("decode %s: %w", EngineConfigKey, err)
	}
	return c, nil
}

// EngineSummary is what an engine that is not ours says of itself beyond what a
// Summary holds, or less.
type EngineSummary struct {
	// Reported: the engine's numbers are known.
	Reported bool `json:"reported"`
	// CachedPercentage and CacheHitRatio are in the engine's words, such as
	// 57.3%; empty where it says none.
	CachedPercentage string `json:"cachedPercentage,omitempty"`
	CacheHitRatio    string `json:"cacheHitRatio,omitempty"`
	// NoTotal and NoFiles: the engine does not count the bytes, the files, of
	// the sources.
	NoTotal bool `json:"noTotal,omitempty"`
	NoFiles bool `json:"noFiles,omitempty"`
	// Message is why the numbers are not of now.
	Message string `json:"message,omitempty"`
}
