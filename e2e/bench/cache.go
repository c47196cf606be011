package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/apis/contract"
)

// cache is a running Millrace: the same processes and runtime.json as in a
// cluster, each worker and each client with a node of its own name.
type cache struct {
	b       *Bench
	dir     string
	env     []string
	address string // of the master
	http    string // of the master
	master  *process
	workers []*process
	clients []*process
	loads   int
}

// cacheConfig says what a cache is made of.
type cacheConfig struct {
	mount         contract.MountConfig
	workers       int
	quota         string // of each worker
	workerOptions map[string]string
	clientOptions map[string]string
	env           []string
}

// newCache starts master and workers in a directory of their own.
func (b *Bench) newCache(ctx context.Context, name string, c cacheConfig) (_ *cache, err error) {
	dir, err := os.MkdirTemp(b.dir, name+"-")
	if err != nil {
		return nil, err
	}
	out := &cache{b: b, dir: dir, env: append(c.env, contract.EnvDatasetNamespace+"=", contract.EnvPodIP+"=127.0.0.1")}
	defer func() {
		if err != nil {
			out.close()
		}
	}()
	if out.address, err = freeAddress(); err != nil {
		return nil, err
	}
	if out.http, err = freeAddress(); err != nil {
		return nil, err
	}
	for i := range c.workers {
		config := contract.RuntimeConfig{
			Mounts: []contract.MountConfig{c.mount},
			Egress: &contract.EgressConfig{Allow: []string{contract.EgressAny}}, // the servers are on loopback
			Master: contract.ComponentConfig{Enabled: true, Options: c.workerOptions},
			Worker: contract.ComponentConfig{Enabled: true, Replicas: int32(c.workers), Options: c.workerOptions,
				TieredStoreLevels: []contract.TierConfig{{MediumType: contract.TierSSD, MountPaths: []string{out.store(i)}, Quotas: []string{c.quota}}}},
			Client: contract.ComponentConfig{Enabled: true, Options: c.clientOptions},
		}
		data, err := config.Encode()
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(out.store(i), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(out.config(i), data, 0o600); err != nil {
			return nil, err
		}
	}
	out.master, err = start(dir, "master", out.envOf(0), b.binary("cache"), "master", "--rpc-address", out.address, "--http-address", out.http)
	if err != nil {
		return nil, err
	}
	for i := range c.workers {
		data, err := freeAddress()
		if err != nil {
			return nil, err
		}
		w, err := start(dir, "worker-"+strconv.Itoa(i), out.envOf(i), b.binary("cache"), "worker",
			"--data-address", data, "--http-address", "", "--socket", out.socket(i))
		if err != nil {
			return nil, err
		}
		out.workers = append(out.workers, w)
	}
	return out, until(ctx, "the cache's workers", time.Minute, func() (bool, error) {
		if err := out.up(); err != nil {
			return true, err
		}
		s, err := out.summary(ctx)
		return err == nil && len(s.Workers) == c.workers && s.CapacityBytes > 0, err
	})
}

func (c *cache) config(worker int) string {
	return filepath.Join(c.dir, fmt.Sprintf("runtime-%d.json", worker))
}
func (c *cache) store(worker int) string {
	return filepath.Join(c.dir, fmt.Sprintf("store-%d", worker))
}
func (c *cache) socket(worker int) string {
	return filepath.Join(c.dir, fmt.Sprintf("w%d.sock", worker))
}

func (c *cache) envOf(worker int) []string {
	return append([]string{
		contract.EnvRuntimeConfig + "=" + c.config(worker), contract.EnvMasterAddress + "=" + c.address,
		contract.EnvPodName + "=w" + strconv.Itoa(worker), contract.EnvNodeName + "=n" + strconv.Itoa(worker),
	}, c.env...)
}

// up fails when a process of the cache has ended.
func (c *cache) up() error {
	for _, p := range append(append([]*process{c.master}, c.workers...), c.clients...) {
		if err := p.up(); err != nil {
			return err
		}
	}
	return nil
}

// mount starts a client on the node of a worker, or on one without worker if
// worker is negative, and gives its mount point.
func (c *cache) mount(ctx context.Context, worker int) (string, error) {
	i := len(c.clients)
	at := filepath.Join(c.dir, fmt.Sprintf("mnt-%d", i))
	if err := os.MkdirAll(at, 0o755); err != nil {
		return "", err
	}
	socket := filepath.Join(c.dir, "nobody.sock")
	if worker >= 0 {
		socket = c.socket(worker)
	}
	p, err := start(c.dir, "client-"+strconv.Itoa(i), c.envOf(max(worker, 0)), c.b.binary("cache"), "fuse",
		"--mount-path", at, "--http-address", "", "--socket", socket)
	if err != nil {
		return "", err
	}
	c.clients = append(c.clients, p)
	err = until(ctx, "the mount", time.Minute, func() (bool, error) {
		var st unix.Statfs_t
		if err := p.up(); err != nil {
			return true, err
		}
		return unix.Statfs(at, &st) == nil && st.Type == unix.FUSE_SUPER_MAGIC, nil
	})
	return at, err
}

// unmount ends the last client, so that the kernel forgets what it cached.
func (c *cache) unmount() {
	if n := len(c.clients); n > 0 {
		c.clients[n-1].stop()
		_ = unix.Unmount(filepath.Join(c.dir, fmt.Sprintf("mnt-%d", n-1)), unix.MNT_DETACH)
		c.clients = c.clients[:n-1]
	}
}

// load brings everything in and gives the time that took.
func (c *cache) load(ctx context.Context) (time.Duration, error) {
	c.loads++
	began := time.Now()
	_, err := call(ctx, append(c.envOf(0), contract.EnvLoadID+"=bench-"+strconv.Itoa(c.loads), contract.EnvDataLoadPath+"=/"),
		c.b.binary("cache"), "load", "--log-level", "error")
	return time.Since(began), err
}

// loadFor is load, as far as it comes in a time.
func (c *cache) loadFor(ctx context.Context, limit time.Duration) (time.Duration, error) {
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	took, err := c.load(bounded)
	if bounded.Err() != nil && ctx.Err() == nil {
		err = nil
	}
	return took, err
}

// summary is what the master says.
func (c *cache) summary(ctx context.Context) (s contract.Summary, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.http+contract.PathSummary, nil)
	if err != nil {
		return s, err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return s, err
	}
	defer answer.Body.Close()
	return s, json.NewDecoder(answer.Body).Decode(&s)
}

// cpu is what all processes of the cache have spent.
func (c *cache) cpu() (total time.Duration) {
	for _, p := range append(append([]*process{c.master}, c.workers...), c.clients...) {
		total += p.cpu()
	}
	return total
}

// close ends all processes and removes what they left.
func (c *cache) close() {
	c.stop()
	if os.Getenv("MILLRACE_BENCH_KEEP") == "" {
		_ = os.RemoveAll(c.dir)
	}
}

// stop ends all processes.
func (c *cache) stop() {
	for len(c.clients) > 0 {
		c.unmount()
	}
	for _, w := range c.workers {
		w.stop()
	}
	if c.master != nil {
		c.master.stop()
	}
}

// freeAddress is a loopback address that nobody listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
