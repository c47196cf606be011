// Package plan turns runtime.json into a call of rclone.
package plan

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/apis/contract"
)

// Plan is how rclone is called. Env holds the sources with their secrets, which
// therefore are in no file and no argument.
type Plan struct {
	Args []string
	Env  []string
}

// s3Options are names of options of s3:// mounts, as the native engine and
// Fluid's users write them, and rclone's.
var s3Options = map[string]string{
	"endpoint": "endpoint", "alluxio.underfs.s3.endpoint": "endpoint", "fs.s3a.endpoint": "endpoint",
	"region": "region", "alluxio.underfs.s3.region": "region", "alluxio.underfs.s3.endpoint.region": "region",
	"aws.accessKeyId": "access_key_id", "access-key": "access_key_id", "fs.s3a.access.key": "access_key_id",
	"aws.secretKey": "secret_access_key", "secret-key": "secret_access_key", "fs.s3a.secret.key": "secret_access_key",
	"aws.sessionToken": "session_token", "session-token": "session_token", "fs.s3a.session.token": "session_token",
	"path-style": "force_path_style", "alluxio.underfs.s3.disable.dns.buckets": "force_path_style", "fs.s3a.path.style.access": "force_path_style",
}

// refused are options of backends that start programs or take the identity of
// the machine: a Dataset's author may have neither.
var refused = []string{"ssh", "bearer_token_command", "use_az", "env_auth", "use_msi", "profile", "shared_credentials_file", "key_use_agent"}

// backends that can be named. Others reach into the pod itself, or wrap remotes
// of a configuration that is not there.
var backends = []string{"s3", "sftp", "ftp", "webdav", "http", "azureblob", "b2", "swift", "gcs"}

// flags that options of the client component may set.
var flags = []string{
	"attr-timeout", "buffer-size", "checkers", "contimeout", "dir-cache-time", "gid", "max-read-ahead", "no-checksum", "no-modtime", "poll-interval",
	"timeout", "tpslimit", "transfers", "bwlimit", "uid", "umask", "vfs-cache-max-age", "vfs-cache-max-size", "vfs-cache-min-free-space", "vfs-cache-mode",
	"vfs-fast-fingerprint", "vfs-read-ahead", "vfs-read-chunk-size", "vfs-read-chunk-size-limit", "vfs-read-chunk-streams", "no-check-certificate", "log-level",
}

var optionName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// Of plans for what runtime.json says, to be mounted at a path. read reads the
// files of secrets.
func Of(c *contract.RuntimeConfig, mountPath string, read func(string) ([]byte, error)) (*Plan, error) {
	if mountPath == "" {
		return nil, fmt.Errorf("the mount point is missing: set $%s", contract.EnvRuntimeMountPath)
	}
	p := &Plan{}
	var roots, dirs []string
	for i := range c.Mounts {
		root, err := p.remote(fmt.Sprintf("m%d", i), &c.Mounts[i], read)
		if err != nil {
			return nil, fmt.Errorf("mount %s: %w", c.Mounts[i].MountPoint, err)
		}
		roots, dirs = append(roots, root), append(dirs, contract.MountPath(c.Mounts[i].Path, c.Mounts[i].Name))
	}
	source, err := p.tree(roots, dirs)
	if err != nil {
		return nil, err
	}
	p.Args = []string{"mount", source, mountPath, "--config=", "--read-only", "--allow-other", "--default-permissions", "--umask=022"}
	if err := p.cache(c.Client.TieredStoreLevels); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(c.Client.Options)) {
		if !slices.Contains(flags, name) {
			return nil, fmt.Errorf("option %s of the client is none of rclone's that may be set: %s", name, strings.Join(flags, ", "))
		}
		p.Args = append(p.Args, "--"+name+"="+c.Client.Options[name])
	}
	return p, nil
}

