package scale

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// Storm is what one manager did with many Datasets that came at once.
type Storm struct {
	Datasets int
	// Bound is how long it took until all were.
	Bound time.Duration
	// Writes of the manager until then, and those of Rest, a time in which
	// nothing changed.
	Writes, AtRest int64
	Rest           time.Duration
	// Moved is how long it took until all statuses showed new numbers, and the
	// writes that this cost.
	Moved       time.Duration
	MovedWrites int64
	// PeakBytes is the most memory that the manager was resident in.
	PeakBytes int64
	// Processor is the time that it used.
	Processor time.Duration
}

// Run makes n Datasets with a runtime each, waits until all are Bound, rests,
// has every cache say other numbers, and waits until all say so. Deleting them
// is left to the end of the Stand.
func (s *Stand) Run(ctx context.Context, n int, rest time.Duration, say func(string, ...any)) (_ *Storm, err error) {
	door, err := NewDoor(s.Config, nil)
	if err != nil {
		return nil, err
	}
	defer door.Close()
	cmd, err := s.Manager(door.URL)
	if err != nil {
		return nil, err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	storm := &Storm{Datasets: n, Rest: rest}
	began := time.Now()
	if err := s.makeDatasets(ctx, n); err != nil {
		return nil, err
	}
	say("%d Datasets are made: %s", n, time.Since(began).Round(time.Second))
	bound := func(ds *datav1alpha1.Dataset) bool { return ds.Status.Phase == datav1alpha1.BoundDatasetPhase }
	if err := s.await(ctx, n, "Bound", bound, say); err != nil {
		return nil, err
	}
	storm.Bound = time.Since(began)
	if err := still(ctx, door); err != nil {
		return nil, err
	}
	storm.Writes = door.Writes()
	say("bound after %s with %d writes; now rest", storm.Bound.Round(time.Second), storm.Writes)
	select {
	case <-time.After(rest):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	storm.AtRest = door.Writes() - storm.Writes
	before := door.Writes()
	began = time.Now()
	for i := range n {
		s.Masters.Say(key(i), func(sum *contract.Summary) { sum.CachedBytes = sum.UFSTotalBytes })
	}
	cached := func(ds *datav1alpha1.Dataset) bool { return ds.Status.CacheStates["cachedPercentage"] == "100.0%" }
	if err := s.await(ctx, n, "cached", cached, say); err != nil {
		return nil, err
	}
	storm.Moved = time.Since(began)
	if err := still(ctx, door); err != nil {
		return nil, err
	}
	storm.MovedWrites = door.Writes() - before
	storm.PeakBytes, storm.Processor, err = usage(cmd)
	return storm, err
}

func key(i int) types.NamespacedName {
	return types.NamespacedName{Namespace: fmt.Sprintf("storm-%d", i%50), Name: fmt.Sprintf("data-%d", i)}
}

func (s *Stand) makeDatasets(ctx context.Context, n int) error {
	for i := range min(n, 50) {
		if err := s.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: key(i).Namespace}}); err != nil {
			return err
		}
	}
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for w := range errs {
		wg.Go(func() {
			for i := w; i < n; i += len(errs) {
				meta := metav1.ObjectMeta{Namespace: key(i).Namespace, Name: key(i).Name}
				rt := &datav1alpha1.CacheRuntime{ObjectMeta: meta, Spec: datav1alpha1.CacheRuntimeSpec{RuntimeClassName: contract.NativeClass}}
				rt.Spec.Worker.Replicas = 1
				rt.Spec.Worker.TieredStore.Levels = []datav1alpha1.CacheLevel{{EmptyDir: &datav1alpha1.EmptyDirTier{Quota: resource.MustParse("1Gi")}}}
				ds := &datav1alpha1.Dataset{ObjectMeta: meta, Spec: datav1alpha1.DatasetSpec{
					Mounts: []datav1alpha1.Mount{{MountPoint: fmt.Sprintf("s3://bucket-%d", i), Name: "bucket", Path: "/"}}, PlacementMode: datav1alpha1.ShareMode}}
				if errs[w] = errors.Join(s.Create(ctx, ds), s.Create(ctx, rt)); errs[w] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// await waits until n Datasets are as they are to be.
func (s *Stand) await(ctx context.Context, n int, what string, is func(*datav1alpha1.Dataset) bool, say func(string, ...any)) error {
	for told := time.Now(); ; {
		list := &datav1alpha1.DatasetList{}
		if err := s.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return err
		}
		count := 0
		for i := range list.Items {
			if is(&list.Items[i]) {
				count++
			}
		}
		if count == n {
			return nil
		}
		if time.Since(told) > 10*time.Second {
			say("%d of %d are %s", count, n, what)
			told = time.Now()
		}
		select {
		case <-time.After(min(time.Second, 50*time.Millisecond+time.Duration(n)*200*time.Microsecond)):
		case <-ctx.Done():
			return fmt.Errorf("%d of %d are %s: %w", count, n, what, ctx.Err())
		}
	}
}

// still waits until a manager has written nothing for three seconds.
func still(ctx context.Context, door *Door) error {
	for last, since := door.Writes(), time.Now(); time.Since(since) < 3*time.Second; {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("it writes and writes: %w", ctx.Err())
		}
		if now := door.Writes(); now != last {
			last, since = now, time.Now()
		}
	}
	return nil
}

// usage reads a process's peak of memory and the time of the processor that it used.
func usage(cmd *exec.Cmd) (peak int64, used time.Duration, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kib), "kB")), 10, 64)
			if err != nil {
				return 0, 0, fmt.Errorf("read %s/status: %w", dir, err)
			}
			peak = n << 10
		}
	}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return 0, 0, err
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(after)
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return peak, time.Duration(user+system) * 10 * time.Millisecond, nil // in USER_HZ, which is 100
}
