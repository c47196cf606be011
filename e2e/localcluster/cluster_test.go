package localcluster_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	intstrutil "k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/millrace/millrace/e2e/localcluster"
)

func outDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../out")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func clean(t *testing.T, out, name string, index int) {
	t.Helper()
	left, err := localcluster.Leftovers(context.Background(), out, name, index)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind by cluster %s: %q, %v", name, left, err)
	}
}

func TestAClusterOfTwoNodes(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	out := outDir(t)
	began := time.Now()
	c, err := localcluster.Start(ctx, localcluster.Config{Name: "self-test", OutDir: out, Log: os.Stderr, Images: []string{filepath.Join(out, "images", "stage.tar")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("up in %s", time.Since(began))
	t.Cleanup(func() {
		if err := c.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		clean(t, out, "self-test", c.Index())
	})
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{ctx: ctx, c: c, kube: kube}
	first, second := c.Nodes()[0], c.Nodes()[1]
	t.Run("pods of two nodes talk through a Service by its DNS name", func(t *testing.T) {
		h.t = t
		h.pod("web", first, false, "mkdir -p /tmp/w; echo hello from $(hostname) > /tmp/w/index.html; httpd -f -p 8080 -h /tmp/w")
		if _, err := kube.CoreV1().Services("default").Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "web"},
			Spec:       corev1.ServiceSpec{Selector: map[string]string{"name": "web"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr(8080)}}},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, node := range c.Nodes() {
			h.run("client-"+node, node, false, stageImage, "/bin/stage", "fetch", "http://web.default.svc.cluster.local")
			if log := h.ends("client-" + node); !strings.Contains(log, "hello from web") {
				t.Errorf("on %s: %q", node, log)
			}
		}
	})
	t.Run("a mount of one pod reaches another of its node", func(t *testing.T) {
		h.t = t
		h.pod("mounter", second, true, "mkdir -p /shared/m && mount -t tmpfs t /shared/m && echo seen > /shared/m/file && sleep 1000")
		h.pod("watcher", second, false, "until cat /shared/m/file; do sleep 0.2; done")
		if log := h.ends("watcher"); !strings.Contains(log, "seen") {
			t.Errorf("log %q", log)
		}
	})
	t.Run("a node that is cut off is missed and heals", func(t *testing.T) {
		h.t = t
		if err := c.CutNode(ctx, second); err != nil {
			t.Fatal(err)
		}
		h.ready(second, false)
		if err := c.HealNode(ctx, second); err != nil {
			t.Fatal(err)
		}
		h.ready(second, true)
	})
	t.Run("a node that is killed comes back with its disk", func(t *testing.T) {
		h.t = t
		mark := filepath.Join(c.NodeRoot(second), "var", "mark")
		if err := os.WriteFile(mark, []byte("kept"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := c.KillNode(second); err != nil {
			t.Fatal(err)
		}
		h.ready(second, false)
		if err := c.StartNode(ctx, second); err != nil {
			t.Fatal(err)
		}
		h.ready(second, true)
		if text, err := c.Exec(ctx, second, "/usr/bin/cat", "/var/mark"); err != nil || text != "kept" {
			t.Errorf("mark %q, %v", text, err)
		}
		h.pod("after", second, false, "echo again")
		h.ends("after")
	})
}

func TestAStartThatIsKilledIsCleanedByDown(t *testing.T) {
	out := outDir(t)
	cmd := exec.Command(filepath.Join(out, "bin", "localcluster"), "--out", out, "--name", "half-made", "up")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: build it with `make build`", err)
	}
	buf := make([]byte, 64<<10)
	for seen := ""; !strings.Contains(seen, "control plane up"); {
		n, err := stderr.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, seen)
		}
		seen += string(buf[:n])
	}
	_ = cmd.Process.Signal(syscall.SIGKILL) // in the middle of starting its nodes
	_ = cmd.Wait()
	c, err := localcluster.Attach(out, "half-made")
	if err != nil {
		t.Fatal(err)
	}
	if err := localcluster.Down(t.Context(), out, "half-made"); err != nil {
		t.Fatal(err)
	}
	clean(t, out, "half-made", c.Index())
	if err := localcluster.Down(t.Context(), out, "half-made"); err != nil {
		t.Errorf("a second down: %v", err)
	}
}

type harness struct {
	t    *testing.T
	ctx  context.Context
	c    *localcluster.Cluster
	kube kubernetes.Interface
}

// stageImage has a client that resolves names; the static busybox has none.
const stageImage = "docker.io/local/stage:dev"

func (h *harness) pod(name, node string, privileged bool, script string) {
	h.t.Helper()
	h.run(name, node, privileged, "docker.io/local/busybox:dev", "/bin/sh", "-c", script)
}

func (h *harness) run(name, node string, privileged bool, image string, command ...string) {
	h.t.Helper()
	zero, propagation := int64(0), corev1.MountPropagationHostToContainer
	if privileged {
		propagation = corev1.MountPropagationBidirectional
	}
	_, err := h.kube.CoreV1().Pods("default").Create(h.ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": name}},
		Spec: corev1.PodSpec{
			NodeName: node, RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: &zero,
			Containers: []corev1.Container{{
				Name: "c", Image: image, ImagePullPolicy: corev1.PullIfNotPresent, Command: command,
				SecurityContext: &corev1.SecurityContext{Privileged: &privileged},
				Resources:       corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m")}},
				VolumeMounts:    []corev1.VolumeMount{{Name: "shared", MountPath: "/shared", MountPropagation: &propagation}},
			}},
			Volumes: []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv/shared", Type: hostPathType()}}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *harness) ends(name string) (log string) {
	h.t.Helper()
	h.until("pod "+name+" succeeds", func() (string, bool) {
		pod, err := h.kube.CoreV1().Pods("default").Get(h.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err.Error(), false
		}
		return fmt.Sprintf("%s %+v", pod.Status.Phase, pod.Status.ContainerStatuses), pod.Status.Phase == corev1.PodSucceeded
	})
	raw, err := h.kube.CoreV1().Pods("default").GetLogs(name, &corev1.PodLogOptions{}).DoRaw(h.ctx)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(raw)
}

func (h *harness) ready(name string, want bool) {
	h.t.Helper()
	h.until(fmt.Sprintf("node %s is ready: %v", name, want), func() (string, bool) {
		node, err := h.kube.CoreV1().Nodes().Get(h.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err.Error(), false
		}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady {
				return string(c.Status), (c.Status == corev1.ConditionTrue) == want
			}
		}
		return "no condition", false
	})
}

func (h *harness) until(what string, look func() (string, bool)) {
	h.t.Helper()
	saw := ""
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline) && h.ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		var done bool
		if saw, done = look(); done {
			return
		}
	}
	h.t.Fatalf("waited in vain until %s; last seen: %s", what, saw)
}

func intstr(port int) intstrutil.IntOrString { return intstrutil.FromInt32(int32(port)) }

func hostPathType() *corev1.HostPathType {
	t := corev1.HostPathDirectoryOrCreate
	return &t
}
