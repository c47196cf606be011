// Package localcluster runs a real Kubernetes on one Linux machine: an API
// server with its etcd, controller manager and scheduler as host processes, and
// nodes that each are a kubelet, a containerd and a kube-proxy in network, mount
// and process namespaces of their own.
package localcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Config says what cluster to start.
type Config struct {
	// Name tells clusters on one machine apart.
	Name string
	// Nodes is how many; 2 if 0.
	Nodes int
	// OutDir holds bin (the binaries) and receives cluster/<name> (the state).
	OutDir string
	// Kubeconfig is where the administrator's is written; by default inside the state.
	Kubeconfig string
	// Scheduler runs as the cluster's scheduler.
	Scheduler Scheduler
	// Images are docker archives that every node gets.
	Images []string
	// Log is told of each step; nil for silence.
	Log io.Writer
}

// Scheduler is a scheduler binary and its configuration file's content, which
// depends on where its kubeconfig is. A nil Configuration means the defaults.
type Scheduler struct {
	Binary        string
	Configuration func(kubeconfig string) []byte
}

// Cluster is one that runs.
type Cluster struct {
	cfg   Config
	plan  plan
	dir   string
	ca    *authority
	mu    sync.Mutex // guards state
	state *state
}

// Start brings a cluster up. Whatever a former one of the name left is cleaned
// first; whatever this one made is cleaned if it does not come up.
func Start(ctx context.Context, cfg Config) (_ *Cluster, err error) {
	if cfg.Nodes == 0 {
		cfg.Nodes = 2
	}
	if cfg.Log == nil {
		cfg.Log = io.Discard
	}
	if err := Down(ctx, cfg.OutDir, cfg.Name); err != nil {
		return nil, fmt.Errorf("clean up the former cluster %s: %w", cfg.Name, err)
	}
	dir := stateDir(cfg.OutDir, cfg.Name)
	c := &Cluster{cfg: cfg, dir: dir, state: &state{Name: cfg.Name, Index: -1, path: filepath.Join(dir, "state.json")}}
	if c.cfg.Kubeconfig == "" {
		c.cfg.Kubeconfig = filepath.Join(dir, "kubeconfig")
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start cluster %s: %w%s", cfg.Name, err, c.lastWords()), c.Stop(context.WithoutCancel(ctx)))
		}
	}()
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"network", c.openNetwork},
		{"control plane", c.startControlPlane},
		{"nodes", c.startNodes},
		{"cluster DNS", c.startDNS},
	} {
		began := time.Now()
		if err := step.do(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.what, err)
		}
		fmt.Fprintf(cfg.Log, "cluster %s: %s up in %.1f s\n", cfg.Name, step.what, time.Since(began).Seconds())
	}
	return c, nil
}

func stateDir(out, name string) string { return filepath.Join(out, "cluster", name) }

// Attach finds a running cluster that another process started.
func Attach(outDir, name string) (*Cluster, error) {
	dir := stateDir(outDir, name)
	s, err := loadState(dir)
	if err != nil {
		return nil, fmt.Errorf("find cluster %s: %w", name, err)
	}
	return &Cluster{
		cfg: Config{Name: name, OutDir: outDir, Nodes: len(s.Nodes), Kubeconfig: filepath.Join(dir, "kubeconfig"), Log: io.Discard},
		dir: dir, state: s, plan: plan{index: s.Index}, ca: &authority{dir: filepath.Join(dir, "pki")},
	}, nil
}

// Down stops the cluster of a name, if there is one, and removes all of it. It
// works from the record on disk, whatever state the cluster is in.
func Down(ctx context.Context, outDir, name string) error {
	c, err := Attach(outDir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.Stop(ctx)
}

// Stop ends every process of the cluster and removes its interfaces, routes,
// control groups and files. It is idempotent.
func (c *Cluster) Stop(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, p := range c.state.Processes {
		errs = append(errs, p.kill(15*time.Second))
	}
	if c.state.Index >= 0 {
		p := plan{index: c.state.Index}
		for i := range c.state.Nodes {
			errs = append(errs, removeCgroups(p.cgroup(i+1)))
		}
		errs = append(errs, p.close(ctx, len(c.state.Nodes)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop cluster %s: %w", c.cfg.Name, err)
	}
	// Never remove through a mount: what is mounted there is not ours.
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), " "+c.dir+"/") {
		return fmt.Errorf("stop cluster %s: something is mounted below %s: %w", c.cfg.Name, c.dir, err)
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("remove state of cluster %s: %w", c.cfg.Name, err)
	}
	return nil
}

// Kubeconfig is the path of the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return c.cfg.Kubeconfig }

// Nodes are the names of the nodes.
func (c *Cluster) Nodes() []string { return append([]string(nil), c.state.Nodes...) }

// Gateway is the address of this machine that nodes and pods reach.
func (c *Cluster) Gateway() string { return c.plan.gateway() }

func (c *Cluster) openNetwork(ctx context.Context) error {
	p, err := claim(ctx, func(p plan) error {
		c.state.Index = p.index
		return c.state.save()
	})
	if err != nil {
		return err
	}
	c.plan = p
	return p.open(ctx)
}

func (c *Cluster) startNodes(ctx context.Context) error {
	for i := 1; i <= c.cfg.Nodes; i++ {
		c.state.Nodes = append(c.state.Nodes, fmt.Sprintf("%s-node-%d", c.cfg.Name, i))
	}
	if err := c.state.save(); err != nil {
		return err
	}
	if err := c.packSystemImages(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, name := range c.state.Nodes {
		group.Go(func() error {
			if err := c.StartNode(ctx, name); err != nil {
				return err
			}
			for _, image := range append(c.systemImages(), c.cfg.Images...) {
				if err := c.loadInto(ctx, name, image); err != nil {
					return err
				}
			}
			return c.awaitReady(ctx, name)
		})
	}
	return group.Wait()
}

// lastWords is the end of each log, for the error of a failed start.
func (c *Cluster) lastWords() string {
	logs, _ := filepath.Glob(filepath.Join(c.dir, "logs", "*.log"))
	more, _ := filepath.Glob(filepath.Join(c.dir, "nodes", "*", "files", "logs", "*.log"))
	var out strings.Builder
	for _, log := range append(logs, more...) {
		data, err := os.ReadFile(log)
		if err != nil || len(data) == 0 {
			continue
		}
		fmt.Fprintf(&out, "\n--- %s\n%s", log, data[max(0, len(data)-1500):])
	}
	return out.String()
}
