package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/credentials"
)

// TLSFiles say where the certificates of a process are.
type TLSFiles struct {
	// CA has the certificates (PEM) that sign those of the peers, Certificate
	// and Key those of this process.
	CA, Certificate, Key string
	// Name is a DNS name that the certificate of every process of this cache
	// has, and none of another cache: who has it may connect.
	Name string
}

// TLS is mutual TLS 1.3 between the processes of one cache. The files are looked
// at when a connection is made, and read again when they have changed:
// connections that are there stay.
type TLS struct {
	files TLSFiles

	mu     sync.Mutex
	seen   [3]fileState
	loaded *certificates
	broken error // why the files that are there now are not in use
}

type certificates struct {
	roots *x509.CertPool
	own   tls.Certificate
}

// fileState tells one content of a file from another.
type fileState struct {
	modified time.Time
	size     int64
	inode    uint64
}

// NewTLS reads the files.
func NewTLS(files TLSFiles) (*TLS, error) {
	for _, f := range []struct{ what, is string }{
		{"CA", files.CA}, {"certificate", files.Certificate}, {"key", files.Key}, {"name", files.Name},
	} {
		if f.is == "" {
			return nil, fmt.Errorf("TLS needs CA, certificate, key and name: the %s is not set", f.what)
		}
	}
	t := &TLS{files: files}
	if _, err := t.current(); err != nil {
		return nil, err
	}
	return t, nil
}

// current are the certificates of the files as they are now; while the files are
// broken, those from before.
func (t *TLS) current() (*certificates, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var now [3]fileState
	for i, name := range []string{t.files.CA, t.files.Certificate, t.files.Key} {
		if info, err := os.Stat(name); err == nil {
			now[i] = stateOf(info)
		}
	}
	if t.loaded != nil && now == t.seen {
		return t.loaded, nil
	}
	fresh, err := load(t.files)
	t.broken = err
	if err == nil {
		t.loaded, t.seen = fresh, now
	}
	if t.loaded == nil {
		return nil, err
	}
	return t.loaded, nil
}

// Broken is why the files are not in use as they are now, nil if they are.
func (t *TLS) Broken() error {
	_, _ = t.current()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.broken
}

func load(files TLSFiles) (*certificates, error) {
	pem, err := os.ReadFile(files.CA)
	if err != nil {
		return nil, fmt.Errorf("read the TLS CA: %w", err)
	}
	c := &certificates{roots: x509.NewCertPool()}
	if !c.roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read the TLS CA %s: there is no certificate (PEM) in it", files.CA)
	}
	if c.own, err = tls.LoadX509KeyPair(files.Certificate, files.Key); err != nil {
		return nil, fmt.Errorf("read the TLS certificate %s and key %s: %w", files.Certificate, files.Key, err)
	}
	if err := c.own.Leaf.VerifyHostname(files.Name); err != nil {
		return nil, fmt.Errorf("the TLS certificate %s has not the name of the cache: %w", files.Certificate, err)
	}
	return c, nil
}

// Server is for those who are connected to.
func (t *TLS) Server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c, err := t.current()
			if err != nil {
				return nil, err
			}
			return &tls.Config{
				MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{c.own}, NextProtos: []string{"h2"},
				ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: c.roots,
				DynamicRecordSizingDisabled: true, SessionTicketsDisabled: true,
				VerifyConnection: func(s tls.ConnectionState) error { return t.named(s) },
			}, nil
		},
	}
}

// Client is for those who connect.
func (t *TLS) Client() *tls.Config {
	c, err := t.current()
	if err != nil { // NewTLS has seen them whole, so there are some
		c = &certificates{roots: x509.NewCertPool()}
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{c.own}, RootCAs: c.roots, ServerName: t.files.Name,
		DynamicRecordSizingDisabled: true,
	}
}

var errName = errors.New("its certificate has not the name of this cache")

// named checks the name of who connects; its chain is verified by then.
func (t *TLS) named(s tls.ConnectionState) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("it has no certificate")
	}
	if err := s.PeerCertificates[0].VerifyHostname(t.files.Name); err != nil {
		return fmt.Errorf("%w: %w", errName, err)
	}
	return nil
}

// reloaded are credentials of gRPC from the files as they are.
type reloaded struct {
	credentials.TransportCredentials
	tls *TLS
}

// Credentials are those of gRPC, for a server or a client.
func (t *TLS) Credentials() credentials.TransportCredentials {
	return reloaded{credentials.NewTLS(t.Server()), t}
}

// ClientHandshake implements credentials.TransportCredentials with the files as
// they are now.
func (r reloaded) ClientHandshake(ctx context.Context, authority string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(r.tls.Client()).ClientHandshake(ctx, authority, c)
}

// Clone implements credentials.TransportCredentials.
func (r reloaded) Clone() credentials.TransportCredentials {
	return reloaded{r.TransportCredentials.Clone(), r.tls}
}

func stateOf(info os.FileInfo) fileState {
	s := fileState{modified: info.ModTime(), size: info.Size()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = st.Ino
	}
	return s
}
