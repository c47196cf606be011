package contract

import "slices"

// liveOptions are taken in by running processes as they change, so that nothing
// restarts for them. docs/runtimes.md lists them.
var liveOptions = []string{
	OptionDrainBandwidth, OptionDrainTimeout, OptionMetadataTTL, OptionStoreTTL, OptionStoreScrub, OptionStoreMove, OptionBandwidth,
}

// IsLive tells whether an option is taken in while everything runs.
func IsLive(option string) bool { return slices.Contains(liveOptions, option) }

// LiveTable names all that a component's running processes take in of
// runtime.json besides the mounts. They tell in the Summary which they have.
func (c *RuntimeConfig) LiveTable(of ComponentType) string {
	said := struct {
		Options [2]map[string]string
		Leaving []string
		Levels  []TierConfig
	}{Options: [2]map[string]string{live(c.Master.Options), live(c.Worker.Options)}}
	switch of {
	case ComponentMaster:
		said.Leaving = c.Worker.Leaving
	case ComponentWorker:
		said.Levels = c.Worker.TieredStoreLevels
	}
	return digest(said)
}

// WithoutLive is c without what running processes take in as it changes: the
// mounts, the numbers of pods, and what LiveTable names. Where it stays the same
// nothing needs to be restarted.
func (c *RuntimeConfig) WithoutLive() *RuntimeConfig {
	out := *c
	out.Mounts = nil
	for _, component := range []*ComponentConfig{&out.Master, &out.Worker, &out.Client} {
		component.Replicas, component.Leaving = 0, nil
		component.Options = rest(component.Options)
		component.TieredStoreLevels = slices.Clone(component.TieredStoreLevels)
		for i := range component.TieredStoreLevels {
			level := &component.TieredStoreLevels[i]
			level.Quotas, level.High, level.Low = nil, "", ""
		}
	}
	return &out
}

// live are the options that are taken in as they change, rest are the others.
func live(options map[string]string) map[string]string { return pick(options, true) }
func rest(options map[string]string) map[string]string { return pick(options, false) }

func pick(options map[string]string, isLive bool) map[string]string {
	var out map[string]string
	for name, value := range options {
		if IsLive(name) != isLive {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[name] = value
	}
	return out
}
