package scale

import (
	"context"
	"testing"
	"time"
)

// TestManyDatasetsBindAndThenNothingIsWritten is the small sister of `make
// scale`, which measures thousands.
func TestManyDatasetsBindAndThenNothingIsWritten(t *testing.T) {
	s := open(t, 4)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	const n = 60
	storm, err := s.Run(ctx, n, 20*time.Second, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", *storm)
	if storm.AtRest != 0 {
		t.Errorf("%d writes while nothing changed", storm.AtRest)
	}
	if perDataset := storm.Writes / n; perDataset > 40 {
		t.Errorf("%d writes a Dataset until it is bound", perDataset)
	}
	if storm.PeakBytes > 256<<20 {
		t.Errorf("the manager took %d bytes", storm.PeakBytes)
	}
}
