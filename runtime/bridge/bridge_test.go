package bridge_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/bridge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 60 * time.Second

// engine is a bridge whose commands print files of the test.
type engine struct {
	*testing.T
	dir    string
	bridge *bridge.Bridge
	server *httptest.Server
	config contract.RuntimeConfig
	cmds   contract.EngineConfig
}

func newEngine(t *testing.T) *engine {
	e := &engine{T: t, dir: t.TempDir()}
	e.config.Mounts = []contract.MountConfig{{MountPoint: "s3://bucket", Name: "bucket", Path: "/"}}
	e.cmds.MountUFS = &contract.EngineCommand{Command: []string{"cat", e.file("mounted")}}
	e.cmds.ReportSummary = &contract.EngineCommand{Command: []string{"cat", e.file("report")}}
	e.write("mounted", `{"mounted":["/"]}`)
	e.write("report", `{"cached":"1.50GiB","cachedPercentage":"75.0%","cacheCapacity":"4GB","cacheHitRatio":"12.5%","fileNum":"7","ufsTotal":2147483648}`)
	return e
}

func (e *engine) file(name string) string { return filepath.Join(e.dir, name) }

func (e *engine) write(name, text string) {
	e.Helper()
	if err := os.WriteFile(e.file(name+".new"), []byte(text), 0o600); err != nil {
		e.Fatal(err)
	}
	if err := os.Rename(e.file(name+".new"), e.file(name)); err != nil {
		e.Fatal(err)
	}
}

// configure writes the configuration as it is now.
func (e *engine) configure() {
	e.Helper()
	for name, c := range map[string]interface{ Encode() ([]byte, error) }{"runtime.json": &e.config, "engine.json": &e.cmds} {
		text, err := c.Encode()
		if err != nil {
			e.Fatal(err)
		}
		e.write(name, string(text))
	}
}

// begin runs the bridge until the test ends.
func (e *engine) begin() {
	e.Helper()
	e.configure()
	e.bridge = bridge.New(bridge.Options{RuntimeConfig: e.file("runtime.json"), EngineConfig: e.file("engine.json"), ReportPeriod: 50 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.bridge.Run(ctx) }()
	e.server = httptest.NewServer(e.bridge.Handler())
	e.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			e.Error(err)
		}
		e.server.CloseClientConnections()
		e.server.Close()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
}

// ask reads the Summary in the name of a start of the engine.
func (e *engine) ask(start string) contract.Summary {
	e.Helper()
	resp, err := http.Get(e.server.URL + contract.PathEngine + start + contract.PathSummary)
	if err != nil {
		e.Fatal(err)
	}
	defer resp.Body.Close()
	var s contract.Summary
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		e.Fatal(err)
	}
	return s
}

