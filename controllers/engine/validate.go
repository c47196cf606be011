package engine

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/millrace/millrace/apis/contract"
)

// maxName keeps <name>-worker-<revision>, which Kubernetes puts into a label of
// the pods, within a label's 63 characters.
const maxName = 63 - len("-worker") - len("-1234567890")

// validate finds what admission cannot see and pods would fail of.
func (d *Description) validate() *Problem {
	if len(d.Name) > maxName {
		return &Problem{ReasonInvalid, fmt.Sprintf("the name has %d characters, and pods can be made for at most %d: choose a shorter one", len(d.Name), maxName)}
	}
	if len(d.Sources.Mounts) == 0 {
		return &Problem{ReasonInvalid, "the Dataset has no mounts: give spec.mounts at least one"}
	}
	seen := map[string]string{}
	for _, m := range d.Sources.Mounts {
		path := contract.MountPath(m.Path, m.Name)
		if other, taken := seen[path]; taken {
			return &Problem{ReasonInvalid, fmt.Sprintf("mounts %s and %s have both the path %s: give one of them another path", other, m.MountPoint, path)}
		}
		seen[path] = m.MountPoint
	}
	for _, m := range d.Sources.Mounts {
		if strings.HasPrefix(m.MountPoint, contract.SchemeDataset) {
			return &Problem{ReasonInvalid, fmt.Sprintf("mount %s stands beside others: a Dataset that refers to another has no mount but that", m.MountPoint)}
		}
	}
	if problem := d.validateEgress(); problem != nil {
		return problem
	}
	if problem := d.validateForeign(); problem != nil {
		return problem
	}
	if problem := d.validateOptions(); problem != nil {
		return problem
	}
	if d.Foreign == nil && d.Worker.Replicas > 0 && len(d.Worker.Tiers) == 0 {
		return &Problem{ReasonInvalid, "the worker has no tier to cache in: give the tiered store at least one level"}
	}
	inProcess := 0
	for i, tier := range d.Worker.Tiers {
		for _, dir := range tier.Dirs {
			if dir.QuotaBytes <= 0 {
				return &Problem{ReasonInvalid, fmt.Sprintf("level %d of the tiered store has a quota of %d bytes: give it a quantity such as 2Gi", i, dir.QuotaBytes)}
			}
			if dir.ProcessMemory {
				inProcess++
			}
		}
	}
	if inProcess > 1 {
		return &Problem{ReasonInvalid, "the tiered store has more than one level in /dev/shm: keep one"}
	}
	memory := d.Worker.MemoryBytes()
	if limit, ok := d.Worker.Resources.Limits[corev1.ResourceMemory]; ok && limit.Value() < memory {
		tiers := quantity(memory)
		return &Problem{ReasonInvalid, fmt.Sprintf(
			"the worker's memory limit %s is below the %s of its tiers in memory: raise the limit or lower the quota", limit.String(), tiers.String())}
	}
	return nil
}

// validateForeign finds what a class forgot.
func (d *Description) validateForeign() *Problem {
	if d.Foreign == nil {
		return nil
	}
	some := false
	for _, c := range components {
		some = some || d.has(c)
		if d.has(c) && d.component(c).Image == "" {
			return &Problem{ReasonInvalid, fmt.Sprintf(
				"the class names no image for the %s: give its topology.%s.template.spec.containers[0] an image, or the runtime a spec.%s.runtimeVersion", c, c, c)}
		}
		for _, mount := range d.component(c).ExtraMounts {
			if !slices.ContainsFunc(d.Foreign.ConfigMaps, func(m ExtraConfigMap) bool { return m.Name == mount.ConfigMap }) {
				return &Problem{ReasonInvalid, fmt.Sprintf(
					"topology.%s.dependencies.extraResources of the class mounts ConfigMap %s, which its extraResources.configMaps do not have: add it there", c, mount.ConfigMap)}
			}
		}
	}
	if !some {
		return &Problem{ReasonInvalid, "the runtime has no component: give the class a topology, or leave one of its components enabled"}
	}
	return nil
}

// validateEgress finds sources that the engine would refuse to connect to, as
// far as their words show it: names are resolved by the engine alone, which
// checks every address that it connects to.
func (d *Description) validateEgress() *Problem {
	policy, err := contract.ParseEgress(d.Egress)
	if err != nil {
		return &Problem{ReasonInvalid, fmt.Sprintf("egress.allow of the manager's configuration: %v", err)}
	}
	for _, m := range d.Sources.Mounts {
		if _, ok := contract.SourceDir(m.MountPoint); ok {
			continue
		}
		scheme, _, _ := strings.Cut(m.MountPoint, "://")
		if slices.Contains([]string{"http", "https", "hdfs"}, scheme) {
			if err := policy.CheckHost(hostOf(m.MountPoint)); err != nil {
				return &Problem{ReasonInvalid, fmt.Sprintf("mountPoint of mount %s: %v", m.Name, err)}
			}
		}
		for _, option := range slices.Sorted(maps.Keys(m.Options)) {
			if option != "url" && !strings.HasSuffix(option, "endpoint") {
				continue
			}
			if err := policy.CheckHost(hostOf(m.Options[option])); err != nil {
				return &Problem{ReasonInvalid, fmt.Sprintf("option %s of mount %s: %v", option, m.Name, err)}
			}
		}
	}
	return nil
}

// hostOf is the host of an address with or without a scheme; empty for what is none.
func hostOf(address string) string {
	address = strings.TrimSpace(address)
	if !strings.Contains(address, "://") {
		address = "any://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Hostname()
}
