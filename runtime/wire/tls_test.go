package wire

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// authority signs certificates.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "CA of a test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

// issue writes CA, certificate and key to dir, in place of those that are there.
func (a *authority) issue(dir, name string) TLSFiles {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	files := TLSFiles{CA: filepath.Join(dir, "ca.crt"), Certificate: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), Name: name}
	for file, content := range map[string][]byte{
		files.CA: a.pem, files.Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		files.Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
	} {
		if err := os.WriteFile(file+".new", content, 0o600); err != nil {
			a.t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			a.t.Fatal(err)
		}
	}
	return files
}

func certificates1(t testing.TB) *TLS {
	t.Helper()
	own, err := NewTLS(newAuthority(t).issue(t.TempDir(), "cache.test"))
	if err != nil {
		t.Fatal(err)
	}
	return own
}

// secured is a server with these certificates.
func secured(t *testing.T, files TLSFiles) (addr string, s *served) {
	t.Helper()
	own, err := NewTLS(files)
	if err != nil {
		t.Fatal(err)
	}
	s = newServed(t, 3<<20)
	return serve(t, s, func(s *Server) { s.opts.TLS = own }), s
}

func ask(t *testing.T, addr string, s *served, files TLSFiles) error {
	t.Helper()
	own, err := NewTLS(files)
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(ClientOptions{TLS: own})
	defer c.Close()
	return fetchAll(t, c, addr, s)
}

func fetchAll(t *testing.T, c *Client, addr string, s *served) error {
	t.Helper()
	p := make([]byte, len(s.data))
	err := c.Fetch(t.Context(), addr, Range{Object: object("x", int64(len(p))), N: int64(len(p))}, p)
	if err == nil && !bytes.Equal(p, s.data) {
		t.Error("wrong bytes")
	}
	return err
}

func TestOnlyThoseWithACertificateOfTheCacheGetBytes(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	addr, s := secured(t, ours.issue(t.TempDir(), "cache-a"))
	if err := ask(t, addr, s, ours.issue(t.TempDir(), "cache-a")); err != nil {
		t.Errorf("one of ours: %v", err)
	}
	otherCA := theirs.issue(t.TempDir(), "cache-a")
	otherCA.CA = ours.issue(t.TempDir(), "cache-a").CA // it trusts us
	otherName := ours.issue(t.TempDir(), "cache-b")
	for name, err := range map[string]error{
		"a certificate of another CA":     ask(t, addr, s, otherCA),
		"a certificate of another cache":  ask(t, addr, s, otherName),
		"a server that it does not trust": ask(t, addr, s, theirs.issue(t.TempDir(), "cache-a")),
		"no certificate": func() error {
			c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
			if err == nil {
				defer c.Close()
				_, err = c.Read(make([]byte, 1)) // 1.3: the refusal comes after the client's handshake
			}
			return err
		}(),
		"plain text": fetchAll(t, newClient(t, time.Second), addr, s),
		"TLS 1.2": func() error {
			own, _ := tls.LoadX509KeyPair(otherName.Certificate, otherName.Key)
			c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{own}})
			if err == nil {
				c.Close()
			}
			return err
		}(),
	} {
		if err == nil {
			t.Errorf("%s is let in", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}

func TestCertificatesThatChangeAreReadWithoutLosingConnections(t *testing.T) {
	old, next := newAuthority(t), newAuthority(t)
	dir, clientDir := t.TempDir(), t.TempDir()
	files, clientFiles := old.issue(dir, "cache"), old.issue(clientDir, "cache")
	addr, s := secured(t, files)
	own, err := NewTLS(clientFiles)
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(ClientOptions{TLS: own})
	defer c.Close()
	if err := fetchAll(t, c, addr, s); err != nil {
		t.Fatal(err)
	}
	kept := c.idle[addr][0]
	next.issue(dir, "cache")
	if err := fetchAll(t, c, addr, s); err != nil || len(c.idle[addr]) != 1 || c.idle[addr][0] != kept {
		t.Errorf("the connection was lost: %v", err)
	}
	c.Forget(nil) // a new connection meets the new certificate, which is not trusted yet
	if err := fetchAll(t, c, addr, s); err == nil {
		t.Error("a certificate of an unknown CA is trusted")
	}
	c.Forget(nil)
	next.issue(clientDir, "cache")
	if err := fetchAll(t, c, addr, s); err != nil {
		t.Errorf("the new certificates: %v", err)
	}
	// Half a change is no change.
	if err := os.WriteFile(clientFiles.Key, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Forget(nil)
	if err := fetchAll(t, c, addr, s); err != nil {
		t.Errorf("while the files are broken: %v", err)
	}
	if own.Broken() == nil {
		t.Error("nobody says that the files are broken")
	}
}

func TestTLSSaysWhatIsMissing(t *testing.T) {
	good := newAuthority(t).issue(t.TempDir(), "cache")
	for want, change := range map[string]func(*TLSFiles){
		"the key is not set":           func(f *TLSFiles) { f.Key = "" },
		"read the TLS CA":              func(f *TLSFiles) { f.CA += ".not" },
		"there is no certificate":      func(f *TLSFiles) { f.CA = f.Key },
		"read the TLS certificate":     func(f *TLSFiles) { f.Certificate = f.CA },
		"has not the name of the cach": func(f *TLSFiles) { f.Name = "other" },
	} {
		files := good
		change(&files)
		if _, err := NewTLS(files); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// controlled is a master that answers StatFS.
type controlled struct {
	wirepb.UnimplementedMasterServer
}

func (controlled) StatFS(context.Context, *wirepb.StatFSRequest) (*wirepb.StatFSReply, error) {
	return &wirepb.StatFSReply{Files: 7}, nil
}

func TestTheMasterIsReachedOnlyByThoseOfTheCache(t *testing.T) {
	ours := newAuthority(t)
	own := func(name string) *TLS {
		made, err := NewTLS(ours.issue(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(own("cache").Credentials()))
	wirepb.RegisterMasterServer(server, controlled{})
	var wg sync.WaitGroup
	wg.Go(func() { server.Serve(l) })
	t.Cleanup(func() {
		server.Stop()
		wg.Wait()
	})
	for name, tc := range map[string]struct {
		tls  *TLS
		good bool
	}{
		"one of the cache": {own("cache"), true},
		"of another cache": {own("other"), false},
		"plain text":       {nil, false},
	} {
		conn, err := DialMasterTLS(l.Addr().String(), tc.tls)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		reply, err := wirepb.NewMasterClient(conn).StatFS(ctx, &wirepb.StatFSRequest{})
		if tc.good != (err == nil && reply.GetFiles() == 7) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
		conn.Close()
	}
}
