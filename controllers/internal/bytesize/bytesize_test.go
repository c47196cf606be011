package bytesize_test

import (
	"testing"

	"github.com/millrace/millrace/controllers/internal/bytesize"
)

func TestSizesPrintAsFluidPrintsThem(t *testing.T) {
	for size, want := range map[int64]string{
		0: "0.00B", 1023: "1023.00B", 1024: "1.00KiB", 465452401: "443.89MiB", 1 << 30: "1.00GiB", 1 << 62: "4.00EiB", -1: "0.00B",
	} {
		if got := bytesize.Format(size); got != want {
			t.Errorf("Format(%d) = %q, want %q", size, got, want)
		}
	}
}

func TestPercentSays100OnlyOfTheWhole(t *testing.T) {
	for name, tc := range map[string]struct {
		part, whole int64
		complete    bool
		want        string
	}{
		"nothing of nothing":               {0, 0, false, "0.0%"},
		"a third":                          {1, 3, false, "33.3%"},
		"one byte of a gibibyte missing":   {1<<30 - 1, 1 << 30, false, "99.9%"},
		"everything known, but not walked": {10, 10, false, "99.9%"},
		"everything":                       {10, 10, true, "100.0%"},
		"an empty dataset":                 {0, 0, true, "100.0%"},
	} {
		if got := bytesize.Percent(tc.part, tc.whole, tc.complete); got != tc.want {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}
