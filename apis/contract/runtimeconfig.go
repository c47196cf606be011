package contract

import (
	"encoding/json"
	"fmt"
)

// RuntimeConfig is runtime.json: what a cache engine needs to know of its
// Dataset and of itself. It is written compactly, without white space.
type RuntimeConfig struct {
	Mounts      []MountConfig   `json:"mounts"`
	AccessModes []string        `json:"accessModes,omitempty"`
	TargetPath  string          `json:"targetPath"`
	Master      ComponentConfig `json:"master"`
	Worker      ComponentConfig `json:"worker"`
	Client      ComponentConfig `json:"client"`
	// Egress is what the administrator allows; nil where that is nothing.
	Egress *EgressConfig `json:"egress,omitempty"`
}

// EgressConfig is what ParseEgress reads.
type EgressConfig struct {
	Allow []string `json:"allow,omitempty"`
}

// MountConfig is one source. EncryptOptions maps an option to the path of the
// file that holds its value; the value itself never appears.
type MountConfig struct {
	MountPoint     string            `json:"mountPoint"`
	Options        map[string]string `json:"options,omitempty"`
	EncryptOptions map[string]string `json:"encryptOptions,omitempty"`
	Name           string            `json:"name,omitempty"`
	Path           string            `json:"path,omitempty"`
	ReadOnly       bool              `json:"readOnly,omitempty"`
	Shared         bool              `json:"shared,omitempty"`
}

// ComponentConfig describes the masters, the workers or the clients.
type ComponentConfig struct {
	Enabled  bool              `json:"enabled"`
	Name     string            `json:"name,omitempty"`
	Options  map[string]string `json:"options,omitempty"`
	Replicas int32             `json:"replicas,omitempty"`
	Service  ServiceConfig     `json:"service"`
	// Leaving are the pods, by name, that are to go: the native engine moves what
	// they alone have to the others. Workers only.
	Leaving []string `json:"leaving,omitempty"`
	// TieredStoreLevels is from fast to slow; workers and clients only.
	TieredStoreLevels []TierConfig `json:"tieredStoreLevels,omitempty"`
}

// ServiceConfig names the component's headless Service.
type ServiceConfig struct {
	Name string `json:"name,omitempty"`
}

// Media of a tier in runtime.json.
const (
	TierMEM = "MEM"
	TierSSD = "SSD"
	TierHDD = "HDD"
)

// TierConfig is one level of the cache. Quotas are quantities such as 2Gi, one
// for each of MountPaths; High and Low are fractions such as 0.95.
type TierConfig struct {
	MountPaths []string `json:"mountPaths"`
	MediumType string   `json:"mediumType"`
	Quotas     []string `json:"quotas"`
	High       string   `json:"high,omitempty"`
	Low        string   `json:"low,omitempty"`
}

// Options of the native engine's worker component, in ComponentConfig.Options.
const (
	// OptionReplicas is how many workers own each stripe (default 1).
	OptionReplicas = "data.replicas"
	// OptionMetadataTTL is a Go duration after which a listing is looked at again (default 60s).
	OptionMetadataTTL = "metadata.ttl"
	// OptionStorePolicy says which files go when the cache is full: uniform (default) or tinylfu.
	OptionStorePolicy = "store.policy"
	// OptionStoreTTL is a Go duration after which a cached file goes; none by default.
	OptionStoreTTL = "store.ttl"
	// OptionStoreScrub is how many bytes a second are read again and compared
	// with their checksums (default 4Mi, 0 for none).
	OptionStoreScrub = "store.scrub"
	// OptionStoreMove is how many bytes a second move between the levels of the
	// cache (default 64Mi, 0 for none).
	OptionStoreMove = "store.move"
	// OptionDrainBandwidth is how many bytes a second are copied away from workers
	// that are to go (default 256Mi).
	OptionDrainBandwidth = "drain.bandwidth"
	// OptionDrainTimeout is a Go duration: workers that are to go do so after it,
	// also with bytes that nobody else has (default 15m; 0s does not wait at all).
	OptionDrainTimeout = "drain.timeout"
	// OptionMetadataWalkRate is how many directories a second background walks list
	// at most, of sources that are walked directory by directory (default: no bound).
	OptionMetadataWalkRate = "metadata.walkRate"
)

// OptionHadoopConfig of a mount names a ConfigMap with the core-site.xml and
// hdfs-site.xml of its cluster. The pods have it at HadoopConfigPath.
const OptionHadoopConfig = "hadoopConfig"

// Options of the native engine's clients, in ComponentConfig.Options of the
// client; those of the worker and the master are looked at as well.
const (
	// OptionProfile is how a mount opens files: ProfileAuto (default), ProfileLarge
	// or ProfileSmall.
	OptionProfile = "fuse.profile"
	// OptionBandwidth bounds the bytes a second, such as 200Mi, that a mount
	// takes from other nodes and from the source (default: no bound).
	OptionBandwidth = "read.bandwidth"
	// OptionMemory bounds what a mount holds of remote bytes (default 64Mi).
	OptionMemory = "read.memory"
)

// Values of OptionProfile.
const (
	// ProfileAuto finds out by a sample of the sizes when the mount is made.
	ProfileAuto  = "auto"
	ProfileLarge = "large"
	ProfileSmall = "small"
)

// Encode writes c as runtime.json.
func (c *RuntimeConfig) Encode() ([]byte, error) {
	out, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", RuntimeConfigKey, err)
	}
	return out, nil
}

// DecodeRuntimeConfig reads runtime.json. Unknown fields are left to newer engines.
func DecodeRuntimeConfig(data []byte) (*RuntimeConfig, error) {
	c := &RuntimeConfig{}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("decode %s: %w", RuntimeConfigKey, err)
	}
	return c, nil
}
