// Package alluxio runs Alluxio 2.9 in the pods of a CacheRuntimeClass: what
// runtime.json says becomes Alluxio's own properties, processes and commands.
//
// Everything is told to Java by files that only its user may read, since a
// command line is for all to see and the options of a mount may be credentials.
package alluxio

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/component"
)

// Options of a component that are not Alluxio's.
const (
	// OptionJava is what Java is given for the component's main process, separated
	// by spaces, such as -Xmx4g.
	OptionJava = "java.options"
	// OptionJobJava is the same for the job master and the job workers.
	OptionJobJava = "job.java.options"
	// OptionJobs is "false" where there are to be no job master and job workers:
	// loads do without them, replication does not.
	OptionJobs = "job.enabled"
)

// Ports of Alluxio's processes: Alluxio's own defaults.
const (
	MasterPort    = 19998
	MasterWebPort = 19999
)

// Site is one Alluxio as one of its processes sees it.
type Site struct {
	Config    *contract.RuntimeConfig
	Component contract.ComponentType
	Namespace string
	// Host is by what others reach this process, Node where it runs.
	Host, Node string
	// Home holds lib/, State what outlives a container.
	Home, State string
}

// ReadSite reads runtime.json and the environment of the pod.
func ReadSite() (*Site, error) {
	file := os.Getenv(contract.EnvRuntimeConfig)
	if file == "" {
		file = contract.RuntimeConfigPath
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	config, err := contract.DecodeRuntimeConfig(data)
	if err != nil {
		return nil, err
	}
	s := &Site{
		Config: config, Component: contract.ComponentType(os.Getenv(contract.EnvComponentType)),
		Namespace: os.Getenv(contract.EnvDatasetNamespace), Host: os.Getenv(contract.EnvPodIP), Node: os.Getenv(contract.EnvNodeName),
		Home: "/opt/alluxio", State: "/var/lib/alluxio",
	}
	if s.Host == "" {
		if s.Host, err = ownAddress(); err != nil {
			return nil, err
		}
	}
	if s.Node == "" {
		s.Node = s.Host
	}
	return s, nil
}

// ownAddress is the address that the machine's own name stands for.
func ownAddress() (string, error) {
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("find own address: %w", err)
	}
	addresses, err := net.LookupHost(name)
	if err != nil || len(addresses) == 0 {
		return "", fmt.Errorf("find own address: look up %s: %w", name, err)
	}
	return addresses[0], nil
}

// MasterHost is by what the master is reached.
func (s *Site) MasterHost() string {
	if s.Namespace == "" {
		return s.Config.Master.Service.Name
	}
	return s.Config.Master.Service.Name + "." + s.Namespace
}

func (s *Site) options(c contract.ComponentType) map[string]string {
	switch c {
	case contract.ComponentWorker:
		return s.Config.Worker.Options
	case contract.ComponentClient:
		return s.Config.Client.Options
	default:
		return s.Config.Master.Options
	}
}

// Properties are the whole of alluxio-site.properties. Those of the user lie over
// what is only a better default for a cache, and under what must be so.
func (s *Site) Properties() (map[string]string, error) {
	p := map[string]string{
		"alluxio.security.authorization.permission.enabled": "false", // Kubernetes says who may mount a Dataset
		"alluxio.underfs.s3.default.mode":                   "0755",  // S3 has no modes, and pods have all sorts of users
		"alluxio.underfs.s3.inherit.acl":                    "false",
		"alluxio.user.metrics.collection.enabled":           "false",
		"alluxio.user.file.passive.cache.enabled":           "false", // a second copy is for replication to make
		"alluxio.fuse.mount.options":                        "ro,allow_other,kernel_cache,attr_timeout=60,entry_timeout=60",
	}
	for _, c := range []contract.ComponentType{contract.ComponentMaster, s.Component} {
		for name, value := range s.options(c) {
			if !ours(name) {
				p[name] = value
			}
		}
	}
	maps.Copy(p, map[string]string{
		"alluxio.master.hostname":     s.MasterHost(),
		"alluxio.job.master.hostname": s.MasterHost(),
		"alluxio.user.hostname":       s.Host,
		"alluxio.locality.node":       s.Node,
		"alluxio.tmp.dirs":            "/tmp",
		// The journal is soft state here: what is lost is mounted again.
		"alluxio.master.journal.type":   "UFS",
		"alluxio.master.journal.folder": filepath.Join(s.State, "journal"),
		"alluxio.master.metastore.dir":  filepath.Join(s.State, "metastore"),
		// Nobody else writes this journal: there is nothing to wait for at a start.
		"alluxio.master.journal.tailer.shutdown.quiet.wait.time": "50ms", "alluxio.master.journal.tailer.sleep.time": "50ms",
		"alluxio.master.mount.table.root.ufs": filepath.Join(s.State, "root"),
		// Without a domain socket that both see there is no short way.
		"alluxio.user.short.circuit.enabled": "false",
		// Requests act as who started the process, whoever the pod's user is.
		"alluxio.security.login.impersonation.username": "_NONE_",
		"alluxio.fuse.user.group.translation.enabled":   "false",
	})
	switch s.Component {
	case contract.ComponentMaster:
		return p, s.rootMount(p)
	case contract.ComponentWorker:
		p["alluxio.worker.hostname"], p["alluxio.job.worker.hostname"] = s.Host, s.Host
		return p, s.tiers(p)
	default:
		return p, nil
	}
}

