// Package webserver runs real web servers on this machine: Apache, nginx, Caddy and
// Python's. Each serves a directory of files with the listings that it makes.
package webserver

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Kind is a server and the style of its listings.
type Kind string

// The kinds. All but Python know ranges.
const (
	ApachePlain Kind = "apache, plain"
	ApacheFancy Kind = "apache, fancy"
	ApacheTable Kind = "apache, table"
	NginxHTML   Kind = "nginx, html"
	NginxJSON   Kind = "nginx, json"
	CaddyHTML   Kind = "caddy, html"
	CaddyJSON   Kind = "caddy, json"
	Python      Kind = "python"
)

// ApacheDAV serves WebDAV, and is none of Kinds.
const ApacheDAV Kind = "apache, WebDAV"

// Kinds are all of them.
var Kinds = []Kind{ApachePlain, ApacheFancy, ApacheTable, NginxHTML, NginxJSON, CaddyHTML, CaddyJSON, Python}

// Hides tells whether the server leaves files out of its listings whose names
// begin with a dot.
func (k Kind) Hides() bool { return strings.HasPrefix(string(k), "nginx") }

// Server is one that runs until the test ends.
type Server struct {
	// URL ends in a slash; Dir is the directory that is served there.
	URL, Dir string
	kind     Kind
	address  string
	state    string    // configuration and what the server writes
	began    time.Time // long ago: the time of what is put first
	puts     int
	cmd      *exec.Cmd
	log      *os.File
}

// Start runs a server over an empty directory, on loopback.
func Start(t *testing.T, kind Kind) *Server {
	t.Helper()
	return StartAt(t, "127.0.0.1", kind)
}

// StartAt is Start on an address of this machine that others reach.
func StartAt(t *testing.T, host string, kind Kind) *Server {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	state, err := os.MkdirTemp("", "webserver")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(state) })
	s := &Server{URL: "http://" + address + "/", Dir: filepath.Join(state, "files"), kind: kind, address: address, state: state, began: time.Now().Add(-24 * time.Hour)}
	if err := os.Mkdir(s.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// Apache leaves root's rights.
	if err := os.Chmod(state, 0o755); err != nil {
		t.Fatal(err)
	}
	if s.log, err = os.Create(filepath.Join(state, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.log.Close() })
	s.Up(t)
	t.Cleanup(func() { s.Down(t) })
	return s
}

// Put makes or replaces a file, as a whole. Every one is a second younger than
// the one before, and old: what has just been written is not believed by readers
// for a while.
func (s *Server) Put(t *testing.T, path string, data []byte) {
	t.Helper()
	s.PutNow(t, path, data)
	s.puts++
	at := s.began.Add(time.Duration(s.puts) * time.Second)
	if err := os.Chtimes(filepath.Join(s.Dir, path), at, at); err != nil {
		t.Fatal(err)
	}
}

// PutNow makes or replaces a file and leaves it the time that it has.
func (s *Server) PutNow(t *testing.T, path string, data []byte) {
	t.Helper()
	to := filepath.Join(s.Dir, path)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(s.state, "half")
	if err := os.WriteFile(half, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(half, to); err != nil {
		t.Fatal(err)
	}
}

// Remove takes a file away.
func (s *Server) Remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(filepath.Join(s.Dir, path)); err != nil {
		t.Fatal(err)
	}
}

