package localcluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

func (c *Cluster) bin(name string) string { return filepath.Join(c.cfg.OutDir, "bin", name) }

func (c *Cluster) startControlPlane(ctx context.Context) error {
	if err := c.issueCertificates(); err != nil {
		return err
	}
	etcd := "http://" + net.JoinHostPort(c.plan.gateway(), "2379")
	peer := "http://" + net.JoinHostPort(c.plan.gateway(), "2380")
	if err := c.spawn("etcd", c.bin("etcd"), "--data-dir="+filepath.Join(c.dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls="+etcd, "--advertise-client-urls="+etcd, "--listen-peer-urls="+peer,
		"--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer, "--log-level=warn"); err != nil {
		return err
	}
	pki := c.ca.path
	if err := c.spawn("kube-apiserver", c.bin("kube-apiserver"),
		"--etcd-servers="+etcd, "--bind-address="+c.plan.gateway(), "--advertise-address="+c.plan.gateway(), "--secure-port=6443",
		"--service-cluster-ip-range="+c.plan.serviceRange(), "--authorization-mode=Node,RBAC", "--allow-privileged=true",
		"--enable-admission-plugins=NodeRestriction", "--enable-aggregator-routing=true",
		"--client-ca-file="+pki("ca.crt"), "--tls-cert-file="+pki("apiserver.crt"), "--tls-private-key-file="+pki("apiserver.key"),
		"--kubelet-client-certificate="+pki("admin.crt"), "--kubelet-client-key="+pki("admin.key"),
		"--kubelet-certificate-authority="+pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+pki("service-accounts.crt"),
		"--service-account-signing-key-file="+pki("service-accounts.key"),
		"--default-not-ready-toleration-seconds=30", "--default-unreachable-toleration-seconds=30", "--v=1"); err != nil {
		return err
	}
	if err := c.awaitServer(ctx); err != nil {
		return err
	}
	if err := c.spawn("kube-controller-manager", c.bin("kube-controller-manager"),
		"--kubeconfig="+pki("controller-manager.kubeconfig"), "--bind-address="+c.plan.gateway(), "--leader-elect=false",
		"--use-service-account-credentials=true", "--service-account-private-key-file="+pki("service-accounts.key"),
		"--root-ca-file="+pki("ca.crt"), "--cluster-signing-cert-file="+pki("ca.crt"), "--cluster-signing-key-file="+pki("ca.key"),
		"--allocate-node-cidrs=false", "--node-monitor-grace-period=20s", "--v=1"); err != nil {
		return err
	}
	return c.UseScheduler(ctx, c.cfg.Scheduler)
}

// UseScheduler makes s the cluster's scheduler, in place of the one that runs.
func (c *Cluster) UseScheduler(_ context.Context, s Scheduler) error {
	c.mu.Lock()
	old, running := c.state.process("scheduler")
	c.mu.Unlock()
	if running {
		if err := old.kill(10 * time.Second); err != nil {
			return err
		}
	}
	if s.Binary == "" {
		s.Binary = c.bin("kube-scheduler")
	}
	kubeconfig := c.ca.path("scheduler.kubeconfig")
	args := []string{"--bind-address=" + c.plan.gateway(), "--v=2"}
	if s.Configuration != nil {
		file := filepath.Join(c.dir, "scheduler.yaml")
		if err := os.WriteFile(file, s.Configuration(kubeconfig), 0o644); err != nil {
			return fmt.Errorf("write scheduler configuration: %w", err)
		}
		args = append(args, "--config="+file)
	} else {
		args = append(args, "--kubeconfig="+kubeconfig, "--leader-elect=false")
	}
	return c.spawn("scheduler", s.Binary, args...)
}

func (c *Cluster) issueCertificates() error {
	ca, err := newAuthority(filepath.Join(c.dir, "pki"))
	if err != nil {
		return fmt.Errorf("make certificate authority: %w", err)
	}
	c.ca = ca
	names := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"}
	ips := []net.IP{net.ParseIP(c.plan.gateway()), net.ParseIP(c.plan.serviceIP(1)), net.IPv4(127, 0, 0, 1)}
	if err := ca.server("apiserver", "kube-apiserver", names, ips); err != nil {
		return err
	}
	if err := ca.server("service-accounts", "service-accounts", nil, nil); err != nil {
		return err
	}
	for file, user := range map[string]string{"controller-manager": "system:kube-controller-manager", "scheduler": "system:kube-scheduler", "proxy": "system:kube-proxy"} {
		if _, err := ca.client(file, user, c.plan.server()); err != nil {
			return err
		}
	}
	admin, err := ca.client("admin", "admin", c.plan.server(), "system:masters")
	if err != nil {
		return err
	}
	data, err := os.ReadFile(admin)
	if err != nil {
		return err
	}
	for _, file := range []string{c.cfg.Kubeconfig, filepath.Join(c.dir, "kubeconfig")} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			return fmt.Errorf("write kubeconfig: %w", err)
		}
	}
	return nil
}

// spawn starts a host process of the cluster that outlives this one.
func (c *Cluster) spawn(role, binary string, args ...string) error {
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("start %s: %w: build it with `make tools build`", role, err)
	}
	if err := os.MkdirAll(filepath.Join(c.dir, "logs"), 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(c.dir, "logs", role+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, c.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", role, err)
	}
	// Reaped here if it ends before this process does.
	go func() { _ = cmd.Wait() }()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.add(role, cmd.Process.Pid)
}

// awaitServer waits until the API server says it is ready.
func (c *Cluster) awaitServer(ctx context.Context) error {
	pool := x509.NewCertPool()
	pool.AddCert(c.ca.cert)
	cert, err := tls.LoadX509KeyPair(c.ca.path("admin.crt"), c.ca.path("admin.key"))
	if err != nil {
		return fmt.Errorf("load administrator's certificate: %w", err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 2 * time.Second}
	return eventually(ctx, time.Minute, "the API server answers /readyz", func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.plan.server()+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %s", resp.Status)
		}
		return nil
	})
}

// eventually tries until it succeeds; the error says what was waited for and
// what it failed with last.
func eventually(ctx context.Context, limit time.Duration, what string, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w; last: %w", what, ctx.Err(), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
