package engine

import (
	"maps"
	"slices"
	"strings"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// SourcesOf reads the sources of a Dataset: every mount with the shared options
// below its own, and the secrets, claims and directories that pods must mount.
func SourcesOf(ds *datav1alpha1.Dataset) Sources {
	s := Sources{Secrets: map[string][]string{}}
	for _, mode := range ds.Spec.AccessModes {
		s.AccessModes = append(s.AccessModes, string(mode))
	}
	if len(s.AccessModes) == 0 {
		s.AccessModes = []string{"ReadOnlyMany"}
	}
	for _, m := range ds.Spec.Mounts {
		mount := contract.MountConfig{MountPoint: m.MountPoint, Name: m.Name, Path: m.Path, ReadOnly: m.ReadOnly, Shared: m.Shared}
		mount.Options, mount.EncryptOptions = map[string]string{}, map[string]string{}
		s.lay(&mount, ds.Spec.SharedOptions, ds.Spec.SharedEncryptOptions)
		s.lay(&mount, m.Options, m.EncryptOptions)
		s.Mounts = append(s.Mounts, mount)
		if claim, _, ok := contract.PVCClaim(m.MountPoint); ok {
			s.Claims = append(s.Claims, claim)
		}
		if host, ok := contract.LocalPath(m.MountPoint); ok {
			s.HostPaths = append(s.HostPaths, host)
		}
	}
	s.collectSecrets(ds)
	s.UseHadoopConfig("")
	s.Claims = sortedSet(s.Claims)
	s.HostPaths = sortedSet(s.HostPaths)
	return s
}

// underlay gives every mount the options that it does not have itself.
func (s *Sources) underlay(options map[string]string) {
	for _, m := range s.Mounts {
		for name, value := range options {
			_, plain := m.Options[name]
			if _, encrypted := m.EncryptOptions[name]; !plain && !encrypted {
				m.Options[name] = value
			}
		}
	}
}

// UseHadoopConfig gives hdfs:// mounts the name of the ConfigMap that they do
// not name themselves, if there is one, and notes all that are named.
func (s *Sources) UseHadoopConfig(name string) {
	for _, m := range s.Mounts {
		if !strings.HasPrefix(m.MountPoint, contract.SchemeHDFS) {
			continue
		}
		if m.Options[contract.OptionHadoopConfig] == "" && name != "" {
			m.Options[contract.OptionHadoopConfig] = name
		}
		if own := m.Options[contract.OptionHadoopConfig]; own != "" {
			s.HadoopConfigs = append(s.HadoopConfigs, own)
		}
	}
	s.HadoopConfigs = sortedSet(s.HadoopConfigs)
}

// lay puts options over those that the mount has: a name is either plain or
// encrypted, whichever was said last.
func (s *Sources) lay(mount *contract.MountConfig, plain map[string]string, encrypted []datav1alpha1.EncryptOption) {
	for name, value := range plain {
		mount.Options[name] = value
		delete(mount.EncryptOptions, name)
	}
	for _, o := range encrypted {
		ref := o.ValueFrom.SecretKeyRef
		mount.EncryptOptions[o.Name] = contract.SecretPath(ref.Name, ref.Key)
		delete(mount.Options, o.Name)
	}
}

func (s *Sources) collectSecrets(ds *datav1alpha1.Dataset) {
	collect := func(options []datav1alpha1.EncryptOption) {
		for _, o := range options {
			ref := o.ValueFrom.SecretKeyRef
			s.Secrets[ref.Name] = append(s.Secrets[ref.Name], ref.Key)
		}
	}
	collect(ds.Spec.SharedEncryptOptions)
	for _, m := range ds.Spec.Mounts {
		collect(m.EncryptOptions)
	}
	for name, keys := range s.Secrets {
		s.Secrets[name] = sortedSet(keys)
	}
}

// SecretNames are the names of the Secrets, sorted.
func (s *Sources) SecretNames() []string { return slices.Sorted(maps.Keys(s.Secrets)) }

func sortedSet(list []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(list)))
}
