package component

import (
	"fmt"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/fuse"
)

// minMemory holds a few blocks; with less, a reader would only wait for itself.
const minMemory = 16 << 20

// readOptions are the options of a mount.
type readOptions struct {
	profile   fuse.Profile // empty: to be found out
	bandwidth int64        // bytes a second, 0 for no bound
	memory    int64        // bytes, 0 for the default
}

// readOptions reads the options of the clients.
func (s *Settings) readOptions() (o readOptions, err error) {
	switch v := s.clientOption(contract.OptionProfile); v {
	case "", contract.ProfileAuto:
	case contract.ProfileLarge:
		o.profile = fuse.ProfileLarge
	case contract.ProfileSmall:
		o.profile = fuse.ProfileSmall
	default:
		return o, fmt.Errorf("option %s is %q, want %s, %s or %s", contract.OptionProfile, v, contract.ProfileAuto, contract.ProfileLarge, contract.ProfileSmall)
	}
	if v := s.clientOption(contract.OptionBandwidth); v != "" {
		if o.bandwidth, err = ParseBytes(v); err != nil || o.bandwidth == 0 {
			return o, fmt.Errorf("option %s is %q, want bytes a second such as 200Mi, or none", contract.OptionBandwidth, v)
		}
	}
	if v := s.clientOption(contract.OptionMemory); v != "" {
		if o.memory, err = ParseBytes(v); err != nil || o.memory < minMemory {
			return o, fmt.Errorf("option %s is %q, want a size of at least 16Mi", contract.OptionMemory, v)
		}
	}
	return o, nil
}

// clientOption looks for an option of the clients, then of the others.
func (s *Settings) clientOption(name string) string {
	if v := s.Client.Options[name]; v != "" {
		return v
	}
	return s.option(name)
}
