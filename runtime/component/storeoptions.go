package component

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/store"
)

const (
	defaultScrub = 4 << 20  // bytes a second: 1 TiB in three days
	defaultMove  = 64 << 20 // bytes a second
)

// storeOptions reads how the workers keep files.
func (s *Settings) storeOptions() (o store.Options, err error) {
	o = store.Options{ScrubBytes: defaultScrub, MoveBytes: defaultMove}
	switch v := store.Policy(s.option(contract.OptionStorePolicy)); v {
	case "", store.PolicyUniform, store.PolicyTinyLFU:
		o.Policy = v
	default:
		return o, fmt.Errorf("option %s is %q, want %s or %s", contract.OptionStorePolicy, v, store.PolicyUniform, store.PolicyTinyLFU)
	}
	if v := s.option(contract.OptionStoreTTL); v != "" {
		if o.TTL, err = time.ParseDuration(v); err != nil || o.TTL <= 0 {
			return o, fmt.Errorf("option %s is %q, want a duration such as 24h, or none", contract.OptionStoreTTL, v)
		}
	}
	for option, rate := range map[string]*int64{contract.OptionStoreScrub: &o.ScrubBytes, contract.OptionStoreMove: &o.MoveBytes} {
		if v := s.option(option); v != "" {
			if *rate, err = ParseBytes(v); err != nil || *rate < 0 {
				return o, fmt.Errorf("option %s is %q, want bytes a second such as 16Mi, or 0 for none", option, v)
			}
		}
	}
	return o, nil
}
