// Package s3server runs a real S3 server, Versity's gateway, on loopback.
package s3server

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// Keys of the server's one user.
const (
	AccessKey = "millrace-test"
	SecretKey = "millrace-test-secret"
)

// Server is one that runs until the test ends.
type Server struct {
	Endpoint string
	dir      string
	address  string
	flags    []string
	cmd      *exec.Cmd
}

// Start runs a server over an empty directory; flags are the program's own.
func Start(t testing.TB, flags ...string) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	s := &Server{Endpoint: "http://" + address, address: address, dir: t.TempDir(), flags: flags}
	s.Up(t)
	t.Cleanup(func() { s.Down(t) })
	return s
}

// Put makes an empty object in a bucket that is there, behind the server's back,
// and returns its file.
func (s *Server) Put(t testing.TB, bucket, key string) string {
	t.Helper()
	file := filepath.Join(s.dir, bucket, key)
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// Up starts the server on its old address and files and waits until it answers.
func (s *Server) Up(t testing.TB) {
	t.Helper()
	s.cmd = exec.Command(binary(t), append(append([]string{"--port", s.address}, s.flags...), "posix", s.dir)...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also when the test is killed
	s.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+AccessKey, "ROOT_SECRET_KEY="+SecretKey)
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("start S3 server: %v", err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		c, err := net.DialTimeout("tcp", s.address, time.Second)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the S3 server does not answer: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Down kills the server; its files stay.
func (s *Server) Down(t testing.TB) {
	t.Helper()
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// version of the gateway's module, the same as hack/tools builds.
const version = "v1.0.14"

// binary is the gateway; it is built if `make tools` has not done so.
func binary(t testing.TB) string {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	bin := filepath.Join(filepath.Dir(here), "..", "..", "..", "..", "out", "bin")
	path := filepath.Join(bin, "versitygw")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	// Packages are tested side by side: one builds, the others wait.
	lock, err := os.Create(filepath.Join(bin, ".versitygw.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		return path
	}
	bin, err = filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "install", "github.com/versity/versitygw/cmd/versitygw@"+version)
	build.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the S3 server: %v\n%s", err, out)
	}
	return path
}
