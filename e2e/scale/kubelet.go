package scale

import (
	"context"
	"fmt"
	"hash/fnv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/millrace/millrace/apis/contract"
)

// kubelet stands in for the scheduler and all kubelets: a pod has a node and
// runs as soon as it is there, and is gone as soon as it is deleted.
type kubelet struct {
	kube    kubernetes.Interface
	masters *Masters
	nodes   int
	queue   workqueue.TypedRateLimitingInterface[types.NamespacedName]
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

func startKubelet(config *rest.Config, masters *Masters, nodes int) (*kubelet, error) {
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("open API server: %w", err)
	}
	k := &kubelet{kube: kube, masters: masters, nodes: nodes,
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[types.NamespacedName]())}
	ctx, cancel := context.WithCancel(context.Background())
	k.cancel = cancel
	factory := informers.NewSharedInformerFactory(kube, 0)
	pods := factory.Core().V1().Pods()
	see := func(obj any) {
		if pod, ok := obj.(*corev1.Pod); ok {
			k.queue.Add(types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
		}
	}
	if _, err := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: see, UpdateFunc: func(_, obj any) { see(obj) }}); err != nil {
		cancel()
		return nil, err
	}
	factory.Start(ctx.Done())
	for range 8 {
		k.wg.Go(func() {
			for {
				key, done := k.queue.Get()
				if done {
					return
				}
				pod, err := pods.Lister().Pods(key.Namespace).Get(key.Name)
				if err == nil {
					err = k.tend(ctx, pod)
				}
				if err != nil && !apierrors.IsNotFound(err) {
					k.queue.AddRateLimited(key)
				} else {
					k.queue.Forget(key)
				}
				k.queue.Done(key)
			}
		})
	}
	k.wg.Go(func() {
		<-ctx.Done()
		factory.Shutdown()
		k.queue.ShutDown()
	})
	return k, nil
}

func (k *kubelet) stop() {
	k.cancel()
	k.wg.Wait()
}

// tend brings a pod one step further.
func (k *kubelet) tend(ctx context.Context, pod *corev1.Pod) error {
	pods := k.kube.CoreV1().Pods(pod.Namespace)
	switch {
	case pod.DeletionTimestamp != nil && pod.Status.Phase == corev1.PodRunning:
		// A pod has ended before it goes: the Jobs' controller waits for that.
		pod = pod.DeepCopy()
		pod.Status.Phase = corev1.PodFailed
		_, err := pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
		return err
	case pod.DeletionTimestamp != nil:
		var now int64
		return pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	case pod.Spec.NodeName == "":
		h := fnv.New32a()
		_, _ = h.Write([]byte(pod.Namespace + "/" + pod.Name))
		return pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
			Target: corev1.ObjectReference{Kind: "Node", Name: fmt.Sprintf("node-%d", h.Sum32()%uint32(k.nodes))}}, metav1.CreateOptions{})
	case pod.Status.Phase != corev1.PodPending && pod.Status.Phase != "":
		return nil
	}
	ip := "127.76.0.1"
	if strings.HasSuffix(pod.Labels[contract.LabelComponent], "-master") {
		var err error
		if ip, err = k.masters.address(types.NamespacedName{Namespace: pod.Namespace, Name: pod.Labels[contract.LabelCacheRuntime]}); err != nil {
			return err
		}
	}
	pod = pod.DeepCopy()
	now := metav1.NewTime(time.Now())
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, HostIP: "127.76.0.1", StartTime: &now,
		Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: now},
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now},
			{Type: corev1.ContainersReady, Status: corev1.ConditionTrue, LastTransitionTime: now},
		}}
	for _, c := range pod.Spec.Containers {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Ready: true, Image: c.Image, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}})
	}
	_, err := pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return err
}
