package operation_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

var errCrashed = errors.New("this manager is dead")

// crash is a manager's death behind its n-th write: that is done, and no other.
type crash struct {
	left atomic.Int64
	dead chan struct{}
}

func newCrash(n int64) *crash {
	c := &crash{dead: make(chan struct{})}
	c.left.Store(n)
	return c
}

func (c *crash) write(do func() error) error {
	switch left := c.left.Add(-1); {
	case left < 0:
		return errCrashed
	case left == 0:
		defer close(c.dead)
	}
	return do()
}

// client is what the manager writes with.
func (c *crash) client(config *rest.Config, options client.Options) (client.Client, error) {
	inner, err := client.NewWithWatch(config, options)
	if err != nil {
		return nil, err
	}
	return interceptor.NewClient(inner, interceptor.Funcs{
		Create: func(ctx context.Context, w client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			return c.write(func() error { return w.Create(ctx, obj, opts...) })
		},
		Delete: func(ctx context.Context, w client.WithWatch, obj client.Object, opts ...client.DeleteOption) error {
			return c.write(func() error { return w.Delete(ctx, obj, opts...) })
		},
		Patch: func(ctx context.Context, w client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
			return c.write(func() error { return w.Patch(ctx, obj, patch, opts...) })
		},
		SubResourcePatch: func(ctx context.Context, w client.Client, sub string, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
			return c.write(func() error { return w.SubResource(sub).Patch(ctx, obj, patch, opts...) })
		},
	}), nil
}

// Behind whichever write a manager dies, the next one brings the same about: a
// schedule's run once, and one DataMigrate after the other.
func TestNothingRunsTwiceWhereverAManagerDies(t *testing.T) {
	const together = 4
	var writes atomic.Int64 // behind which a manager died
	for n, ended := int64(1), false; !ended; n += together {
		t.Run(fmt.Sprintf("from write %d", n), func(t *testing.T) {
			for i := range int64(together) {
				t.Run(fmt.Sprintf("behind write %d", n+i), func(t *testing.T) {
					t.Parallel()
					if dies(t, n+i) {
						writes.Add(1)
					}
				})
			}
		})
		ended = t.Failed() || writes.Load() < n+together-1
	}
	if n := writes.Load(); n < 8 {
		t.Errorf("there were only %d writes", n)
	}
}

// dies has a manager die behind its n-th write; false if it came to the end before.
func dies(t *testing.T, n int64) (died bool) {
	w := quietWorld(t)
	c := newCrash(n)
	w.startWith(c.client)
	defer func() { w.stop() }()
	restarted := func() {
		select {
		case <-c.dead:
			if !died {
				died = true
				w.stop()
				w.start()
			}
		default:
		}
	}
	until := func(missing func() string) {
		t.Helper()
		w.until(func() string { restarted(); return missing() })
	}
	w.bound("data")
	dl := w.load("nightly", cron("@every 10m"))
	until(func() string {
		if w.status(dl).NextScheduleTime == nil {
			return "no next time"
		}
		return ""
	})
	w.passes(11*time.Minute, dl)
	finish := func(of client.Object) {
		t.Helper()
		var job *batchv1.Job
		until(func() string {
			jobs := w.jobs(of)
			if len(jobs) > 1 {
				t.Fatalf("write %d: %s has %d jobs", n, of.GetName(), len(jobs))
			}
			if len(jobs) == 0 {
				return fmt.Sprintf("write %d: no job of %s: %+v", n, of.GetName(), w.status(of))
			}
			job = &jobs[0]
			return ""
		})
		w.ends(job, batchv1.JobComplete)
		until(func() string {
			if st := w.status(of); st.Phase != datav1alpha1.PhaseComplete {
				return fmt.Sprintf("write %d: %s is not complete: %+v", n, of.GetName(), st)
			}
			return ""
		})
	}
	finish(dl)
	if runs := w.status(dl).Runs; len(runs) != 1 || runs[0].Phase != datav1alpha1.PhaseComplete {
		t.Errorf("write %d: runs %+v", n, runs)
	}
	first := w.migrate("first", false)
	until(func() string {
		if len(w.jobs(first)) == 0 {
			return "no job of first"
		}
		return ""
	})
	second := w.migrate("second", false)
	until(func() string {
		if len(w.jobs(second)) > 0 {
			t.Fatalf("write %d: both run", n)
		}
		if w.status(second).Phase != datav1alpha1.PhasePending {
			return "second does not wait"
		}
		return ""
	})
	finish(first)
	finish(second)
	return died
}
