package localcluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority signs every certificate of one cluster; its files lie in dir.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  crypto.Signer
}

const certificateLife = 30 * 24 * time.Hour

func newAuthority(dir string) (*authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	a := &authority{dir: dir}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "millrace-local-ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	cert, key, err := a.issue("ca", template)
	if err != nil {
		return nil, err
	}
	a.cert, a.key = cert, key
	return a, nil
}

// client issues <file>.crt and <file>.key for a user of the API and gives its kubeconfig.
func (a *authority) client(file, user, server string, groups ...string) (kubeconfig string, err error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if _, _, err := a.issue(file, template); err != nil {
		return "", err
	}
	return a.kubeconfig(file, server)
}

// server issues <file>.crt and <file>.key for names and addresses.
func (a *authority) server(file, name string, dns []string, ips []net.IP) error {
	_, _, err := a.issue(file, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: dns, IPAddresses: ips,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return err
}

func (a *authority) path(file string) string { return filepath.Join(a.dir, file) }

func (a *authority) issue(file string, template *x509.Certificate) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key of %s: %w", file, err)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return nil, nil, fmt.Errorf("make serial of %s: %w", file, err)
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(certificateLife)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, fmt.Errorf("sign %s: %w", file, err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode key of %s: %w", file, err)
	}
	if err := writePEM(a.path(file+".crt"), "CERTIFICATE", der); err != nil {
		return nil, nil, err
	}
	if err := writePEM(a.path(file+".key"), "EC PRIVATE KEY", keyDER); err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
