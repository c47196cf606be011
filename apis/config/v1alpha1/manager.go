package v1alpha1

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/millrace/millrace/apis/contract"
)

// Group and kind of the manager's configuration.
const (
	APIVersion               = "config.millrace.io/v1alpha1"
	ManagerConfigurationKind = "ManagerConfiguration"
)

// maxAllow bounds the list, which every runtime.json holds.
const maxAllow = 256

// ManagerConfiguration is what the administrator of a cluster decides for all
// Datasets. The manager reads it from the file of its flag --config.
type ManagerConfiguration struct {
	metav1.TypeMeta `json:",inline"`

	// egress says where the caches' sources may be.
	Egress Egress `json:"egress,omitempty"`
}

// Egress says which addresses sources may have beyond those that all may.
type Egress struct {
	// allow lists what is allowed of the addresses that are refused by default
	// (loopback, link-local, unspecified, multicast, metadata services): networks
	// such as 127.0.0.0/8, addresses, names of hosts whatever they resolve to,
	// or * for all. At most 256.
	Allow []string `json:"allow,omitempty"`
}

// DecodeManagerConfiguration reads a file. Fields that are not known are errors.
func DecodeManagerConfiguration(data []byte) (*ManagerConfiguration, error) {
	c := &ManagerConfiguration{}
	if err := yaml.UnmarshalStrict(data, c); err != nil {
		return nil, fmt.Errorf("decode %s: %w", ManagerConfigurationKind, err)
	}
	return c, c.Validate()
}

// Validate names the first field that makes no sense.
func (c *ManagerConfiguration) Validate() error {
	if c.APIVersion != APIVersion || c.Kind != ManagerConfigurationKind {
		return fmt.Errorf("this is a %s of %s: want a %s of %s", c.Kind, c.APIVersion, ManagerConfigurationKind, APIVersion)
	}
	if n := len(c.Egress.Allow); n > maxAllow {
		return fmt.Errorf("egress.allow has %d entries: give at most %d", n, maxAllow)
	}
	if _, err := contract.ParseEgress(c.Egress.Allow); err != nil {
		return fmt.Errorf("egress.allow: %w", err)
	}
	return nil
}
