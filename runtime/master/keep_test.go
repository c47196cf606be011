package master_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace/millrace/apis/contract"
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

func TestPinsAndFreesReachEveryWorkerAndOutliveIt(t *testing.T) {
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
