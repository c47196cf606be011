package component

import (
	"fmt"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/master"
)

// toMaster takes in what a running master can.
func (s *Settings) toMaster(m *master.Master) error {
	bandwidth, err := s.drainBandwidth()
	if err == nil {
		m.SetDrainBytes(bandwidth)
	}
	m.SetLeaving(s.Worker.Leaving)
	m.SetLive(s.LiveTable(contract.ComponentMaster))
	return err
}

func (s *Settings) drainBandwidth() (int64, error) {
	v := s.option(contract.OptionDrainBandwidth)
	if v == "" {
		return 0, nil
	}
	n, err := ParseBytes(v)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("option %s is %q, want bytes a second such as 256Mi", contract.OptionDrainBandwidth, v)
	}
	return n, nil
}
