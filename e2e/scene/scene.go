// Package scene sets Millrace and its storage up on a cluster, for the demo and
// for the end-to-end suite, and gives both the same few verbs.
package scene

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	cachev1alpha1 "github.com/millrace/millrace/apis/cache/v1alpha1"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

//go:embed manifests/*.yaml
var manifests embed.FS

// Scene is a cluster with Millrace on it.
type Scene struct {
	client.Client
	Kube       kubernetes.Interface
	Config     *rest.Config
	Kubeconfig string
	// Bin is the directory with kubectl and helm.
	Bin string
}

// Open reads a kubeconfig.
func Open(kubeconfig, bin string) (*Scene, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", kubeconfig, err)
	}
	cfg.QPS, cfg.Burst = 50, 100
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, datav1alpha1.AddToScheme, cachev1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("build scheme: %w", err)
		}
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("open cluster: %w", err)
	}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("open cluster: %w", err)
	}
	return &Scene{Client: c, Kube: kube, Config: cfg, Kubeconfig: kubeconfig, Bin: bin}, nil
}

// Manifest is the text of one of the scene's manifests, with $NAME replaced
// from the pairs of names and values.
func Manifest(name string, replace ...string) string {
	text, err := manifests.ReadFile("manifests/" + name + ".yaml")
	if err != nil {
		panic(err) // the name is a constant of ours
	}
	return strings.NewReplacer(replace...).Replace(string(text))
}

// Decode splits a manifest into its objects; those without a namespace get one.
func (s *Scene) Decode(namespace, manifest string) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	docs := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096)
	for {
		obj := &unstructured.Unstructured{}
		if err := docs.Decode(obj); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, fmt.Errorf("decode manifest: %w", err)
		}
		if len(obj.Object) == 0 {
			continue
		}
		namespaced, err := s.IsObjectNamespaced(obj)
		if err != nil {
			return nil, fmt.Errorf("look up kind %s: %w", obj.GetKind(), err)
		}
		if namespaced && obj.GetNamespace() == "" {
			obj.SetNamespace(namespace)
		}
		out = append(out, obj)
	}
}

// Apply is kubectl apply --server-side of a manifest.
func (s *Scene) Apply(ctx context.Context, namespace, manifest string) error {
	objects, err := s.Decode(namespace, manifest)
	if err != nil {
		return err
	}
	for _, obj := range objects {
		if err := s.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(obj), client.FieldOwner("kubectl"), client.ForceOwnership); err != nil {
			return fmt.Errorf("apply %s %s: %w", obj.GetKind(), obj.GetName(), err)
		}
	}
	return nil
}

// Remove deletes the objects of a manifest and waits until they are gone.
func (s *Scene) Remove(ctx context.Context, namespace, manifest string) error {
	objects, err := s.Decode(namespace, manifest)
	if err != nil {
		return err
	}
	for _, obj := range objects {
		if err := s.Delete(ctx, obj); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete %s %s: %w", obj.GetKind(), obj.GetName(), err)
		}
	}
	for _, obj := range objects {
		if err := s.Gone(ctx, obj); err != nil {
			return err
		}
	}
	return nil
}

// Gone waits until an object does not exist any more.
func (s *Scene) Gone(ctx context.Context, obj client.Object) error {
	return s.until(ctx, func() (string, bool, error) {
		err := s.Get(ctx, client.ObjectKeyFromObject(obj), obj)
		if apierrors.IsNotFound(err) {
			return "", true, nil
		}
		return fmt.Sprintf("%T %s still exists with finalizers %v", obj, obj.GetName(), obj.GetFinalizers()), false, err
	})
}

// Until waits until obj exists and ok says yes; the error of a timeout carries
// what ok said last.
func (s *Scene) Until(ctx context.Context, obj client.Object, ok func() (string, bool)) error {
	key := client.ObjectKeyFromObject(obj)
	return s.until(ctx, func() (string, bool, error) {
		if err := s.Get(ctx, key, obj); apierrors.IsNotFound(err) {
			return fmt.Sprintf("%T %s does not exist", obj, key), false, nil
		} else if err != nil {
			return "", false, err
		}
		saw, done := ok()
		return fmt.Sprintf("%T %s: %s", obj, key, saw), done, nil
	})
}

