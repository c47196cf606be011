// Package sshserver runs a real OpenSSH server on loopback and mounts what it
// serves with sshfs: a network file system, on kernels that have no NFS.
package sshserver

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Server serves Dir; it is mounted at Mount.
type Server struct {
	Dir, Mount string

	files  string // keys and configuration
	port   string
	sshd   *exec.Cmd
	mounts *exec.Cmd // sshfs
	log    *log
}

// log is what the server and sshfs say, for a test that fails.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Start starts a server with keys of its own and mounts an empty directory of
// it. All ends with the test, also when it fails.
func Start(t testing.TB) *Server {
	t.Helper()
	for _, program := range []string{"/usr/sbin/sshd", "sshfs", "ssh-keygen"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is missing: hack/prerequisites.sh installs it", program)
		}
	}
	base := t.TempDir()
	s := &Server{Dir: filepath.Join(base, "served"), Mount: filepath.Join(base, "mount"), files: filepath.Join(base, "files"), log: &log{}}
	for _, dir := range []string{s.Dir, s.Mount, s.files, "/run/sshd"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(s.files, key)).CombinedOutput(); err != nil {
			t.Fatalf("make a key: %v: %s", err, out)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.port = strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	public, err := os.ReadFile(filepath.Join(s.files, "user.pub"))
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.ReadFile(filepath.Join(s.files, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"authorized": string(public),
		"known":      "[127.0.0.1]:" + s.port + " " + string(host),
		"sshd_config": fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %[2]s/host\nAuthorizedKeysFile %[2]s/authorized\nPidFile none\nUsePAM no\nStrictModes no\n"+
			"PermitRootLogin prohibit-password\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n", s.port, s.files),
	} {
		if err := os.WriteFile(filepath.Join(s.files, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		s.Down()
		if t.Failed() {
			t.Logf("sshd and sshfs say:\n%s", s.log)
		}
	})
	s.Up(t)
	return s
}

// Up starts the server and mounts what it serves.
func (s *Server) Up(t testing.TB) {
	t.Helper()
	dead := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	s.sshd = exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", filepath.Join(s.files, "sshd_config"))
	s.sshd.SysProcAttr, s.sshd.Stderr = dead, s.log
	if err := s.sshd.Start(); err != nil {
		t.Fatalf("start sshd: %v", err)
	}
	s.wait(t, "sshd answers", func() bool {
		c, err := net.DialTimeout("tcp", "127.0.0.1:"+s.port, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	s.mounts = exec.Command("sshfs", "-f", "-p", s.port, "-o", "IdentityFile="+filepath.Join(s.files, "user"), "-o", "UserKnownHostsFile="+filepath.Join(s.files, "known"),
		"-o", "IdentitiesOnly=yes,BatchMode=yes,StrictHostKeyChecking=yes", "-F", "none",
		// As a mount of a cluster's storage would be: what others change is seen soon.
		"-o", "dir_cache=no,attr_timeout=0,entry_timeout=0,max_conns=4", "127.0.0.1:"+s.Dir, s.Mount)
	s.mounts.SysProcAttr, s.mounts.Stderr, s.mounts.Stdout = dead, s.log, s.log
	if err := s.mounts.Start(); err != nil {
		t.Fatalf("start sshfs: %v", err)
	}
	s.wait(t, "sshfs mounts", s.Mounted)
}

func (s *Server) wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute\n%s", what, s.log)
		}
	}
}

// Mounted looks into the table of mounts: to ask a mount whose server is gone
// might take for ever.
func (s *Server) Mounted() bool {
	table, err := os.ReadFile("/proc/self/mountinfo")
	return err == nil && strings.Contains(string(table), " "+s.Mount+" ")
}

// Freeze stops the server where it is, as a network that drops every packet
// does: calls into the mount hang. Thaw lets it go on.
func (s *Server) Freeze() { s.signal(syscall.SIGSTOP) }

// Thaw ends Freeze.
func (s *Server) Thaw() { s.signal(syscall.SIGCONT) }

// signal reaches the server and those that serve its connections, which are
// its children and in groups and sessions of their own.
func (s *Server) signal(sig syscall.Signal) {
	for _, pid := range append(children(s.sshd.Process.Pid), s.sshd.Process.Pid) {
		_ = syscall.Kill(pid, sig)
	}
}

func children(pid int) []int {
	var out []int
	list, _ := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", pid))
	for word := range strings.FieldsSeq(string(list)) {
		if child, err := strconv.Atoi(word); err == nil {
			out = append(append(out, child), children(child)...)
		}
	}
	return out
}

// Kill kills the server. The mount stays, and has nobody who answers.
func (s *Server) Kill() {
	if s.sshd != nil {
		s.signal(syscall.SIGKILL)
		_ = s.sshd.Wait()
		s.sshd = nil
	}
}

// Down kills the server and takes the mount away.
func (s *Server) Down() {
	s.Kill()
	if s.mounts != nil {
		_ = s.mounts.Process.Kill() // ends the calls that hang
		_ = s.mounts.Wait()
		s.mounts = nil
	}
	for s.Mounted() {
		if err := unix.Unmount(s.Mount, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return
		}
	}
}
