package component

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/reader"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/posix"
	"github.com/millrace/millrace/runtime/wire"
)

// issue writes a certificate that is its own CA.
func issue(t *testing.T, name string) wire.TLSFiles {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := wire.TLSFiles{CA: filepath.Join(dir, "tls.crt"), Certificate: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
	for file, block := range map[string]*pem.Block{files.CA: {Type: "CERTIFICATE", Bytes: der}, files.Key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestAllProcessesOfACacheSpeakTLS has a master that is told of its certificates
// by options, and a worker that is told by flags.
func TestAllProcessesOfACacheSpeakTLS(t *testing.T) {
	files := issue(t, contract.DefaultTLSName)
	dir := t.TempDir()
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	if err := os.WriteFile(filepath.Join(dir, "f"), want, 0o600); err != nil {
		t.Fatal(err)
	}
	config := func(options map[string]string) *contract.RuntimeConfig {
		return &contract.RuntimeConfig{
			Mounts: []contract.MountConfig{{MountPoint: "local://" + dir, Path: "/"}},
			Worker: contract.ComponentConfig{Replicas: 1, Options: options, TieredStoreLevels: []contract.TierConfig{
				{MountPaths: []string{t.TempDir()}, MediumType: contract.TierSSD, Quotas: []string{"64Mi"}},
			}},
		}
	}
	at := freeAddress(t)
	settings := func(name string, options map[string]string) *Settings {
		return &Settings{RuntimeConfig: config(options), Name: name, Node: name, MasterAddress: at,
			OpenSource: func(context.Context, source.Config) (source.Store, error) { return posix.Open(dir, "local://"+dir) }}
	}
	options := map[string]string{contract.OptionTLSCA: files.CA, contract.OptionTLSCert: files.Certificate, contract.OptionTLSKey: files.Key}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	run := func(what string, serve func(*Settings, *Registry) error, s *Settings) {
		wg.Go(func() {
			if err := serve(s, NewRegistry(s)); err != nil && ctx.Err() == nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	run("master", func(s *Settings, r *Registry) error { return RunMaster(ctx, s, r, MasterPlace{RPC: at}) }, settings("master", options))
	run("worker", func(s *Settings, r *Registry) error {
		return RunWorker(ctx, s, r, WorkerPlace{Data: "127.0.0.1:0", TLS: files})
	}, settings("worker", nil))

	secure, err := settings("reader", options).TLS(wire.TLSFiles{})
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	s := settings("reader", nil)
	r, err := reader.New(reader.Config{Name: "reader", Master: at, Mounts: s.Mounts(), Peers: wire.ClientOptions{TLS: secure}, Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		for range r.Invalidations() {
		}
	})
	t.Cleanup(func() { r.Close() })
	for deadline := time.Now().Add(2 * time.Minute); r.Workers() == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no worker")
		}
	}
	node, err := r.Lookup(t.Context(), fuse.RootIno, "f")
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.Open(t.Context(), node.Ino)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, len(want))
	if _, err := f.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("wrong bytes or %v", err)
	}
	all, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	remote := 0.0
	for _, family := range all {
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if strings.HasSuffix(family.GetName(), "read_bytes_total") && l.GetValue() == "remote" {
					remote += m.GetCounter().GetValue()
				}
			}
		}
	}
	if remote != float64(len(want)) {
		t.Errorf("%v bytes came from the worker, of %d", remote, len(want))
	}
}

func TestTLSIsAllOrNothing(t *testing.T) {
	files := issue(t, contract.DefaultTLSName)
	s := &Settings{RuntimeConfig: &contract.RuntimeConfig{}}
	if got, err := s.TLS(wire.TLSFiles{Name: "x"}); got != nil || err != nil {
		t.Errorf("without files: %v, %v", got, err)
	}
	s.Client.Options = map[string]string{contract.OptionTLSCA: files.CA}
	if _, err := s.TLS(wire.TLSFiles{Certificate: files.Certificate}); err == nil || !strings.Contains(err.Error(), "key is not set") || !strings.Contains(err.Error(), "--tls-key") {
		t.Errorf("without a key: %v", err)
	}
	if got, err := s.TLS(wire.TLSFiles{Certificate: files.Certificate, Key: files.Key}); got == nil || err != nil {
		t.Errorf("with all: %v", err)
	}
	if _, err := s.TLS(wire.TLSFiles{Certificate: files.Certificate, Key: filepath.Join(t.TempDir(), "none")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a key that is not there: %v", err)
	}
}
