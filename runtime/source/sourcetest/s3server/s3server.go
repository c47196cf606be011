// Package s3server runs a real S3 server, Versity's gateway, on loopback.
package s3server

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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
	cmd      *exec.Cmd
}

// Start runs a server over an empty directory.
func Start(t *testing.T) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	s := &Server{Endpoint: "http://" + address, address: address, dir: t.TempDir()}
	s.Up(t)
	t.Cleanup(func() { s.Down(t) })
	return s
}

// Up starts the server on its old address and files and waits until it answers.
func (s *Server) Up(t *testing.T) {
	t.Helper()
	s.cmd = exec.Command(binary(t), "--port", s.address, "posix", s.dir)
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
func (s *Server) Down(t *testing.T) {
	t.Helper()
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// binary is built by `make tools`.
func binary(t *testing.T) string {
	_, here, _, _ := runtime.Caller(0)
	path := filepath.Join(filepath.Dir(here), "..", "..", "..", "..", "out", "bin", "versitygw")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the S3 server is not built: %v: run `make tools`", err)
	}
	return path
}
