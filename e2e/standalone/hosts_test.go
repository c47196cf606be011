package standalone_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/standalone"
)

// hosts are network namespaces of this machine, joined by a bridge that is in a
// namespace as well: nothing of it is seen from outside, and all of it goes
// with the processes that hold it.
type hosts struct {
	s    *scene
	pids []int // of the process that holds each namespace; 0 has the bridge
}

func newHosts(s *scene, n int) *hosts {
	s.t.Helper()
	h := &hosts{s: s}
	for i := range n + 1 {
		// Its name in /proc/PID/ns exists when cat answers: then the namespace is made.
		c := exec.Command("unshare", "--net", "cat")
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		in, err := c.StdinPipe()
		if err != nil {
			s.t.Fatal(err)
		}
		out, err := c.StdoutPipe()
		if err != nil {
			s.t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() {
			in.Close()
			_ = c.Wait()
		})
		echo := make([]byte, 1)
		if _, err := in.Write([]byte("x")); err != nil {
			s.t.Fatal(err)
		}
		if _, err := out.Read(echo); err != nil {
			s.t.Fatal(err)
		}
		h.pids = append(h.pids, c.Process.Pid)
		h.ip(i, "link", "set", "lo", "up")
		if i == 0 {
			h.ip(0, "link", "add", "switch", "type", "bridge")
			h.ip(0, "link", "set", "switch", "up")
			continue
		}
		port := fmt.Sprintf("port%d", i)
		h.ip(0, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(c.Process.Pid))
		h.ip(0, "link", "set", port, "master", "switch", "up")
		h.ip(i, "addr", "add", address(i)+"/24", "dev", "eth0")
		h.ip(i, "link", "set", "eth0", "up")
	}
	return h
}

// address of a host, from 1.
func address(i int) string { return fmt.Sprintf("10.77.0.%d", i) }

func (h *hosts) ip(i int, args ...string) {
	h.s.t.Helper()
	c := h.on(i, "ip", args...)
	if out, err := c.CombinedOutput(); err != nil {
		h.s.t.Fatalf("%s: %v: %s", c, err, out)
	}
}

// on is a command on a host.
func (h *hosts) on(i int, name string, args ...string) *exec.Cmd {
	c := exec.Command("nsenter", append([]string{"--target", fmt.Sprint(h.pids[i]), "--net", name}, args...)...)
	c.Dir = h.s.dir
	c.Env = append(os.Environ(), h.s.env...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c
}

// millrace is the command on a host, with a run directory of that host.
func (h *hosts) millrace(i int, args ...string) *exec.Cmd {
	return h.on(i, binary, append([]string{"--run-dir", h.s.path(fmt.Sprintf("run%d", i))}, args...)...)
}

// start runs a master or a worker until the test ends, or until it is stopped.
func (h *hosts) start(i int, name string, args ...string) (stop func(syscall.Signal)) {
	h.s.t.Helper()
	c := h.millrace(i, args...)
	log, err := os.Create(h.s.path(name + ".log"))
	if err != nil {
		h.s.t.Fatal(err)
	}
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		h.s.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Wait()
		log.Close()
	}()
	stop = func(signal syscall.Signal) {
		select {
		case <-ended:
			return
		default:
		}
		_ = c.Process.Signal(signal)
		select {
		case <-ended:
		case <-time.After(patience):
			h.s.t.Errorf("%s does not end", name)
			_ = c.Process.Kill()
			<-ended
		}
	}
	h.s.t.Cleanup(func() { stop(syscall.SIGTERM) })
	return stop
}

func (h *hosts) must(i int, args ...string) outcome {
	h.s.t.Helper()
	got := finish(h.s.t, h.millrace(i, args...))
	if got.code != 0 {
		h.s.t.Fatalf("host %d: millrace %s: exit code %d: %s", i, strings.Join(args, " "), got.code, got.errors)
	}
	return got
}

func (h *hosts) worker(i int, flags ...string) (stop func(syscall.Signal)) {
	h.s.t.Helper()
	name := fmt.Sprintf("worker%d", i)
	return h.start(i, name, append([]string{"worker", "--master", address(1) + ":7510", "--member", name, "--node", name,
		"--cache", h.s.path(name) + ":1Gi", "--socket", h.s.path(name + ".sock")}, flags...)...)
}

// client mounts on a host, and unmounts at the end of the test.
func (h *hosts) client(i int, flags ...string) (mount string) {
	h.s.t.Helper()
	mount = h.s.path(fmt.Sprintf("mnt%d", i))
	h.must(i, append([]string{"client", mount, "--master", address(1) + ":7510", "--log-file", mount + ".log",
		"--worker-socket", h.s.path(fmt.Sprintf("worker%d.sock", i))}, flags...)...)
	h.s.t.Cleanup(func() {
		if got := finish(h.s.t, h.millrace(i, "unmount", "--force", mount)); got.code != 0 {
			h.s.t.Errorf("unmount on host %d: %s", i, got.errors)
		}
	})
	return mount
}

func (h *hosts) status(i int) standalone.Status {
	h.s.t.Helper()
	var all []standalone.Status
	decode(h.s.t, h.must(i, "status", "-o", "json").out, &all)
	if len(all) != 1 {
		h.s.t.Fatalf("host %d has %d mounts", i, len(all))
	}
	return all[0]
}

func TestMasterWorkersAndClientsOnSeveralHosts(t *testing.T) {
	t.Parallel()
	several(t, nil, nil, nil)
}

func TestSeveralHostsSpeakTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ours, theirs := certificates(t, dir+"/ours", "train-cache"), certificates(t, dir+"/theirs", "train-cache")
	several(t, ours, ours, theirs)
}

// certificates makes a CA and a certificate with a name, and gives the flags
// that name the files.
func certificates(t *testing.T, dir, name string) []string {
	t.Helper()
	write := func(file, kind string, der []byte) string {
		t.Helper()
		at := filepath.Join(dir, file)
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(at, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)); err != nil {
			t.Fatal(err)
		}
		return at
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return []string{
		"--tls-ca", write("ca.pem", "CERTIFICATE", caDER), "--tls-cert", write("cert.pem", "CERTIFICATE", leafDER),
		"--tls-key", write("key.pem", "EC PRIVATE KEY", keyDER), "--tls-name", name,
	}
}

// several proves a cache on three hosts; with flags of the servers and of those
// who speak to them; nobody gets in with those of strangers.
func several(t *testing.T, serve, speak, strangers []string) {
	t.Helper()
	s := newScene(t)
	want := s.directory("source", 150<<20) // three stripes
	h := newHosts(s, 3)
	master := append([]string{"master", s.path("source"), "--workers", "2", "--state-dir", s.path("state"), "--metrics-address", ":7511"}, serve...)
	stopMaster := h.start(1, "master", master...)
	stop := h.worker(2, serve...)
	h.worker(3, serve...)
	two, three := h.client(2, speak...), h.client(3, speak...)
	s.until("both workers are there", func() bool { sum := h.status(2).Summary; return sum != nil && len(sum.Workers) == 2 })
	page, err := h.on(1, "curl", "-sf", "http://127.0.0.1:7511/metrics").Output()
	if err != nil || !strings.Contains(string(page), "millrace_workers{") && !strings.Contains(string(page), "millrace_workers 2") {
		t.Errorf("the master's metrics: %v, %s", err, page)
	}
	if out, err := h.on(1, "curl", "-sf", "-X", "POST", "http://127.0.0.1:7511/v1/retire").CombinedOutput(); err == nil {
		t.Errorf("whoever reaches the metrics can empty the cache: %s", out)
	}
	if strangers != nil {
		for name, flags := range map[string][]string{"no certificate": nil, "another CA": strangers} {
			got := finish(t, h.millrace(3, append([]string{"client", s.path("stranger"), "--master", address(1) + ":7510", "--log-file", s.path("stranger.log"),
				"--wait", "2s"}, flags...)...))
			if got.code != 1 || !strings.Contains(got.errors, address(1)) {
				t.Errorf("%s: %+v", name, got)
			}
		}
	}
	if got := h.must(2, "load", two); !strings.Contains(got.out, fmt.Sprintf("in %d files", len(want))) {
		t.Errorf("load: %+v", got)
	}
	check(t, two, want)
	check(t, three, want)
	// Each host has read what only the other was given by the load.
	s.until("the reads are told", func() bool { sum := h.status(3).Summary; return sum != nil && sum.Reads.RemoteBytes > 0 })
	if reads := h.status(3).Summary.Reads; reads.SourceBytes != 0 {
		t.Errorf("read from the source after the load: %+v", reads)
	}
	s.until("both workers hold something", func() bool {
		sum := h.status(3).Summary
		return sum != nil && !slices.ContainsFunc(sum.Workers, func(w contract.WorkerSummary) bool { return w.UsedBytes == 0 })
	})
	if got := h.must(3, "status"); !strings.Contains(got.out, address(1)+":7510") || !strings.Contains(got.out, "worker2") {
		t.Errorf("status:\n%s", got.out)
	}
	if out, err := h.on(1, binary, "status").CombinedOutput(); err != nil {
		t.Errorf("status where nothing is mounted: %v, %s", err, out)
	}
	stop(syscall.SIGKILL)
	check(t, three, want)
	check(t, two, want)
	h.worker(2, serve...)
	s.until("the worker is back with what it had", func() bool {
		sum := h.status(3).Summary
		return sum != nil && len(sum.Workers) == 2 && sum.CachedBytes == sum.UFSTotalBytes
	})
	stopMaster(syscall.SIGKILL)
	if st := h.status(3); st.Summary != nil || !strings.Contains(st.Problem, address(1)) {
		t.Errorf("status without a master: %+v", st)
	}
	if got, err := sumOf(three + "/model.bin"); err != nil || got != want["model.bin"] {
		t.Errorf("a read without a master: %s, %v", got, err)
	}
	h.start(1, "master", master...)
	s.until("all have found the new master", func() bool {
		sum := h.status(3).Summary
		return sum != nil && len(sum.Workers) == 2 && sum.CachedBytes == sum.UFSTotalBytes
	})
	check(t, three, want)
}

func TestAWorkerAndAClientSayThatThereIsNoMaster(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	nowhere := freeAddress(t)
	for _, args := range [][]string{
		{"client", "mnt", "--log-file", s.path("c.log")},
		{"worker", "--cache", s.path("cache") + ":1Gi", "--socket", s.path("w.sock")},
	} {
		if got := s.run(args...); got.code != 2 || !strings.Contains(got.errors, `"master" not set`) {
			t.Errorf("%s: %+v", args, got)
		}
		c := s.command(append(args, "--master", nowhere)...)
		var said bytes.Buffer
		c.Stderr = &said
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		_ = c.Process.Signal(syscall.SIGTERM) // it waits for the master to come
		_ = c.Wait()
		if c.ProcessState.Success() {
			t.Errorf("%s succeeded", args)
		}
	}
}
