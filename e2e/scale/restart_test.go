package scale

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// TestARestartedManagerWritesNothing counts what a manager writes that finds
// everything as its predecessor left it.
func TestARestartedManagerWritesNothing(t *testing.T) {
	s := open(t, 2)
	const n = 4
	calm := newCrasher(t, s, false)
	if err := s.makeDatasets(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	full := func(ds *datav1alpha1.Dataset) bool { return ds.Status.CacheStates["cachedPercentage"] == "100.0%" }
	for i := range n {
		eventually(t, "it is heard", func(context.Context) error {
			if !s.Masters.Heard(key(i)) {
				return errors.New("nobody listens")
			}
			return nil
		})
		s.Masters.Say(key(i), func(sum *contract.Summary) { sum.CachedBytes = sum.UFSTotalBytes })
	}
	if err := s.await(t.Context(), n, "cached", full, t.Logf); err != nil {
		t.Fatal(err)
	}
	if err := still(t.Context(), calm.door); err != nil {
		t.Fatal(err)
	}
	calm.stop()
	for i := range n {
		eventually(t, "the streams end", func(context.Context) error {
			if s.Masters.Heard(key(i)) {
				return errors.New("somebody listens")
			}
			return nil
		})
	}

	second := newCrasher(t, s, false)
	defer second.stop()
	// Who listens to a master has looked at all that its runtime consists of.
	for i := range n {
		eventually(t, fmt.Sprintf("the second manager has reached %s", key(i)), func(context.Context) error {
			if !s.Masters.Heard(key(i)) {
				return errors.New("nobody listens")
			}
			return nil
		})
	}
	if err := still(t.Context(), second.door); err != nil {
		t.Fatal(err)
	}
	if writes := second.door.Writes(); writes != 0 {
		t.Errorf("%d writes, of which these changed something: %v", writes, second.door.Changes())
	}
	// It works, and does not merely sleep.
	for i := range n {
		s.Masters.Say(key(i), func(sum *contract.Summary) { sum.CachedBytes = 0 })
	}
	began := time.Now()
	none := func(ds *datav1alpha1.Dataset) bool { return ds.Status.CacheStates["cachedPercentage"] == "0.0%" }
	if err := s.await(t.Context(), n, "empty", none, t.Logf); err != nil {
		t.Fatal(err)
	}
	t.Logf("the statuses followed after %s", time.Since(began).Round(time.Millisecond))
}