// ours tells an option for this package from a property of Alluxio.
func ours(option string) bool {
	return option == OptionJava || option == OptionJobJava || option == OptionJobs
}

// rootMount makes a mount at / the root of Alluxio's name space, which it is
// given at its first start.
func (s *Site) rootMount(p map[string]string) error {
	for i := range s.Config.Mounts {
		m, err := mountOf(&s.Config.Mounts[i])
		if err != nil {
			return err
		}
		if m.Path != "/" {
			continue
		}
		p["alluxio.master.mount.table.root.ufs"] = m.Source
		// Alluxio mounts nothing below what is read-only; no client writes anyway.
		p["alluxio.master.mount.table.root.readonly"] = strconv.FormatBool(len(s.Config.Mounts) == 1)
		for name, value := range m.Options {
			p["alluxio.master.mount.table.root.option."+name] = value
		}
	}
	return nil
}

// aliases of levels in Alluxio's order; a level has a name of its own.
var aliases = []string{contract.TierMEM, contract.TierSSD, contract.TierHDD}

// tiers says where a worker keeps its bytes.
func (s *Site) tiers(p map[string]string) error {
	levels := s.Config.Worker.TieredStoreLevels
	if len(levels) == 0 {
		return errors.New("the workers have no tieredStore: give them at least one level")
	}
	p["alluxio.worker.tieredstore.levels"] = strconv.Itoa(len(levels))
	next := 0
	for i, level := range levels {
		alias := max(next, slices.Index(aliases, level.MediumType))
		if alias >= len(aliases) {
			return fmt.Errorf("tieredStore level %d of %s: Alluxio has at most one level each of MEM, SSD and HDD, in this order", i, level.MediumType)
		}
		next = alias + 1
		var quotas, media []string
		for _, quota := range level.Quotas {
			n, err := component.ParseBytes(quota)
			if err != nil {
				return fmt.Errorf("tieredStore level %d: %w", i, err)
			}
			quotas, media = append(quotas, strconv.FormatInt(n, 10)), append(media, level.MediumType)
		}
		set := func(name, value string) {
			if value != "" {
				p[fmt.Sprintf("alluxio.worker.tieredstore.level%d.%s", i, name)] = value
			}
		}
		set("alias", aliases[alias])
		set("dirs.path", strings.Join(level.MountPaths, ","))
		set("dirs.quota", strings.Join(quotas, ","))
		set("dirs.mediumtype", strings.Join(media, ","))
		set("watermark.high.ratio", level.High)
		set("watermark.low.ratio", level.Low)
	}
	return nil
}

// Mount is one source in Alluxio's words. Options hold credentials.
type Mount struct {
	Path     string
	Source   string
	ReadOnly bool
	Options  map[string]string
}

// errScheme: the image has no under-store for a source.
var errScheme = errors.New("this Alluxio reads pvc://, local:// and s3:// sources only")

// Alluxio signs with the region of the endpoint, which it would otherwise guess
// from the server's name, and asks in that of the bucket.
const (
	endpointOfS3       = "alluxio.underfs.s3.endpoint"
	endpointRegionOfS3 = "alluxio.underfs.s3.endpoint.region"
	regionOfS3         = "alluxio.underfs.s3.region"
	defaultRegion      = "us-east-1" // as for the native engine
)

