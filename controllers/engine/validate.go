package engine

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
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
	if d.Worker.Replicas > 0 && len(d.Worker.Tiers) == 0 {
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