// until looks again every 200 ms: this is what a user with kubectl sees, and
// tests must not share the watches of what they test.
func (s *Scene) until(ctx context.Context, look func() (saw string, done bool, err error)) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	last := "nothing seen yet"
	for {
		saw, done, err := look()
		if done && err == nil {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			saw = err.Error()
		}
		if saw != "" && ctx.Err() == nil {
			last = saw
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last seen: %s", ctx.Err(), last)
		case <-tick.C:
		}
	}
}

// PodEnds waits until a pod has ended well, and gives its log and its node.
func (s *Scene) PodEnds(ctx context.Context, namespace, name string) (log, node string, err error) {
	pod := &corev1.Pod{}
	pod.Namespace, pod.Name = namespace, name
	if err := s.Until(ctx, pod, func() (string, bool) {
		return describePod(pod), pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	}); err != nil {
		return "", pod.Spec.NodeName, fmt.Errorf("wait for pod %s to end: %w", name, err)
	}
	raw, err := s.Kube.CoreV1().Pods(namespace).GetLogs(name, &corev1.PodLogOptions{Container: pod.Spec.Containers[0].Name}).DoRaw(ctx)
	if err != nil {
		return "", pod.Spec.NodeName, fmt.Errorf("read log of pod %s: %w", name, err)
	}
	if pod.Status.Phase == corev1.PodFailed {
		return string(raw), pod.Spec.NodeName, fmt.Errorf("pod %s failed: %s: %s", name, describePod(pod), raw)
	}
	return string(raw), pod.Spec.NodeName, nil
}

func describePod(pod *corev1.Pod) string {
	out := string(pod.Status.Phase) + " " + pod.Status.Message
	for _, c := range pod.Status.Conditions {
		if c.Status != corev1.ConditionTrue && c.Message != "" {
			out += "; " + c.Message
		}
	}
	for _, cs := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		if w := cs.State.Waiting; w != nil {
			out += fmt.Sprintf("; %s waits: %s %s", cs.Name, w.Reason, w.Message)
		}
		if t := cs.State.Terminated; t != nil && t.ExitCode != 0 {
			out += fmt.Sprintf("; %s exited %d: %s", cs.Name, t.ExitCode, t.Message)
		}
	}
	return out
}

// JobEnds waits until a Job is complete and gives the log of its pod.
func (s *Scene) JobEnds(ctx context.Context, namespace, name string) (log string, err error) {
	job := &batchv1.Job{}
	job.Namespace, job.Name = namespace, name
	if err := s.Until(ctx, job, func() (string, bool) {
		return fmt.Sprintf("active %d, succeeded %d, failed %d", job.Status.Active, job.Status.Succeeded, job.Status.Failed),
			job.Status.Succeeded > 0 || job.Status.Failed > 0 && job.Status.Active == 0
	}); err != nil {
		return "", fmt.Errorf("wait for job %s to end: %w%s", name, err, s.podsOfJob(namespace, name))
	}
	pods := &corev1.PodList{}
	if err := s.List(ctx, pods, client.InNamespace(namespace), client.MatchingLabels{"job-name": name}); err != nil {
		return "", fmt.Errorf("list pods of job %s: %w", name, err)
	}
	for _, pod := range pods.Items {
		raw, err := s.Kube.CoreV1().Pods(namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: pod.Spec.Containers[0].Name}).DoRaw(ctx)
		if err != nil {
			return "", fmt.Errorf("read log of pod %s: %w", pod.Name, err)
		}
		log += string(raw)
	}
	if job.Status.Succeeded == 0 {
		return log, fmt.Errorf("job %s failed: %s", name, log)
	}
	return log, nil
}

func (s *Scene) podsOfJob(namespace, name string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	pods := &corev1.PodList{}
	if err := s.List(ctx, pods, client.InNamespace(namespace), client.MatchingLabels{"job-name": name}); err != nil {
		return ""
	}
	out := ""
	for _, pod := range pods.Items {
		out += "; pod " + pod.Name + ": " + describePod(&pod)
	}
	return out
}

// Kubectl runs kubectl against the cluster and gives what it printed.
func (s *Scene) Kubectl(ctx context.Context, args ...string) (string, error) {
	return run(ctx, s.Bin+"/kubectl", append([]string{"--kubeconfig", s.Kubeconfig}, args...)...)
}

func run(ctx context.Context, name string, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("run %s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}
