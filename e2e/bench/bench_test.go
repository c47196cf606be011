package bench_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The bench is tried with next to no data: its figures then mean nothing, but
// every group must come to its end and say something. Peers are not built for
// tests; who has none is left out of the table.
func TestEveryGroupOfTheBenchSaysSomething(t *testing.T) {
	out, err := filepath.Abs("../../out")
	if err != nil {
		t.Fatal(err)
	}
	own := t.TempDir()
	if err := os.Symlink(filepath.Join(out, "bin"), filepath.Join(own, "bin")); err != nil {
		t.Fatal(err)
	}
	said, err := exec.Command(filepath.Join(out, "bin", "bench"), "--out", own, "--scale", "512", "--runs", "1",
		"--only", "local,small,miss,s3,touch,load,remote,epoch,origin,metadata,growth,memory").CombinedOutput()
	if err != nil {
		t.Fatalf("%v; `make images` builds what it needs\n%s", err, said)
	}
	data, err := os.ReadFile(filepath.Join(own, "bench.json"))
	if err != nil {
		t.Fatal(err)
	}
	var figures []struct {
		Name, Unit, Better string
		Target             *float64
	}
	if err := json.Unmarshal(data, &figures); err != nil {
		t.Fatal(err)
	}
	groups, targets := map[string]int{}, 0
	for _, f := range figures {
		group, _, _ := strings.Cut(f.Name, "/")
		groups[group]++
		if f.Target != nil {
			targets++
		}
		// Of next to no data a difference may be anything, also below zero.
		if f.Unit == "" || f.Better != "higher" && f.Better != "lower" {
			t.Errorf("%+v is no figure", f)
		}
	}
	for _, group := range []string{"local", "small", "miss", "s3", "load", "remote", "epoch", "origin", "metadata", "growth", "memory"} {
		if groups[group] == 0 {
			t.Errorf("group %s has no figure in %v", group, groups)
		}
	}
	if targets < 20 {
		t.Errorf("only %d figures have a target", targets)
	}
	if left, _ := filepath.Glob(filepath.Join(own, "bench-*")); len(left) > 0 {
		t.Errorf("it left %v behind", left)
	}
}
