package localcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

func (c *Cluster) nodeNumber(name string) (int, error) {
	i := slices.Index(c.state.Nodes, name)
	if i < 0 {
		return 0, fmt.Errorf("cluster %s has no node %s, only %s", c.cfg.Name, name, strings.Join(c.state.Nodes, ", "))
	}
	return i + 1, nil
}

func (c *Cluster) nodeDir(name string) string { return filepath.Join(c.dir, "nodes", name) }

// NodeRoot is the directory on the host that is the node's root file system.
// What is mounted inside the node cannot be seen from here.
func (c *Cluster) NodeRoot(name string) string { return filepath.Join(c.nodeDir(name), "rootfs") }

// StartNode starts a node, or starts one again that was killed, on its old disk.
func (c *Cluster) StartNode(ctx context.Context, name string) error {
	number, err := c.nodeNumber(name)
	if err != nil {
		return err
	}
	if err := c.writeNodeFiles(number, name); err != nil {
		return fmt.Errorf("prepare node %s: %w", name, err)
	}
	if err := makeCgroups(c.plan.cgroup(number)); err != nil {
		return fmt.Errorf("prepare node %s: %w", name, err)
	}
	pid, goOn, err := c.spawnNode(name)
	if err != nil {
		return err
	}
	defer goOn.Close()
	// The node's first process waits until its network is there.
	return c.plan.connect(ctx, number, pid, len(c.state.Nodes))
}

// spawnNode starts the node's first process in new namespaces. It goes on when
// the returned pipe is closed.
func (c *Cluster) spawnNode(name string) (pid int, goOn *os.File, err error) {
	logs := filepath.Join(c.nodeDir(name), "files", "logs")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return 0, nil, err
	}
	log, err := os.OpenFile(filepath.Join(logs, "init.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, nil, err
	}
	defer log.Close()
	ready, goOn, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	defer ready.Close()
	cmd := exec.Command(c.bin("localcluster"), "node-init", filepath.Join(c.nodeDir(name), "files", "node.json"))
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{ready}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	if err := cmd.Start(); err != nil {
		goOn.Close()
		return 0, nil, fmt.Errorf("start node %s: %w", name, err)
	}
	go func() { _ = cmd.Wait() }()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.state.add(name, cmd.Process.Pid); err != nil {
		goOn.Close()
		return 0, nil, err
	}
	return cmd.Process.Pid, goOn, nil
}

// KillNode ends every process of a node at once, as a power failure does.
func (c *Cluster) KillNode(name string) error {
	c.mu.Lock()
	p, ok := c.state.process(name)
	c.mu.Unlock()
	if !ok {
		return fmt.Errorf("node %s does not run", name)
	}
	return p.kill(15 * time.Second)
}

// CutNode takes a node off the network; HealNode puts it back.
func (c *Cluster) CutNode(ctx context.Context, name string) error { return c.link(ctx, name, "down") }

// HealNode ends what CutNode began.
func (c *Cluster) HealNode(ctx context.Context, name string) error { return c.link(ctx, name, "up") }

func (c *Cluster) link(ctx context.Context, name, state string) error {
	number, err := c.nodeNumber(name)
	if err != nil {
		return err
	}
	return ip(ctx, "link", "set", c.plan.veth(number), state)
}

// Exec runs a command inside a node's namespaces and gives what it printed.
func (c *Cluster) Exec(ctx context.Context, node string, argv ...string) (string, error) {
	args, err := c.enter(node)
	if err != nil {
		return "", err
	}
	return output(ctx, "nsenter", append(args, argv...)...)
}

func (c *Cluster) enter(node string) ([]string, error) {
	c.mu.Lock()
	p, ok := c.state.process(node)
	c.mu.Unlock()
	if !ok || !p.alive() {
		return nil, fmt.Errorf("node %s does not run", node)
	}
	return []string{"--target", fmt.Sprint(p.PID), "--mount", "--pid", "--net", "--uts", "--root", "--wd", "--"}, nil
}

// LoadImages gives docker archives to every node.
func (c *Cluster) LoadImages(ctx context.Context, archives ...string) error {
	for _, node := range c.state.Nodes {
		for _, archive := range archives {
			if err := c.loadInto(ctx, node, archive); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Cluster) loadInto(ctx context.Context, node, archive string) error {
	return eventually(ctx, 4*time.Minute, "containerd takes "+archive, func() error {
		args, err := c.enter(node)
		if err != nil {
			return err
		}
		file, err := os.Open(archive)
		if err != nil {
			return fmt.Errorf("load image: %w: build it with `make images`", err)
		}
		defer file.Close()
		cmd := exec.CommandContext(ctx, "nsenter", append(args, "/usr/bin/ctr", "--address", containerdSocket, "-n", "k8s.io", "images", "import", "--snapshotter", "overlayfs", "-")...)
		cmd.Stdin = file
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("load %s into %s: %w: %s", archive, node, err, out)
		}
		return nil
	})
}

// awaitReady waits until the API says that a node is ready.
func (c *Cluster) awaitReady(ctx context.Context, name string) error {
	kube, err := c.kube()
	if err != nil {
		return err
	}
	return eventually(ctx, 90*time.Second, "node "+name+" is ready", func() error {
		node, err := kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, cond := range node.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
				return nil
			}
			if cond.Type == corev1.NodeReady {
				err = errors.New(cond.Message)
			}
		}
		return err
	})
}

func (c *Cluster) kube() (kubernetes.Interface, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", filepath.Join(c.dir, "kubeconfig"))
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(cfg)
}

// writeNodeFiles makes what the node's processes read: certificates, their
// configuration and that of its first process.
func (c *Cluster) writeNodeFiles(number int, name string) error {
	files := filepath.Join(c.nodeDir(name), "files")
	if err := os.MkdirAll(filepath.Join(files, "cni"), 0o755); err != nil {
		return err
	}
	kubelet, err := os.ReadFile(c.ca.path(name + ".kubeconfig"))
	if err != nil {
		path, err := c.ca.client(name, "system:node:"+name, c.plan.server(), "system:nodes")
		if err != nil {
			return err
		}
		if err := c.ca.server(name+"-serving", name, []string{name}, []net.IP{net.ParseIP(c.plan.nodeIP(number))}); err != nil {
			return err
		}
		if kubelet, err = os.ReadFile(path); err != nil {
			return err
		}
	}
	content := map[string][]byte{"kubelet.kubeconfig": kubelet, "resolv.conf": []byte("# no name server outside the cluster\n")}
	for file, from := range map[string]string{"proxy.kubeconfig": "proxy.kubeconfig", "ca.crt": "ca.crt", "serving.crt": name + "-serving.crt", "serving.key": name + "-serving.key"} {
		if content[file], err = os.ReadFile(c.ca.path(from)); err != nil {
			return err
		}
	}
	content["cni/10-pods.conflist"] = cniConfig(c.plan.podSubnet(number))
	content["containerd.toml"] = containerdConfig()
	content["kubelet.yaml"] = kubeletConfig(c.plan.cgroup(number), c.plan.serviceIP(10))
	if content["node.json"], err = json.Marshal(nodeSpec{
		Name: name, IP: c.plan.nodeIP(number), Root: c.NodeRoot(name), Files: files, Bin: filepath.Join(c.cfg.OutDir, "bin"), PodRange: c.plan.podRange(),
	}); err != nil {
		return err
	}
	for file, data := range content {
		if err := os.WriteFile(filepath.Join(files, file), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
