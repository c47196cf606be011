package main_test

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/apis/contract"
)

func TestALoadGoesOnWhenItsLoaderIsKilledAndTheNextOneJoins(t *testing.T) {
	e := newEngine(t, 1)
	e.fill(40 << 20)
	e.startMaster()
	e.startWorker(0, "1Gi")
	// Slow, so that it is still at work when it is looked at.
	slow := contract.EnvLoadOptions + `={"bandwidth":"8Mi"}`
	p := e.command("load-killed", nil, "load")
	p.cmd.Env = append(p.cmd.Env, contract.EnvLoadID+"=killed", slow)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	e.until("the load is under way", func(s *contract.Summary) bool { return s.CachedBytes > 0 })
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait()
	s, err := e.summary()
	if err != nil || len(s.Loads) != 1 || s.Loads[0].Phase != contract.LoadRunning {
		t.Errorf("without its loader: %+v, %v", s, err)
	}
	if message, err := e.load("killed", slow); err != nil || !strings.HasPrefix(message, "cached ") {
		t.Errorf("the next loader: %v, %q", err, message)
	}
	s = e.until("everything is cached", func(s *contract.Summary) bool { return s.CachedBytes == s.UFSTotalBytes })
	if len(s.Loads) != 1 {
		t.Errorf("%d loads, want the one: %+v", len(s.Loads), s.Loads)
	}
}