// until asks until ok is content.
func (e *engine) until(start string, ok func(contract.Summary) error) contract.Summary {
	e.Helper()
	deadline := time.Now().Add(patience)
	for {
		s := e.ask(start)
		err := ok(s)
		if err == nil {
			return s
		}
		if time.Now().After(deadline) {
			e.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func reported(s contract.Summary) error {
	if !s.Engine.Reported {
		return fmt.Errorf("nothing is reported: %+v", s.Engine)
	}
	return nil
}

func TestNumbersOfAnotherEngineBecomeASummary(t *testing.T) {
	e := newEngine(t)
	e.begin()
	s := e.until("first", func(s contract.Summary) error {
		if len(s.Mounts) == 0 {
			return errors.New("nothing is mounted")
		}
		return reported(s)
	})
	s.Revision = 0
	want := contract.Summary{
		MountTable: e.config.MountTable(), MetadataComplete: true, UFSTotalBytes: 2 << 30, FileNum: 7, CachedBytes: 3 << 29, CapacityBytes: 4 << 30,
		Mounts: []contract.MountSummary{{Path: "/", Ready: true, Reason: contract.MountReady}},
		Engine: &contract.EngineSummary{Reported: true, CachedPercentage: "75.0%", CacheHitRatio: "12.5%"},
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNothingIsRunBeforeTheEngineIsReady(t *testing.T) {
	e := newEngine(t)
	e.cmds.MountUFS.Command = []string{"cp", e.file("mounted"), e.file("ran")}
	e.begin()
	// Its loop turns once a second.
	time.Sleep(1500 * time.Millisecond)
	if _, err := os.Stat(e.file("ran")); err == nil {
		t.Error("mountUFS ran although nobody had told that the engine is ready")
	}
	e.until("first", func(contract.Summary) error { _, err := os.Stat(e.file("ran")); return err })
}

func TestSourcesAreMountedAgainWhenTheEngineHasStartedAgain(t *testing.T) {
	e := newEngine(t)
	e.cmds.ReportSummary = nil
	e.cmds.MountUFS.Command = []string{"sh", "-c", "echo x >> " + e.file("ran") + "; cat " + e.file("mounted")}
	e.begin()
	runs := func(n int) func(contract.Summary) error {
		return func(s contract.Summary) error {
			text, _ := os.ReadFile(e.file("ran"))
			if got := strings.Count(string(text), "x"); got != n || len(s.Mounts) == 0 {
				return fmt.Errorf("mountUFS ran %d times, want %d", got, n)
			}
			return nil
		}
	}
	e.until("first", runs(1))
	e.until("second", runs(2))
	e.ask("first") // one that is behind
	e.config.Mounts = append(e.config.Mounts, contract.MountConfig{MountPoint: "s3://more", Name: "more"})
	e.write("mounted", `{"mounted":["/","/more"]}`)
	e.configure()
	e.until("second", runs(3))
	if s := e.until("second", func(s contract.Summary) error {
		if s.MountTable != e.config.MountTable() {
			return errors.New("the former mounts are served")
		}
		return nil
	}); len(s.Mounts) != 2 {
		t.Errorf("mounts %+v", s.Mounts)
	}
}

func TestWhatIsNotMountedIsTriedAgainAndSaid(t *testing.T) {
	e := newEngine(t)
	e.cmds.ReportSummary = nil
	e.config.Mounts = append(e.config.Mounts, contract.MountConfig{MountPoint: "s3://more", Name: "more"})
	e.begin()
	e.until("first", func(s contract.Summary) error {
		if len(s.Mounts) != 2 || !s.Mounts[0].Ready || s.Mounts[1].Ready || !strings.Contains(s.Mounts[1].Message, "it has mounted: /") {
			return fmt.Errorf("mounts %+v", s.Mounts)
		}
		return nil
	})
	e.write("mounted", `{"mounted":["/","more"]}`)
	e.until("first", func(s contract.Summary) error {
		if !s.Mounts[1].Ready {
			return fmt.Errorf("mounts %+v", s.Mounts)
		}
		return nil
	})
}

func TestAFailureIsToldWithoutSecretsAndLeavesTheNumbers(t *testing.T) {
	e := newEngine(t)
	e.write("key", "hunter2-is-secret\n")
	e.config.Mounts[0].EncryptOptions = map[string]string{"key": e.file("key")}
	e.begin()
	e.until("first", reported)
	e.cmds.ReportSummary.Command = []string{"sh", "-c", "echo access denied to hunter2-is-secret >&2; exit 3"}
	e.configure()
	s := e.until("first", func(s contract.Summary) error {
		if s.Engine.Message == "" {
			return errors.New("no failure is told")
		}
		return nil
	})
	if want := "reportSummary ended with code 3: access denied to ***"; s.Engine.Message != want {
		t.Errorf("told %q, want %q", s.Engine.Message, want)
	}
	if s.CachedBytes != 3<<29 {
		t.Errorf("the numbers are lost: %+v", s)
	}
}

func TestACommandThatHangsEndsWithAllThatItStarted(t *testing.T) {
	e := newEngine(t)
	e.cmds.MountUFS = nil
	e.cmds.ReportSummary = &contract.EngineCommand{
		Command: []string{"sh", "-c", "sleep 1000 & echo $! > " + e.file("pid") + "; wait"}, TimeoutSeconds: 1,
	}
	e.begin()
	e.until("first", func(s contract.Summary) error {
		if !strings.Contains(s.Engine.Message, "did not end within 1 s") {
			return fmt.Errorf("told %q", s.Engine.Message)
		}
		return nil
	})
	text, err := os.ReadFile(e.file("pid"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err == nil && !strings.Contains(string(stat), ") Z ") && strings.Contains(string(stat), "(sleep)") {
		t.Errorf("what the command started runs on: %s", stat)
	}
}

func TestWatchersHearOfEveryChange(t *testing.T) {
	e := newEngine(t)
	e.begin()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.server.URL+contract.PathEngine+"first"+contract.PathSummary+"?watch=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	changed := false
	for decoder := json.NewDecoder(resp.Body); ; {
		var s contract.Summary
		if err := decoder.Decode(&s); err != nil {
			t.Fatalf("the stream ended: %v", err)
		}
		if s.CachedBytes == 3<<29 && !changed {
			changed = true
			e.write("report", `{"cached":"2GiB","ufsTotal":"2GiB","fileNum":7}`)
		}
		if s.CachedBytes == 2<<30 {
			return
		}
	}
}

func TestAMountPointIsClearedOfTheDead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "cache-fuse")
	if err := bridge.ClearMountPoint(dir); err != nil {
		t.Fatal(err)
	}
	// A file system on another stands in for one that crashed twice.
	for range 2 {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := bridge.ClearMountPoint(dir); err != nil {
		t.Fatal(err)
	}
	if table, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(table), dir) {
		t.Errorf("something is mounted there still: %v", err)
	}
}

func TestTheHelperIsInstalledAndRuns(t *testing.T) {
	program, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for range 2 { // a pod that was restarted
		if err := bridge.Install(program, dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := exec.Command(filepath.Join(dir, "cache")).Run(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}
