package master_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/component"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// do asks the master for something as a controller does, until it is done.
func (c *cache) do(what string, paths ...string) (got contract.KeepSummary) {
	c.t.Helper()
	server := httptest.NewServer(c.master.Handler(http.NotFoundHandler()))
	defer server.Close()
	defer http.DefaultClient.CloseIdleConnections()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		resp, err := http.Post(server.URL+what+"?"+url.Values{"path": paths}.Encode(), "", nil)
		if err != nil {
			c.t.Fatal(err)
		}
		err = json.NewDecoder(resp.Body).Decode(&got)
		resp.Body.Close()
		if resp.StatusCode == http.StatusBadGateway && time.Now().Before(deadline) { // a worker starts
			continue
		}
		if err != nil || resp.StatusCode != http.StatusOK {
			c.t.Fatalf("%s %v: %s, %v", what, paths, resp.Status, err)
		}
		return got
	}
}

func TestPain13PinsAndFreesReachEveryWorkerAndOutliveIt(t *testing.T) {
	source := t.TempDir()
	for i := range 10 {
		at := filepath.Join(source, fmt.Sprintf("d%d", i%2), fmt.Sprintf("f%d.bin", i))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, make([]byte, 5000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := newCache(t, 0, map[string]string{"/m": source})
	var dirs []string
	var stops []func()
	for i := range 2 {
		dirs = append(dirs, t.TempDir())
		stops = append(stops, c.workerAt(i, dirs[i]))
	}
	members := func(n int) {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
			if sum := c.master.Summary(); len(sum.Workers) == n {
				return
			} else if time.Now().After(deadline) {
				t.Fatalf("summary %+v", sum)
			}
		}
	}
	members(2)
	if got := c.do(contract.PathPin, "/m"); got.Files != 10 || got.CachedFiles != 0 {
		t.Errorf("pinned what is not there: %+v", got)
	}
	if p := c.load(&wirepb.LoadRequest{Id: "1", Targets: []*wirepb.LoadTarget{{Path: "/", Replicas: 2}}}); p.GetPhase() != contract.LoadComplete {
		t.Fatalf("load %v", p)
	}
	const onDisk = 8192 // a file
	if got, want := c.do(contract.PathPin, "/m/d0", "/m/d?/f[01].bin"), (contract.KeepSummary{Files: 6, Bytes: 30000, CachedFiles: 6, CachedBytes: 6 * 2 * onDisk}); got != want {
		t.Errorf("pinned %+v, want %+v", got, want)
	}
	for i, stop := range stops {
		stop()
		c.workerAt(i, dirs[i])
	}
	members(2)
	// Answers once both new workers are connected; a free that is asked for
	// again would tell of the rest alone.
	c.do(contract.PathPin, "/m/d0")
	if got, want := c.do(contract.PathFree, "/"), (contract.KeepSummary{Files: 10, Bytes: 50000, CachedFiles: 4, CachedBytes: 4 * 2 * onDisk, PinnedFiles: 6}); got != want {
		t.Errorf("freed %+v, want %+v", got, want)
	}
	if got := c.master.Summary().CachedBytes; got != 30000 {
		t.Errorf("%d bytes are cached when that is answered", got)
	}
	if got := c.do(contract.PathUnpin, "/m/d1"); got.CachedFiles != 1 {
		t.Errorf("unpinned %+v", got)
	}
	if got := c.do(contract.PathFree, "/m/d0", "/m/d1"); got.CachedFiles != 1 || got.PinnedFiles != 5 {
		t.Errorf("freed %+v", got)
	}
}

func TestALoadPinsUnpinsAndFrees(t *testing.T) {
	dir := t.TempDir()
	const files, size = 40, 4 << 20
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%02d", i)), make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := newCache(t, 0, map[string]string{"/m": dir})
	c.workerWith(0, t.TempDir(), files/2*(size+8192)) // room for half of it
	load := func(id, keep string, targets ...string) *wirepb.LoadProgress {
		t.Helper()
		r := &wirepb.LoadRequest{Id: id}
		component.SetLoadOptions(r, contract.LoadOptions{Keep: keep})
		for _, target := range targets {
			r.Targets = append(r.Targets, &wirepb.LoadTarget{Path: target})
		}
		return c.load(r)
	}
	// What is there before is pinned, too.
	if p := load("before", "", "/m/f00"); p.GetPhase() != contract.LoadComplete {
		t.Fatalf("%v", p)
	}
	if p := load("pin", contract.LoadKeepPin, "/m/f0*"); p.GetPhase() != contract.LoadComplete || p.GetMessage() != "all is pinned" || p.GetFilesDone() != 10 {
		t.Fatalf("pin: %v", p)
	}
	if p := load("too much", "", "/m/f[123]*"); p.GetPhase() != contract.LoadFailed || p.GetFilesFailed() == 0 || len(p.GetFailures()) != contract.MaxLoadFailures {
		t.Errorf("more than there is room for: %v", p)
	}
	if p := load("again", "", "/m/f0*"); p.GetPhase() != contract.LoadComplete {
		t.Errorf("what was pinned: %v", p)
	}
	if p := load("free", contract.LoadKeepFree, "/m"); p.GetPhase() != contract.LoadComplete || !strings.HasSuffix(p.GetMessage(), "; 10 are pinned and stay") {
		t.Errorf("free: %v", p)
	}
	if got := c.master.Summary().CachedBytes; got != 10*size {
		t.Errorf("%d bytes are cached, want what is pinned", got)
	}
	if p := load("unpin", contract.LoadKeepUnpin, "/m"); p.GetPhase() != contract.LoadComplete || !strings.HasPrefix(p.GetMessage(), "unpinned 10 of 40 files") {
		t.Errorf("unpin: %v", p)
	}
	if p := load("free", contract.LoadKeepFree, "/m"); p.GetPhase() != contract.LoadComplete || strings.Contains(p.GetMessage(), "stay") {
		t.Errorf("free again: %v", p)
	}
	if got := c.master.Summary().CachedBytes; got != 0 {
		t.Errorf("%d bytes are cached after all was freed", got)
	}
}

func TestWhatCannotBePinnedIsSaid(t *testing.T) {
	c := newCache(t, 1, map[string]string{"/": t.TempDir()})
	server := httptest.NewServer(c.master.Handler(http.NotFoundHandler()))
	defer server.Close()
	defer http.DefaultClient.CloseIdleConnections()
	for query, want := range map[string]int{
		"":                http.StatusBadRequest,
		"?path=/nowhere":  http.StatusNotFound,
		"?path=/no*where": http.StatusNotFound,
		"?path=%2Fa%5B":   http.StatusConflict, // [
	} {
		resp, err := http.Post(server.URL+contract.PathPin+query, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s, want %d", query, resp.Status, want)
		}
	}
}
