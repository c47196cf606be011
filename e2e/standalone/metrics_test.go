package standalone_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/millrace/millrace/apis/contract"
)

// row is a line of the table of docs/metrics.md.
var row = regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| ([a-z]+) \\| ([^|]*) \\| (.+) \\|$")

// TestARunningCacheHasNoMetricThatIsNotInTheTable reads all that master, worker
// and client serve after they have done something.
func TestARunningCacheHasNoMetricThatIsNotInTheTable(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	type line struct{ kind, help string }
	table := map[string]line{}
	for _, found := range row.FindAllStringSubmatch(string(page), -1) {
		table[found[1]] = line{found[2], strings.ReplaceAll(found[4], `\|`, "|")}
	}
	s := newScene(t)
	want := s.directory("source", 20<<20)
	address := freeAddress(t)
	s.mustMount("source", "mnt", "--metrics-address", address, "--name", "train")
	s.must("load", "mnt/train")
	check(t, s.path("mnt"), want)
	_, _ = os.ReadFile(s.path("mnt", "nowhere"))
	text := fetch(t, "http://"+address+contract.PathMetrics)
	seen := 0
	for l := range strings.Lines(text) {
		words := strings.SplitN(strings.TrimSpace(l), " ", 4)
		switch {
		case len(words) == 4 && words[1] == "HELP" && strings.HasPrefix(words[2], "millrace_"):
			seen++
			if got := table[words[2]]; got.help != strings.ReplaceAll(words[3], `\\`, `\`) {
				t.Errorf("%s says %q, the table %q", words[2], words[3], got.help)
			}
		case len(words) == 4 && words[1] == "TYPE" && strings.HasPrefix(words[2], "millrace_"):
			if got := table[words[2]]; got.kind != words[3] {
				t.Errorf("%s is a %s, the table says %q", words[2], words[3], got.kind)
			}
		case strings.HasPrefix(l, "millrace_") && !strings.Contains(l, `dataset="train"`):
			t.Errorf("without its dataset: %s", l)
		}
	}
	if seen < 20 {
		t.Errorf("only %d metrics in\n%s", seen, text)
	}
	s.must("unmount", "mnt")
}