// remote tells rclone of one source and gives its root as rclone writes it.
func (p *Plan) remote(name string, m *contract.MountConfig, read func(string) ([]byte, error)) (string, error) {
	backend, root, ok := strings.Cut(m.MountPoint, "://")
	if !ok || !slices.Contains(backends, backend) {
		return "", fmt.Errorf("the class rclone mounts <backend>://<path> of the backends %s", strings.Join(backends, ", "))
	}
	options := maps.Clone(m.Options)
	if options == nil {
		options = map[string]string{}
	}
	for option, file := range m.EncryptOptions {
		value, err := read(file)
		if err != nil {
			return "", fmt.Errorf("read option %s: %w", option, err)
		}
		options[option] = strings.TrimSpace(string(value))
	}
	kind := backend
	if backend == "gcs" {
		kind = "google cloud storage"
	}
	settings := map[string]string{"type": kind}
	if backend == "s3" {
		settings["provider"] = "Other"
		if options["endpoint"] == "" && options["alluxio.underfs.s3.endpoint"] == "" && options["fs.s3a.endpoint"] == "" {
			settings["provider"] = "AWS"
		}
	}
	for option, value := range options {
		if known := s3Options[option]; backend == "s3" && known != "" {
			option = known
		}
		switch {
		case !optionName.MatchString(option):
			return "", fmt.Errorf("option %s is none of rclone's backend %s", option, backend)
		case slices.Contains(refused, option), strings.HasSuffix(option, "_command"):
			return "", fmt.Errorf("option %s is refused: it starts a program or takes the identity of the node", option)
		}
		settings[option] = value
	}
	for _, option := range slices.Sorted(maps.Keys(settings)) {
		p.Env = append(p.Env, fmt.Sprintf("RCLONE_CONFIG_%s_%s=%s", strings.ToUpper(name), strings.ToUpper(option), settings[option]))
	}
	return name + ":" + root, nil
}

// tree is one source for all mounts: the only one, or a directory for each.
func (p *Plan) tree(roots, dirs []string) (string, error) {
	if len(roots) == 1 && dirs[0] == "/" {
		return roots[0], nil
	}
	var upstreams []string
	for i, dir := range dirs {
		dir = strings.TrimPrefix(dir, "/")
		if dir == "" || strings.Contains(dir, "/") {
			return "", fmt.Errorf("path /%s: several mounts have each a directory of its own in the root of the Dataset", dir)
		}
		upstreams = append(upstreams, `"`+strings.ReplaceAll(dir+"="+roots[i], `"`, `""`)+`"`)
	}
	if len(upstreams) == 0 {
		return "", fmt.Errorf("the Dataset has no mounts")
	}
	p.Env = append(p.Env, "RCLONE_CONFIG_ALL_TYPE=combine", "RCLONE_CONFIG_ALL_UPSTREAMS="+strings.Join(upstreams, " "))
	return "all:", nil
}

// cache keeps what was read in the first directory of the client's tiers.
func (p *Plan) cache(levels []contract.TierConfig) error {
	switch {
	case len(levels) == 0:
		return nil
	case len(levels) > 1 || len(levels[0].MountPaths) != 1 || len(levels[0].Quotas) != 1:
		return fmt.Errorf("rclone caches in one directory: give client.tieredStore one level with one path")
	}
	quota, err := bytesOf(levels[0].Quotas[0])
	if err != nil {
		return err
	}
	p.Args = append(p.Args, "--vfs-cache-mode=full", "--cache-dir="+levels[0].MountPaths[0], "--vfs-cache-max-size="+quota)
	return nil
}

// bytesOf turns a quantity such as 2Gi into rclone's words.
func bytesOf(quantity string) (string, error) {
	for _, unit := range []string{"Ki", "Mi", "Gi", "Ti", "Pi"} {
		if number, ok := strings.CutSuffix(quantity, unit); ok {
			return number + unit + "B", nil
		}
	}
	if _, err := strconv.ParseInt(quantity, 10, 64); err != nil {
		return "", fmt.Errorf("quota %q is no quantity of bytes such as 2Gi", quantity)
	}
	return quantity + "B", nil
}
