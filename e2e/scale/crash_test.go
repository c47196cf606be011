package scale

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	cachev1alpha1 "github.com/millrace/millrace/apis/cache/v1alpha1"
	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

const patience = 2 * time.Minute // for one thing, while the manager dies all the time

// crasher keeps a manager running, and kills it behind every write that changed
// something while it is told to.
type crasher struct {
	t       *testing.T
	stand   *Stand
	door    *Door
	mu      sync.Mutex
	cmd     *exec.Cmd
	stopped bool
	crashes int
	wg      sync.WaitGroup
}

func newCrasher(t *testing.T, s *Stand, kills bool) *crasher {
	c := &crasher{t: t, stand: s}
	door, err := NewDoor(s.Config, func(Write) {
		if kills {
			c.kill()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	c.door = door
	c.wg.Go(c.keep)
	t.Cleanup(c.stop)
	return c
}

// keep starts a manager whenever there is none.
func (c *crasher) keep() {
	for {
		c.mu.Lock()
		if c.stopped {
			c.mu.Unlock()
			return
		}
		cmd, err := c.stand.Manager(c.door.URL)
		if err != nil {
			c.mu.Unlock()
			c.t.Error(err)
			return
		}
		c.cmd = cmd
		c.mu.Unlock()
		_ = cmd.Wait()
		if !cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
			c.t.Errorf("the manager ended by itself: %v", cmd.ProcessState)
			return
		}
	}
}

func (c *crasher) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd != nil {
		_ = c.cmd.Process.Kill()
		c.crashes++
	}
}

func (c *crasher) stop() {
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return
	}
	c.stopped = true
	if c.cmd != nil {
		_ = c.cmd.Process.Kill()
	}
	c.mu.Unlock()
	c.wg.Wait()
	c.door.Close()
}

