package bridge

import (
	"strings"
	"testing"
)

func TestSizesOfEnginesAreRead(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "12": 12, "12B": 12, "1.5KiB": 1536, "1kb": 1024, "443.89MiB": 465452401, "2.00GB": 2 << 30, "1 TiB": 1 << 40, "3e3": 3000, "1P": 1 << 50,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "many", "-1", "1XB", "NaN", "Inf", "99999999999EiB", "1.2.3MiB"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
}

func TestReportsAreReadAsFarAsTheyGo(t *testing.T) {
	for name, tc := range map[string]struct{ out, complaint string }{
		"strings":                         {`{"cached":"1GiB","cachedPercentage":"50.0%"}`, ""},
		"numbers":                         {`{"cached":1073741824,"cachedPercentage":50}`, ""},
		"a log line ahead":                {"WARN something\n{\"cached\":\"1GiB\"}\n", ""},
		"more than is asked for":          {`{"cached":"1GiB","workers":3}`, ""},
		"nothing":                         {``, "did not print JSON"},
		"words":                           {`all is well`, "did not print JSON"},
		"no number that matters":          {`{"fileNum":"3"}`, "neither cached nor cachedPercentage"},
		"a size that is none":             {`{"cached":"much"}`, `printed cached "much"`},
		"a percentage that is none":       {`{"cachedPercentage":"most"}`, `printed cachedPercentage "most"`},
		"a ratio that is none, and bytes": {`{"cached":"1","cacheHitRatio":"-1%"}`, `printed cacheHitRatio "-1%"`},
	} {
		_, err := parseReport([]byte(tc.out))
		if tc.complaint == "" && err != nil || tc.complaint != "" && (err == nil || !strings.Contains(err.Error(), tc.complaint)) {
			t.Errorf("%s: %v, want %q", name, err, tc.complaint)
		}
	}
}