// ofS3 are names that options of S3 have elsewhere, in Alluxio's words.
var ofS3 = map[string]string{
	"endpoint": endpointOfS3, "region": regionOfS3,
	"path-style": "alluxio.underfs.s3.disable.dns.buckets",
	"access-key": "s3a.accessKeyId", "aws.accessKeyId": "s3a.accessKeyId", "AWS_ACCESS_KEY_ID": "s3a.accessKeyId",
	"secret-key": "s3a.secretKey", "aws.secretKey": "s3a.secretKey", "AWS_SECRET_ACCESS_KEY": "s3a.secretKey",
}

func mountOf(m *contract.MountConfig) (*Mount, error) {
	out := &Mount{Path: contract.MountPath(m.Path, m.Name), ReadOnly: true, Options: map[string]string{}}
	if dir, ok := contract.SourceDir(m.MountPoint); ok {
		out.Source = dir
	} else if bucket, ok := strings.CutPrefix(m.MountPoint, "s3://"); ok {
		out.Source = "s3://" + strings.TrimRight(bucket, "/") + "/"
	} else {
		return nil, fmt.Errorf("mount %s: %w", component.WithoutUser(m.MountPoint), errScheme)
	}
	for name, value := range m.Options {
		out.set(name, value)
	}
	for name, file := range m.EncryptOptions {
		value, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("mount %s: read option %s: %w", out.Path, name, err)
		}
		out.set(name, strings.TrimRight(string(value), "\r\n"))
	}
	if out.Options[endpointOfS3] != "" {
		region := cmp.Or(out.Options[endpointRegionOfS3], out.Options[regionOfS3], defaultRegion)
		out.Options[endpointRegionOfS3] = cmp.Or(out.Options[endpointRegionOfS3], region)
		out.Options[regionOfS3] = cmp.Or(out.Options[regionOfS3], region)
	}
	return out, nil
}

func (m *Mount) set(name, value string) {
	if alluxios, ok := ofS3[name]; ok && strings.HasPrefix(m.Source, "s3://") {
		name = alluxios
	}
	m.Options[name] = value
}

// mounts are the sources below the root, by path.
func (s *Site) mounts() (map[string]*Mount, error) {
	out := map[string]*Mount{}
	for i := range s.Config.Mounts {
		m, err := mountOf(&s.Config.Mounts[i])
		if err != nil {
			return nil, err
		}
		out[m.Path] = m
	}
	return out, nil
}

const log4j = `log4j.rootLogger=INFO, Console
log4j.appender.Console=org.apache.log4j.ConsoleAppender
log4j.appender.Console.target=System.err
log4j.appender.Console.layout=org.apache.log4j.PatternLayout
log4j.appender.Console.layout.ConversionPattern=%d{ISO8601} %-5p %c{1} - %m%n
`

// writeConf writes Alluxio's configuration into a directory of its own.
func (s *Site) writeConf(dir string) error {
	properties, err := s.Properties()
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		text.WriteString(escapeProperty(name) + "=" + escapeProperty(properties[name]) + "\n")
	}
	return errors.Join(
		os.MkdirAll(dir, 0o700),
		writeFile(filepath.Join(dir, "alluxio-site.properties"), text.String()),
		writeFile(filepath.Join(dir, "log4j.properties"), log4j),
	)
}

// escapeProperty writes a name or a value as java.util.Properties reads it.
func escapeProperty(s string) string {
	var out strings.Builder
	for i, r := range s {
		switch {
		case strings.ContainsRune(`\=:#!`, r), r == ' ' && i == 0:
			out.WriteRune('\\')
			out.WriteRune(r)
		case r == '\n':
			out.WriteString(`\n`)
		case r == '\r':
			out.WriteString(`\r`)
		case r == '\t':
			out.WriteString(`\t`)
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		case r < 0x20 || r > 0x7e:
			fmt.Fprintf(&out, `\u%04x`, r)
		default:
			out.WriteRune(r)
		}
	}
	return out.String()
}

// writeFile replaces a file that only its owner may read.
func writeFile(name, text string) error {
	temporary, err := os.CreateTemp(filepath.Dir(name), "."+path.Base(name)+"-") // mode 0600
	if err != nil {
		return err
	}
	_, err = temporary.WriteString(text)
	if err = errors.Join(err, temporary.Close()); err == nil {
		err = os.Rename(temporary.Name(), name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", name, err), ignoreMissing(os.Remove(temporary.Name())))
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