func eventually(t *testing.T, what string, ask func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// life is what happens to two Datasets, from their making to their end. It
// gives what there is at its still points.
func life(t *testing.T, s *Stand) (stills []map[string]any) {
	const namespace = "life" // always: its name is in hashes
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: namespace, Name: name} }
	becomes := func(name string, phase datav1alpha1.DatasetPhase, cached string) {
		t.Helper()
		eventually(t, name+" becomes "+string(phase), func(ctx context.Context) error {
			ds := &datav1alpha1.Dataset{}
			if err := s.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, ds); err != nil {
				return err
			}
			if ds.Status.Phase != phase || ds.Status.CacheStates["cachedPercentage"] != cached {
				return fmt.Errorf("it is %s, %v, %+v", ds.Status.Phase, ds.Status.CacheStates, ds.Status.Conditions)
			}
			return nil
		})
	}
	says := func(name string, total, cached int64) {
		s.Masters.Say(types.NamespacedName{Namespace: namespace, Name: name}, func(sum *contract.Summary) {
			sum.UFSTotalBytes, sum.CachedBytes, sum.FileNum, sum.CapacityBytes = total, cached, 3, 1<<30
			sum.Workers = []contract.WorkerSummary{{Name: name + "-worker-0", Node: "node-0", CapacityBytes: 1 << 30, UsedBytes: cached, CachedBytes: cached, Complete: cached == total}}
		})
	}
	cacheRuntime := func() *datav1alpha1.CacheRuntime {
		rt := &datav1alpha1.CacheRuntime{ObjectMeta: meta("one"), Spec: datav1alpha1.CacheRuntimeSpec{RuntimeClassName: contract.NativeClass}}
		rt.Spec.Worker.Replicas = 1
		rt.Spec.Worker.TieredStore.Levels = []datav1alpha1.CacheLevel{{EmptyDir: &datav1alpha1.EmptyDirTier{Quota: resource.MustParse("1Gi")}}}
		return rt
	}
	must(s.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}))
	must(s.Create(ctx, &corev1.Secret{ObjectMeta: meta("keys"), StringData: map[string]string{"access": "a", "secret": "b"}}))
	for name, path := range map[string]string{"one": "s3://bucket-one", "two": "s3://bucket-two"} {
		must(s.Create(ctx, &datav1alpha1.Dataset{ObjectMeta: meta(name), Spec: datav1alpha1.DatasetSpec{Mounts: []datav1alpha1.Mount{{
			MountPoint: path, Name: "bucket", Path: "/",
			EncryptOptions: []datav1alpha1.EncryptOption{
				{Name: "aws.accessKeyId", ValueFrom: datav1alpha1.EncryptOptionSource{SecretKeyRef: datav1alpha1.SecretKeySelector{Name: "keys", Key: "access"}}},
				{Name: "aws.secretKey", ValueFrom: datav1alpha1.EncryptOptionSource{SecretKeyRef: datav1alpha1.SecretKeySelector{Name: "keys", Key: "secret"}}},
			},
		}}}}))
	}
	quota := resource.MustParse("1Gi")
	two := &datav1alpha1.AlluxioRuntime{ObjectMeta: meta("two")}
	two.Spec.Replicas = 1
	two.Spec.TieredStore.Levels = []datav1alpha1.Level{{MediumType: datav1alpha1.Memory, Path: "/dev/shm", Quota: &quota, High: "0.95", Low: "0.7"}}
	must(s.Create(ctx, cacheRuntime()))
	must(s.Create(ctx, two))
	for _, name := range []string{"one", "two"} {
		becomes(name, datav1alpha1.BoundDatasetPhase, "0.0%")
		says(name, 1000, 1000)
		becomes(name, datav1alpha1.BoundDatasetPhase, "100.0%")
	}
	still := func() {
		t.Helper()
		stills = append(stills, settled(t, s, namespace))
	}
	still()

	scaled := cacheRuntime()
	must(s.Patch(ctx, scaled, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"worker":{"replicas":2}}}`))))
	eventually(t, "the workers are two", func(ctx context.Context) error {
		set := &appsv1.StatefulSet{}
		if err := s.Get(ctx, types.NamespacedName{Namespace: namespace, Name: "one-worker"}, set); err != nil {
			return err
		}
		if set.Status.ReadyReplicas != 2 {
			return fmt.Errorf("%d of %d are ready", set.Status.ReadyReplicas, *set.Spec.Replicas)
		}
		return nil
	})
	still()

	gone := func(obj client.Object) {
		t.Helper()
		eventually(t, fmt.Sprintf("%T %s is gone", obj, obj.GetName()), func(ctx context.Context) error {
			if err := s.Get(ctx, client.ObjectKeyFromObject(obj), obj); apierrors.IsNotFound(err) {
				return nil
			} else if err != nil {
				return err
			}
			return fmt.Errorf("it is there, with finalizers %v", obj.GetFinalizers())
		})
	}
	must(s.Delete(ctx, scaled))
	gone(scaled)
	becomes("one", datav1alpha1.NotBoundDatasetPhase, "")
	still()
	must(s.Create(ctx, cacheRuntime()))
	becomes("one", datav1alpha1.BoundDatasetPhase, "100.0%")

	for _, name := range []string{"one", "two"} {
		ds := &datav1alpha1.Dataset{ObjectMeta: meta(name)}
		must(s.Delete(ctx, ds))
		gone(ds)
		s.Masters.Restart(types.NamespacedName{Namespace: namespace, Name: name})
	}
	for _, rt := range []client.Object{&datav1alpha1.CacheRuntime{ObjectMeta: meta("one")}, &datav1alpha1.AlluxioRuntime{ObjectMeta: meta("two")}} {
		must(client.IgnoreNotFound(s.Delete(ctx, rt)))
		gone(rt)
	}
	still()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	must(s.Delete(ctx, ns))
	gone(ns)
	return stills
}

// settled gives the objects of a namespace, and those of the cluster that are
// its, when nothing has changed for a while.
func settled(t *testing.T, s *Stand, namespace string) (objects map[string]any) {
	t.Helper()
	last := ""
	since := time.Now()
	eventually(t, "it is still", func(ctx context.Context) error {
		var versions string
		var err error
		if objects, versions, err = look(ctx, s, namespace); err != nil {
			return err
		}
		if versions != last {
			last, since = versions, time.Now()
		}
		if time.Since(since) < 3*time.Second {
			return fmt.Errorf("it changes: %s", versions)
		}
		return nil
	})
	return objects
}

var random = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

// look reads what a manager makes, without what differs from life to life.
func look(ctx context.Context, s *Stand, namespace string) (objects map[string]any, versions string, err error) {
	objects = map[string]any{}
	var all []string
	for _, list := range []client.ObjectList{
		&datav1alpha1.DatasetList{}, &datav1alpha1.CacheRuntimeList{}, &datav1alpha1.AlluxioRuntimeList{}, &cachev1alpha1.LocalitySliceList{},
		&appsv1.StatefulSetList{}, &appsv1.DaemonSetList{}, &corev1.ServiceList{}, &corev1.ConfigMapList{}, &corev1.PersistentVolumeClaimList{},
		&corev1.PodList{}, &corev1.PersistentVolumeList{}, &corev1.NodeList{},
	} {
		if err := s.List(ctx, list); err != nil {
			return nil, "", err
		}
		data, err := json.Marshal(list)
		if err != nil {
			return nil, "", err
		}
		var items struct{ Items []map[string]any }
		if err := json.Unmarshal(data, &items); err != nil {
			return nil, "", err
		}
		for _, item := range items.Items {
			meta := item["metadata"].(map[string]any)
			text, err := json.Marshal(item)
			if err != nil {
				return nil, "", err
			}
			if ns, ok := meta["namespace"]; ok && ns != namespace {
				continue
			}
			name := fmt.Sprintf("%T %v", list, meta["name"])
			if !strings.Contains(string(text), namespace) && !strings.Contains(name, "Node") {
				continue
			}
			all = append(all, name+fmt.Sprint(meta["resourceVersion"]))
			if strings.Contains(name, "PodList") || strings.Contains(name, "kube-root-ca") {
				continue // not the manager's
			}
			for _, field := range []string{"uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"} {
				delete(meta, field)
			}
			objects[name] = unlike(item)
		}
	}
	slices.Sort(all)
	return objects, strings.Join(all, " "), nil
}

// unlike takes out of an object what differs from life to life.
func unlike(in any) any {
	switch v := in.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, value := range v {
			switch {
			case strings.Contains(strings.ToLower(name), "time"), name == "resourceVersion", name == "uid", name == "observedGeneration",
				name == "clusterIP", name == "clusterIPs", name == "setupDuration":
			default:
				out[name] = unlike(value)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = unlike(v[i])
		}
		return out
	case string:
		return random.ReplaceAllString(v, "UID")
	}
	return in
}

// TestACrashBehindEveryWriteChangesNothing has the manager killed with SIGKILL
// behind every single write that changes anything, and compares what there is
// in the end with what there is when nobody is killed.
func TestACrashBehindEveryWriteChangesNothing(t *testing.T) {
	// Of four nodes each worker gets one of its own, as it would from a
	// scheduler that knows that the Datasets are exclusive.
	s := open(t, 4)
	calm := newCrasher(t, s, false)
	want := life(t, s)
	calm.stop()
	storm := newCrasher(t, s, true)
	got := life(t, s)
	storm.stop()
	for i := range want {
		if diff := cmp.Diff(want[i], got[i]); diff != "" {
			t.Errorf("still point %d (-calm +crashes):\n%s", i, diff)
		}
	}
	if n := len(calm.door.Changes()); storm.crashes < n/2 {
		t.Errorf("%d crashes, though %d writes changed something without them", storm.crashes, n)
	}
	t.Logf("%d writes changed something without crashes, %d with %d crashes", len(calm.door.Changes()), len(storm.door.Changes()), storm.crashes)
}

func open(t *testing.T, nodes int) *Stand {
	t.Helper()
	tree, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), tree, t.TempDir(), nodes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.Command("tail", "-n", "40", filepath.Join(s.dir, "manager.log")).Output()
			t.Logf("the manager's log ends:\n%s", out)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
