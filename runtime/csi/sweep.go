package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// sweeper clears what pods leave behind below the mount root: a FUSE whose
// server is dead and which no pod of this node claims any more, and the
// directories of sidecars that are gone. It runs at start and when a pod that
// had a directory there ends.
type sweeper struct {
	client kubernetes.Interface
	node   string
	root   string
	probes *prober
	log    *slog.Logger
	m      *metrics
	ready  atomic.Bool
}

func newSweeper(c Config, probes *prober, m *metrics) *sweeper {
	return &sweeper{client: c.Client, node: c.NodeName, root: c.MountRoot, probes: probes, log: c.Logger, m: m}
}

// Waits between sweeps that found something which is no one's but still lives.
const (
	sweepRetry    = time.Second
	sweepRetryMax = 5 * time.Minute
)

func (s *sweeper) synced() bool { return s.ready.Load() }

func (s *sweeper) run(ctx context.Context) error {
	const key = "sweep"
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](sweepRetry, sweepRetryMax))
	stopQueue := context.AfterFunc(ctx, queue.ShutDown)
	defer stopQueue()

	factory := informers.NewSharedInformerFactoryWithOptions(s.client, 0,
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = s.ofThisNode() }),
		informers.WithTransform(trim))
	pods := factory.Core().V1().Pods().Informer()
	_, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(former, now any) {
			if pod := now.(*corev1.Pod); ended(pod) && !ended(former.(*corev1.Pod)) && len(s.claims(pod)) > 0 {
				queue.Add(key)
			}
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if pod, ok := obj.(*corev1.Pod); ok && len(s.claims(pod)) > 0 {
				queue.Add(key)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), pods.HasSynced) {
		return nil // ctx has ended
	}
	s.ready.Store(true)
	queue.Add(key)
	for {
		item, shutdown := queue.Get()
		if shutdown {
			return nil
		}
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("sweep", "err", err)
			queue.AddRateLimited(item)
		} else {
			queue.Forget(item)
		}
		queue.Done(item)
	}
}

func (s *sweeper) ofThisNode() string {
	return fields.OneTermEqualSelector("spec.nodeName", s.node).String()
}

// trim keeps of a pod what the sweep looks at.
func trim(obj any) (any, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil
	}
	slim := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, ResourceVersion: pod.ResourceVersion},
		Status:     corev1.PodStatus{Phase: pod.Status.Phase},
	}
	slim.Spec.NodeName = pod.Spec.NodeName
	for _, v := range pod.Spec.Volumes {
		if v.HostPath != nil {
			slim.Spec.Volumes = append(slim.Spec.Volumes, v)
		}
	}
	return slim, nil
}

// ended: every container has stopped for good.
func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// claims are the pod's host paths that belong to one runtime:
// <root>/<type>/<ns>/<name>[/…]. Higher ones, such as our own, claim nothing.
func (s *sweeper) claims(pod *corev1.Pod) (paths []string) {
	for _, v := range pod.Spec.Volumes {
		if v.HostPath == nil {
			continue
		}
		path := filepath.Clean(v.HostPath.Path)
		if below(path, s.root) && strings.Count(strings.TrimPrefix(path, s.root), "/") >= 3 {
			paths = append(paths, path)
		}
	}
	return paths
}

// sweep clears once. An error means that something could not be cleared yet.
func (s *sweeper) sweep(ctx context.Context) error {
	// What may be swept is listed before the pods are: a pod is known to the
	// API server before the kubelet makes a directory for it, so a directory
	// that is here already belongs to a pod of the later list, or to none.
	all, err := mounts(s.root, true)
	if err != nil {
		return err
	}
	fuses := map[string]bool{}
	for _, m := range all {
		if isFUSE(m) {
			fuses[m.Mountpoint] = true
		}
	}
	dirs, err := filepath.Glob(filepath.Join(s.root, "*", "*", "*", "pods", "*"))
	if err != nil {
		return err
	}
	if len(fuses)+len(dirs) == 0 {
		return nil
	}
	list, err := s.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: s.ofThisNode()})
	if err != nil {
		return fmt.Errorf("list the pods of node %s: %w", s.node, err)
	}
	var claims []string
	for i := range list.Items {
		if pod := &list.Items[i]; !ended(pod) {
			claims = append(claims, s.claims(pod)...)
		}
	}
	claimed := func(path string) bool {
		for _, c := range claims {
			if c == path || below(path, c) || below(c, path) {
				return true
			}
		}
		return false
	}

	var problems []error
	for path := range fuses {
		if !claimed(path) {
			problems = append(problems, s.sweepMount(ctx, path))
		}
	}
	for _, dir := range dirs {
		if !claimed(dir) {
			problems = append(problems, s.sweepDir(dir))
		}
	}
	return errors.Join(problems...)
}

// sweepMount takes a dead FUSE away. One that lives is left to its server: the
// pod may have been deleted by force while its containers still end.
func (s *sweeper) sweepMount(ctx context.Context, path string) error {
	_, err := s.probes.statfs(ctx, path)
	if err == nil {
		return fmt.Errorf("the FUSE at %s is of no pod, but still served", path)
	}
	if !dead(err) {
		return fmt.Errorf("the FUSE at %s is of no pod, but may live: %w", path, err)
	}
	if err := detachAll(path); err != nil {
		return err
	}
	s.m.swept.Inc()
	s.log.Info("took away the dead FUSE of a pod that is gone", "path", path)
	return nil
}

// sweepDir removes the directory of a sidecar that is gone, and the empty mount
// points in it. Its name is the pod's alone, so nobody needs it again.
func (s *sweeper) sweepDir(dir string) error {
	if inside, err := mounts(dir, true); err != nil || len(inside) > 0 {
		return err // sweepMount has said why
	}
	points, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, p := range points {
		if p.IsDir() {
			if err := os.Remove(filepath.Join(dir, p.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
