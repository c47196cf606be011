// Package component assembles the components of a cache from their rooms, as
// runtime.json and the environment say: a process may be one of them, as in a
// pod, or all of them, as on a single machine.
package component

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/egress"
	"github.com/millrace/millrace/runtime/source/kinds"
)

// Settings are what a component is told from outside.
type Settings struct {
	*contract.RuntimeConfig
	// File is where RuntimeConfig was read, to be read again when it changes;
	// empty where it never does.
	File string
	// Namespace and Dataset label the metrics; both may be empty.
	Namespace, Dataset string
	// Name, Node and IP say who and where the component is. Peers reach it at
	// IP, else at the address that it listens on.
	Name, Node, IP string
	// MasterAddress overrides where the master's gRPC is.
	MasterAddress string
	// Version of the program.
	Version string
	// OpenSource connects to a source; kinds.Open if nil.
	OpenSource OpenSource
}

// OpenSource opens a source by the scheme of its mount point.
type OpenSource func(context.Context, source.Config) (source.Store, error)

// ReadSettings reads runtime.json and the environment of a pod.
func ReadSettings() (*Settings, error) {
	file := os.Getenv(contract.EnvRuntimeConfig)
	if file == "" {
		file = contract.RuntimeConfigPath
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the configuration, $%s: %w", contract.EnvRuntimeConfig, err)
	}
	config, err := contract.DecodeRuntimeConfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	s := &Settings{
		RuntimeConfig: config, File: file, Namespace: os.Getenv(contract.EnvDatasetNamespace), Dataset: os.Getenv(contract.EnvDatasetName),
		Name: os.Getenv(contract.EnvPodName), Node: os.Getenv(contract.EnvNodeName), IP: os.Getenv(contract.EnvPodIP),
		MasterAddress: os.Getenv(contract.EnvMasterAddress),
	}
	if s.Name == "" {
		if s.Name, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("find a name, $%s is not set: %w", contract.EnvPodName, err)
		}
	}
	return s, nil
}

// MasterAt is where the master's gRPC is.
func (s *Settings) MasterAt() (string, error) {
	if s.MasterAddress != "" {
		return s.MasterAddress, nil
	}
	service := s.Master.Service.Name
	if service == "" {
		return "", fmt.Errorf("where is the master: neither $%s nor master.service.name is set", contract.EnvMasterAddress)
	}
	if s.Namespace != "" {
		service += "." + s.Namespace
	}
	return net.JoinHostPort(service, strconv.Itoa(contract.MasterRPCPort)), nil
}

// Mounts are the sources of the dataset, each at its path.
func (s *Settings) Mounts() []namespace.Mount {
	mounts := make([]namespace.Mount, len(s.RuntimeConfig.Mounts))
	for i, m := range s.RuntimeConfig.Mounts {
		mounts[i] = namespace.Mount{
			Path: contract.MountPath(m.Path, m.Name),
			URI:  WithoutUser(m.MountPoint),
			ID:   m.Identity(), Version: m.Version(),
			Open: func(ctx context.Context) (source.Store, error) { return s.openSource(ctx, m) },
		}
	}
	return mounts
}

// WithoutUser takes user and password out of a URI, for messages.
func WithoutUser(uri string) string {
	scheme, rest, ok := strings.Cut(uri, "://")
	if !ok {
		return uri
	}
	host, path, _ := strings.Cut(rest, "/")
	_, bare, ok := strings.Cut(host, "@")
	if !ok {
		return uri
	}
	return scheme + "://" + strings.TrimSuffix(bare+"/"+path, "/")
}

// openSource connects to one source, with the secrets that its files hold now.
func (s *Settings) openSource(ctx context.Context, m contract.MountConfig) (source.Store, error) {
	c := source.Config{MountPoint: m.MountPoint, Options: m.Options, EncryptOptions: map[string]string{}}
	if s.Egress != nil {
		var err error
		if c.Egress, err = egress.Parse(s.Egress.Allow); err != nil {
			return nil, fmt.Errorf("open %s: egress.allow of %s: %w: %w", WithoutUser(m.MountPoint), contract.RuntimeConfigKey, source.ErrInvalid, err)
		}
	}
	for option, file := range m.EncryptOptions {
		value, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open %s: the secret of option %s is not at %s: %w", WithoutUser(m.MountPoint), option, file, source.ErrInvalid)
		}
		if err != nil {
			return nil, fmt.Errorf("open %s: read the secret of option %s: %w", WithoutUser(m.MountPoint), option, err)
		}
		if !bytes.ContainsRune(value, 0) { // a keytab is no text
			value = bytes.TrimSpace(value)
		}
		c.EncryptOptions[option] = string(value)
	}
	if s.OpenSource != nil {
		return s.OpenSource(ctx, c)
	}
	return kinds.Open(ctx, c)
}

// option looks for an option of the workers, then of the masters.
func (s *Settings) option(name string) string {
	if v := s.Worker.Options[name]; v != "" {
		return v
	}
	return s.Master.Options[name]
}

func (s *Settings) replicas() (int, error) {
	v := s.option(contract.OptionReplicas)
	if v == "" {
		return 1, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("option %s is %q, want a number of at least 1", contract.OptionReplicas, v)
	}
	return n, nil
}

func (s *Settings) metadataWalkRate() (float64, error) {
	v := s.option(contract.OptionMetadataWalkRate)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseFloat(v, 64)
	if err != nil || !(n > 0) || n > 1e9 {
		return 0, fmt.Errorf("option %s is %q, want directories a second, such as 500", contract.OptionMetadataWalkRate, v)
	}
	return n, nil
}

func (s *Settings) metadataTTL() (time.Duration, error) {
	v := s.option(contract.OptionMetadataTTL)
	if v == "" {
		return namespace.DefaultTTL, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("option %s is %q, want a duration such as 60s", contract.OptionMetadataTTL, v)
	}
	return d, nil
}