// Up starts the server on its old address and files and waits until it answers.
func (s *Server) Up(t *testing.T) {
	t.Helper()
	argv := s.argv(t)
	s.cmd = exec.Command(argv[0], argv[1:]...)
	s.cmd.Dir = s.state
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	// A group of its own: nginx and Apache have children.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	s.cmd.Env = append(os.Environ(), "HOME="+s.state, "XDG_CONFIG_HOME="+s.state, "XDG_DATA_HOME="+s.state)
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v (hack/prerequisites.sh installs it)", s.kind, err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		c, err := net.DialTimeout("tcp", s.address, time.Second)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(s.log.Name())
			t.Fatalf("%s does not answer: %v\n%s", s.kind, err, said)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Down kills the server and its children; its files stay.
func (s *Server) Down(t *testing.T) {
	t.Helper()
	if s.cmd != nil {
		_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

func (s *Server) argv(t *testing.T) []string {
	t.Helper()
	host, port, err := net.SplitHostPort(s.address)
	if err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(s.state, "conf")
	write := func(format string, args ...any) {
		if err := os.WriteFile(conf, fmt.Appendf(nil, format, args...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if s.kind == ApacheDAV {
		// "pass" by crypt's SHA-256, as `openssl passwd -5` writes it.
		if err := os.WriteFile(filepath.Join(s.state, "users"), []byte("me:$5$millrace$kXr4B5X5btEC98u.PZmGGnoQjWG4lddZiiDL1CC3Pt2\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	switch s.kind {
	case ApachePlain, ApacheFancy, ApacheTable, ApacheDAV:
		write(apache+map[Kind]string{ApacheDAV: dav}[s.kind], s.state, s.address, s.state, s.state, s.Dir, s.Dir, map[Kind]string{
			ApachePlain: "-FancyIndexing", ApacheFancy: "FancyIndexing", ApacheTable: "FancyIndexing HTMLTable", ApacheDAV: "FancyIndexing",
		}[s.kind])
		return []string{"/usr/sbin/apache2", "-DFOREGROUND", "-f", conf}
	case NginxHTML, NginxJSON:
		write(nginx, s.state, s.state, s.address, s.Dir, map[Kind]string{NginxHTML: "html", NginxJSON: "json"}[s.kind])
		return []string{"/usr/sbin/nginx", "-c", conf, "-e", filepath.Join(s.state, "error.log")}
	case CaddyHTML, CaddyJSON:
		accept := ""
		if s.kind == CaddyHTML {
			accept = "request_header Accept text/html"
		}
		write(caddy, s.address, s.Dir, accept)
		return []string{"/usr/bin/caddy", "run", "--adapter", "caddyfile", "--config", conf}
	case Python:
		return []string{"python3", "-m", "http.server", "--bind", host, "--directory", s.Dir, port}
	}
	t.Fatalf("unknown server %q", s.kind)
	return nil
}

const apache = `ServerName localhost
ServerRoot %s
Listen %s
PidFile %s/pid
ErrorLog %s/error.log
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so
LoadModule autoindex_module /usr/lib/apache2/modules/mod_autoindex.so
LoadModule mime_module /usr/lib/apache2/modules/mod_mime.so
TypesConfig /dev/null
User nobody
Group nogroup
StartServers 1
ServerLimit 4
AllowEncodedSlashes NoDecode
DocumentRoot %s
<Directory %s>
	Options Indexes FollowSymLinks
	IndexOptions %s
	DirectoryIndex disabled
</Directory>
`

// dav is added to apache; the user is me, the password is pass.
const dav = `LoadModule dav_module /usr/lib/apache2/modules/mod_dav.so
LoadModule dav_fs_module /usr/lib/apache2/modules/mod_dav_fs.so
LoadModule authn_core_module /usr/lib/apache2/modules/mod_authn_core.so
LoadModule authn_file_module /usr/lib/apache2/modules/mod_authn_file.so
LoadModule authz_user_module /usr/lib/apache2/modules/mod_authz_user.so
LoadModule auth_basic_module /usr/lib/apache2/modules/mod_auth_basic.so
DavLockDB lock
<Location />
	Dav On
	AuthType Basic
	AuthName millrace
	AuthUserFile users
	Require valid-user
</Location>
`

const nginx = `daemon off;
master_process off;
user root;
pid %s/pid;
events {}
http {
	access_log off;
	client_body_temp_path %s/temp;
	proxy_temp_path temp; fastcgi_temp_path temp; uwsgi_temp_path temp; scgi_temp_path temp;
	keepalive_requests 100000;
	server {
		listen %s;
		root %s;
		location / {
			autoindex on;
			autoindex_format %s;
		}
	}
}
`

const caddy = `{
	admin off
	auto_https off
}
http://%s {
	root * %s
	%s
	file_server browse
}
`
