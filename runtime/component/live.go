package component

import (
	"errors"
	"fmt"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/master"
	"github.com/millrace/millrace/runtime/reader"
	"github.com/millrace/millrace/runtime/worker"
)

// toMaster takes in what a running master can.
func (s *Settings) toMaster(m *master.Master) error {
	bandwidth, err := s.drainBandwidth()
	if err == nil {
		m.SetDrainBytes(bandwidth)
	}
	ttl, errTTL := s.metadataTTL()
	if errTTL == nil {
		m.SetTTL(ttl)
	}
	m.SetLeaving(s.Worker.Leaving)
	m.SetLive(s.LiveTable(contract.ComponentMaster))
	return errors.Join(err, errTTL)
}

// toWorker takes in what a running worker can.
func (s *Settings) toWorker(w *worker.Worker) error {
	tiers, err := tiersOf(s.Worker.TieredStoreLevels)
	if err != nil {
		return err
	}
	keep, err := s.storeOptions()
	if err != nil {
		return err
	}
	keep.Tiers = tiers
	w.Change(keep, s.LiveTable(contract.ComponentWorker))
	return nil
}

// toClient takes in what a running client can.
func (s *Settings) toClient(r *reader.Reader) error {
	options, err := s.readOptions()
	if err == nil {
		r.SetBandwidth(options.bandwidth)
	}
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
