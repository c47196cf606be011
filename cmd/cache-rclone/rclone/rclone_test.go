package rclone_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/cmd/cache-rclone/rclone"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/egress"
	"github.com/millrace/millrace/runtime/source/sourcetest"
	"github.com/millrace/millrace/runtime/source/sourcetest/webserver"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Connections of the backends that idle: their transports cannot be closed.
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("github.com/rclone/rclone/fs/accounting.(*tokenBucket).startSignalHandler.func1"),
		// The pause after a call, of at most two seconds.
		goleak.IgnoreAnyFunction("github.com/rclone/rclone/lib/pacer.(*Pacer).beginCall.func1"),
	)
}

func policy(t *testing.T, allow ...string) egress.Policy {
	t.Helper()
	p, err := egress.Parse(allow)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// sshd is a real OpenSSH server with keys of its own.
type sshd struct {
	dir, files, port string
	key, hostKey     string
	cmd              *exec.Cmd
	puts             int
}

func startSSH(t *testing.T) *sshd {
	t.Helper()
	base := t.TempDir()
	s := &sshd{dir: filepath.Join(base, "served"), files: filepath.Join(base, "files")}
	for _, dir := range []string{s.dir, s.files, "/run/sshd"} {
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
	_, s.port, _ = net.SplitHostPort(l.Addr().String())
	l.Close()
	text := func(name string) string {
		b, err := os.ReadFile(filepath.Join(s.files, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	s.key = text("user")
	s.hostKey = strings.Join(strings.Fields(text("host.pub"))[:2], " ")
	for name, value := range map[string]string{
		"authorized": text("user.pub"),
		"sshd_config": fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %[2]s/host\nAuthorizedKeysFile %[2]s/authorized\nPidFile none\nUsePAM no\nStrictModes no\n"+
			"PermitRootLogin prohibit-password\nPasswordAuthentication no\nMaxStartups 100\nSubsystem sftp internal-sftp\n", s.port, s.files),
	} {
		if err := os.WriteFile(filepath.Join(s.files, name), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.up(t)
	t.Cleanup(func() { s.down(t) })
	return s
}

func (s *sshd) up(t *testing.T) {
	t.Helper()
	s.cmd = exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", filepath.Join(s.files, "sshd_config"))
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(2 * time.Minute); ; {
		c, err := net.DialTimeout("tcp", "127.0.0.1:"+s.port, time.Second)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// down ends the server and the process of every connection, which are its children.
func (s *sshd) down(t *testing.T) {
	t.Helper()
	if s.cmd == nil {
		return
	}
	for _, pid := range children(s.cmd.Process.Pid) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

func children(pid int) (out []int) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, word := range strings.Fields(string(text)) {
		var child int
		if _, err := fmt.Sscan(word, &child); err == nil {
			out = append(append(out, children(child)...), child)
		}
	}
	return out
}

// put makes a file that is a second younger than the one before: SFTP tells
// times in whole seconds.
func (s *sshd) put(t *testing.T, p string, data []byte) {
	t.Helper()
	to := filepath.Join(s.dir, p)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o644); err != nil {
		t.Fatal(err)
	}
	s.puts++
	at := time.Unix(1_700_000_000+int64(s.puts), 0)
	if err := os.Chtimes(to, at, at); err != nil {
		t.Fatal(err)
	}
}

func (s *sshd) config(t *testing.T, p string) source.Config {
	return source.Config{
		MountPoint: "sftp://root@127.0.0.1:" + s.port + p, Egress: policy(t, "127.0.0.0/8"),
		Options:        map[string]string{"host_keys": s.hostKey, "region": "of another mount", "timeout": "2m"},
		EncryptOptions: map[string]string{"key_pem": s.key},
	}
}

func open(t *testing.T, c source.Config) source.Store {
	t.Helper()
	s, err := rclone.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestSuiteAgainstARealSSHServer(t *testing.T) {
	s := startSSH(t)
	sourcetest.Run(t, sourcetest.Fixture{
		Open:   func(t *testing.T) source.Store { return open(t, s.config(t, s.dir)) },
		Put:    s.put,
		Remove: func(t *testing.T, p string) { os.Remove(filepath.Join(s.dir, p)) },
		Stop:   s.down, Start: s.up,
	})
}

func webdav(t *testing.T, server *webserver.Server, below string, allow ...string) source.Config {
	return source.Config{
		MountPoint: strings.Replace(server.URL, "http", "webdav", 1) + below, Egress: policy(t, allow...),
		Options: map[string]string{"user": "me", "timeout": "2m"}, EncryptOptions: map[string]string{"pass": "pass"},
	}
}

func TestSuiteAgainstARealWebDAVServer(t *testing.T) {
	server := webserver.Start(t, webserver.ApacheDAV)
	server.Put(t, "some where/over", nil)
	server.Remove(t, "some where/over")
	sourcetest.Run(t, sourcetest.Fixture{
		Open:   func(t *testing.T) source.Store { return open(t, webdav(t, server, "some where", "127.0.0.1")) },
		Put:    func(t *testing.T, p string, data []byte) { server.Put(t, "some where/"+p, data) },
		Remove: func(t *testing.T, p string) { server.Remove(t, "some where/"+p) },
		Stop:   server.Down, Start: server.Up,
	})
}

func TestWrongCredentialsAreDeniedAndNeverShown(t *testing.T) {
	server, ssh := webserver.Start(t, webserver.ApacheDAV), startSSH(t)
	dav := webdav(t, server, "", "127.0.0.1")
	dav.EncryptOptions["pass"] = "hunter2"
	other := startSSH(t)
	stranger := ssh.config(t, ssh.dir)
	stranger.EncryptOptions["key_pem"] = other.key
	imposter := ssh.config(t, ssh.dir)
	imposter.Options["host_keys"] = other.hostKey
	for name, tc := range map[string]struct {
		c    source.Config
		want error
	}{
		"a wrong password":          {dav, source.ErrDenied},
		"a wrong key":               {stranger, source.ErrDenied},
		"a server with another key": {imposter, source.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := rclone.Open(t.Context(), tc.c)
			if err == nil {
				defer s.Close()
				err = s.List(t.Context(), "", func(source.Object) error { return nil })
			}
			if !errors.Is(err, tc.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestBackendsAreHeldToTheRulesForAddresses(t *testing.T) {
	server, ssh := webserver.Start(t, webserver.ApacheDAV), startSSH(t)
	server.Put(t, "file", []byte("secret"))
	literal := webdav(t, server, "")
	refused := ssh.config(t, ssh.dir)
	refused.Egress = egress.Policy{}
	for name, c := range map[string]source.Config{
		"a literal address of WebDAV": literal,
		"a literal address of SSH":    refused,
		"the machine's identity":      {MountPoint: "gcs://bucket", Options: map[string]string{"env_auth": "true"}},
		"a metadata service":          {MountPoint: "webdav://169.254.169.254/latest"},
		"an endpoint":                 {MountPoint: "azblob://c", Options: map[string]string{"account": "a", "endpoint": "http://localhost:10000"}},
	} {
		s, err := rclone.Open(t.Context(), c)
		if err == nil {
			s.Close()
		}
		if !errors.Is(err, source.ErrDenied) || !strings.Contains(err.Error(), "runtime.egress.allow") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A name is not known to be refused before it is resolved: the gate through which
// the backend connects sees it.
func TestANameThatLeadsToARefusedAddressIsRefusedWhenConnected(t *testing.T) {
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := net.DefaultResolver.LookupHost(t.Context(), name)
	if err != nil || addresses[0] != "127.0.0.1" {
		name = "localtest.invalid" // resolves to nothing: the connection fails all the same
	}
	c := source.Config{MountPoint: "sftp://me@" + name, Options: map[string]string{"insecure-host-key": "true", "timeout": "2s"}, EncryptOptions: map[string]string{"pass": "x"}}
	s, err := rclone.Open(t.Context(), c)
	if err == nil {
		s.Close()
		t.Fatal("it is connected to")
	}
	if name != "localtest.invalid" && !errors.Is(err, source.ErrDenied) {
		t.Errorf("error %v", err)
	}
}

func TestOptionsThatMakeNoSenseAreInvalid(t *testing.T) {
	for name, c := range map[string]source.Config{
		"a program":                  {MountPoint: "sftp://host", Options: map[string]string{"ssh": "sh -c id"}},
		"another program":            {MountPoint: "webdav://host", Options: map[string]string{"bearer_token_command": "id"}},
		"a proxy":                    {MountPoint: "sftp://host", Options: map[string]string{"socks_proxy": "host:1"}},
		"a server that nobody knows": {MountPoint: "sftp://host", EncryptOptions: map[string]string{"pass": "hunter2"}},
		"a password in the clear":    {MountPoint: "sftp://me:hunter2@host/x"},
		"a backend that is not in":   {MountPoint: "rclone://drive/x"},
		"no host":                    {MountPoint: "webdav:///x"},
		"a timeout":                  {MountPoint: "dropbox://x", Options: map[string]string{"timeout": "soon"}},
		"an authority":               {MountPoint: "dropbox://x", Options: map[string]string{"ca": "none"}},
	} {
		_, err := rclone.Open(t.Context(), c)
		if !errors.Is(err, source.ErrInvalid) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
