package component

import (
	"cmp"
	"fmt"
	"os"

	"github.com/spf13/pflag"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/wire"
)

// TLSFlags adds the flags of TLS. The environment has their defaults.
func TLSFlags(f *pflag.FlagSet, files *wire.TLSFiles) {
	f.StringVar(&files.CA, "tls-ca", os.Getenv(contract.EnvTLSCA), "file (PEM) of the CA of all processes of this cache; with it, all of them speak mutual TLS")
	f.StringVar(&files.Certificate, "tls-cert", os.Getenv(contract.EnvTLSCert), "file (PEM) of this process's certificate")
	f.StringVar(&files.Key, "tls-key", os.Getenv(contract.EnvTLSKey), "file (PEM) of the key of the certificate")
	f.StringVar(&files.Name, "tls-name", os.Getenv(contract.EnvTLSName), "DNS name that the certificate of every process of this cache has (default: "+contract.DefaultTLSName+")")
}

// TLS is what the processes of the cache speak, by flags and environment, else
// by the options of the runtime; nil where neither has any of it.
func (s *Settings) TLS(flags wire.TLSFiles) (*wire.TLS, error) {
	files := wire.TLSFiles{
		CA: cmp.Or(flags.CA, s.tlsOption(contract.OptionTLSCA)), Certificate: cmp.Or(flags.Certificate, s.tlsOption(contract.OptionTLSCert)),
		Key: cmp.Or(flags.Key, s.tlsOption(contract.OptionTLSKey)), Name: cmp.Or(flags.Name, s.tlsOption(contract.OptionTLSName)),
	}
	return NewTLS(files)
}

// NewTLS reads the files, nil if there are none.
func NewTLS(files wire.TLSFiles) (*wire.TLS, error) {
	if files == (wire.TLSFiles{Name: files.Name}) {
		return nil, nil
	}
	files.Name = cmp.Or(files.Name, contract.DefaultTLSName)
	t, err := wire.NewTLS(files)
	if err != nil {
		return nil, fmt.Errorf("%w (flags --tls-ca, --tls-cert, --tls-key, --tls-name; $%s, …; options %s, %s, %s, %s)", err,
			contract.EnvTLSCA, contract.OptionTLSCA, contract.OptionTLSCert, contract.OptionTLSKey, contract.OptionTLSName)
	}
	return t, nil
}

// tlsOption looks for an option of any component: they speak with each other.
func (s *Settings) tlsOption(name string) string {
	return cmp.Or(s.Worker.Options[name], s.Master.Options[name], s.Client.Options[name])
}
