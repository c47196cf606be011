package component

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/master"
	"github.com/millrace/millrace/runtime/wire"
)

// TestAChangedConfigurationIsTakenInWithoutARestart writes runtime.json anew
// under a master and a worker, with what needs no restart changed in it.
func TestAChangedConfigurationIsTakenInWithoutARestart(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, contract.RuntimeConfigKey)
	config := func(quota, ttl string, leaving ...string) *contract.RuntimeConfig {
		return &contract.RuntimeConfig{
			Mounts: []contract.MountConfig{{MountPoint: "local://" + filepath.Join(dir, "source"), Path: "/"}},
			Worker: contract.ComponentConfig{
				Replicas: 1, Leaving: leaving, Options: map[string]string{contract.OptionStoreTTL: ttl, contract.OptionMetadataTTL: "10m"},
				TieredStoreLevels: []contract.TierConfig{{MediumType: contract.TierSSD, MountPaths: []string{filepath.Join(dir, "cache")}, Quotas: []string{quota}}},
			},
		}
	}
	write := func(c *contract.RuntimeConfig) {
		t.Helper()
		text, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file+".new", text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	first := config("1Gi", "24h")
	write(first)
	at := wire.UnixAddress(filepath.Join(dir, "master.sock"))
	settings := func(name string) *Settings {
		return &Settings{RuntimeConfig: first, File: file, Name: name, Node: "n", MasterAddress: at}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	started := make(chan *master.Master, 1)
	m, w := settings("m"), settings("w-0")
	go func() {
		ended <- RunMaster(ctx, m, NewRegistry(m), MasterPlace{RPC: at, Register: func(_ *grpc.Server, m *master.Master) { started <- m }})
	}()
	go func() {
		ended <- RunWorker(ctx, w, NewRegistry(w), WorkerPlace{Data: wire.UnixAddress(filepath.Join(dir, "data.sock"))})
	}()
	defer func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}()
	running := <-started
	serves := func(what string, ofMaster, ofWorker *contract.RuntimeConfig, capacity int64, leaving bool) {
		t.Helper()
		var why error
		for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			s := running.Summary()
			switch {
			case len(s.Workers) != 1:
				why = fmt.Errorf("%d workers", len(s.Workers))
			case s.Live != ofMaster.LiveTable(contract.ComponentMaster) || s.Workers[0].Live != ofWorker.LiveTable(contract.ComponentWorker):
				why = fmt.Errorf("it was not taken in: %+v", s)
			case s.Workers[0].CapacityBytes != capacity || s.Workers[0].Leaving != leaving || (s.Drain != nil) != leaving:
				why = fmt.Errorf("%+v", s)
			default:
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v", what, why)
			}
		}
	}
	serves("at the start", first, first, 1<<30, false)
	second := config("512Mi", "1h", "w-0")
	write(second)
	serves("a smaller quota, and the worker is to go", second, second, 512<<20, true)
	third := config("2Gi", "")
	write(third)
	serves("a larger quota, and it stays", third, third, 2<<30, false)
	bad := config("4Gi", "soon")
	write(bad) // the worker cannot take it in: all stays there as it is
	serves("a bad one", bad, third, 2<<30, false)
}
