package main

import (
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
	"github.com/millrace/millrace/runtime/source/kinds"
)

// settings is what a process is told from outside.
type settings struct {
	*contract.RuntimeConfig
	namespace string
	// pod, node and ip say who and where this process is.
	pod, node, ip string
}

func readSettings() (*settings, error) {
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
	s := &settings{
		RuntimeConfig: config, namespace: os.Getenv(contract.EnvDatasetNamespace),
		pod: os.Getenv(contract.EnvPodName), node: os.Getenv(contract.EnvNodeName), ip: os.Getenv(contract.EnvPodIP),
	}
	if s.pod == "" {
		if s.pod, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("find a name, $%s is not set: %w", contract.EnvPodName, err)
		}
	}
	return s, nil
}

// masterAddress is where the master's gRPC is.
func (s *settings) masterAddress() (string, error) {
	if a := os.Getenv(contract.EnvMasterAddress); a != "" {
		return a, nil
	}
	if s.Master.Service.Name == "" {
		return "", fmt.Errorf("where is the master: neither $%s nor master.service.name is set", contract.EnvMasterAddress)
	}
	host := s.Master.Service.Name
	if s.namespace != "" {
		host += "." + s.namespace
	}
	return net.JoinHostPort(host, strconv.Itoa(contract.MasterRPCPort)), nil
}

// mounts are the sources of the dataset, each at its path.
func (s *settings) mounts() []namespace.Mount {
	mounts := make([]namespace.Mount, len(s.Mounts))
	for i, m := range s.Mounts {
		mounts[i] = namespace.Mount{
			Path: contract.MountPath(m.Path, m.Name),
			URI:  withoutUser(m.MountPoint),
			Open: func(ctx context.Context) (source.Store, error) { return openSource(ctx, m) },
		}
	}
	return mounts
}

// withoutUser takes user and password out of a URI, for messages.
func withoutUser(uri string) string {
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
func openSource(ctx context.Context, m contract.MountConfig) (source.Store, error) {
	c := source.Config{MountPoint: m.MountPoint, Options: m.Options, EncryptOptions: map[string]string{}}
	for option, file := range m.EncryptOptions {
		value, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open %s: the secret of option %s is not at %s: %w", withoutUser(m.MountPoint), option, file, source.ErrInvalid)
		}
		if err != nil {
			return nil, fmt.Errorf("open %s: read the secret of option %s: %w", withoutUser(m.MountPoint), option, err)
		}
		c.EncryptOptions[option] = strings.TrimSpace(string(value))
	}
	return kinds.Open(ctx, c)
}

// option looks for an option of the workers, then of the masters.
func (s *settings) option(name string) string {
	if v := s.Worker.Options[name]; v != "" {
		return v
	}
	return s.Master.Options[name]
}

func (s *settings) replicas() (int, error) {
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

func (s *settings) metadataTTL() (time.Duration, error) {
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
