package rclone

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/config/configmap"
	"github.com/rclone/rclone/fs/config/obscure"

	"github.com/millrace/millrace/runtime/source"
)

// schemes and the backend of each. rclone://backend/path names any of them.
var schemes = map[string]string{
	"sftp": "sftp", "ftp": "ftp", "ftps": "ftp", "webdav": "webdav", "webdavs": "webdav",
	"gcs": "google cloud storage", "azblob": "azureblob", "b2": "b2", "swift": "swift", "dropbox": "dropbox",
}

// anyBackend is the scheme that names its backend as the host.
const anyBackend = "rclone"

// Schemes are all that Open knows.
func Schemes() []string {
	return slices.Sorted(maps.Keys(schemes))
}

// Knows tells whether a mount point is for Open.
func Knows(mountPoint string) bool {
	scheme, _, found := strings.Cut(mountPoint, "://")
	return found && (schemes[scheme] != "" || scheme == anyBackend)
}

// Options that are ours and not the backend's.
const (
	optTimeout  = "timeout"
	optCA       = "ca"
	optInsecure = "insecure-host-key"
)

// refused options, and why: what starts programs, what goes around the rules of
// egress, what asks a person.
var refused = map[string]string{
	"ssh":                  "it starts a program",
	"bearer_token_command": "it starts a program",
	"use_az":               "it starts a program",
	"unix_socket":          "it goes around the rules for addresses",
	"socks_proxy":          "it goes around the rules for addresses",
	"http_proxy":           "it goes around the rules for addresses",
	"key_use_agent":        "there is no agent: give key_pem",
	"ask_password":         "there is nobody to ask: give pass",
	"pin_host_key":         "trust at the first use is started anew with every pod: give host_keys",
}

// ambient options take the identity of the machine from its metadata service.
var ambient = []string{"env_auth", "use_msi"}

// addresses are the options that name a host.
var addresses = []string{"host", "url", "endpoint", "auth", "storage_url", "download_url", "auth_url", "token_url"}

// remote is a mount point in rclone's words.
type remote struct {
	info *fs.RegInfo
	root string
	// values of the backend's options; defaults are below.
	values  configmap.Simple
	timeout time.Duration
	ca      string
}

// parse reads a mount point and its options.
func parse(c source.Config) (*remote, error) {
	scheme, rest, _ := strings.Cut(c.MountPoint, "://")
	backend, implied, err := place(scheme, rest)
	if err != nil {
		return nil, err
	}
	info, err := fs.Find(backend)
	if err != nil {
		return nil, fmt.Errorf("backend %q is not compiled in; known are the schemes %s", backend, strings.Join(Schemes(), ", "))
	}
	r := &remote{info: info, root: implied["root"], values: configmap.Simple{}, timeout: defaultTimeout}
	delete(implied, "root")
	maps.Copy(r.values, implied)
	insecure := false
	for _, options := range []map[string]string{c.Options, c.EncryptOptions} {
		for name, value := range options {
			value = strings.TrimSpace(value)
			switch name {
			case optTimeout:
				if r.timeout, err = time.ParseDuration(value); err != nil || r.timeout <= 0 {
					return nil, fmt.Errorf("option %s is %q, want a duration such as 30s", name, value)
				}
				continue
			case optCA:
				r.ca = value
				continue
			case optInsecure:
				insecure = value == "true"
				continue
			}
			if err := r.set(name, value); err != nil {
				return nil, err
			}
		}
	}
	if backend == "sftp" && r.values["host_keys"] == "" && r.values["known_hosts_file"] == "" {
		if !insecure {
			return nil, fmt.Errorf("option host_keys is missing: give the server's public keys (type and key, as ssh-keyscan prints them), or %s=true", optInsecure)
		}
		r.values["known_hosts_file"] = "none"
	}
	for _, name := range ambient {
		if on := r.values[name]; on != "" && on != "false" {
			if err := c.Egress.CheckHost("169.254.169.254"); err != nil {
				return nil, fmt.Errorf("option %s takes the machine's identity: %w", name, err)
			}
		}
	}
	for _, name := range addresses {
		if err := c.Egress.CheckHost(host(r.values[name])); err != nil {
			return nil, fmt.Errorf("option %s: %w", name, err)
		}
	}
	return r, nil
}

// place splits what stands behind the scheme into backend and options; the
// option root is the path.
func place(scheme, rest string) (backend string, implied map[string]string, err error) {
	authority, p, _ := strings.Cut(rest, "/")
	switch backend = schemes[scheme]; scheme {
	case anyBackend:
		return authority, map[string]string{"root": p}, nil
	case "webdav", "webdavs":
		u := url.URL{Scheme: strings.Replace(scheme, "webdav", "http", 1), Host: authority, Path: "/" + p}
		if authority == "" || strings.Contains(authority, "@") {
			return "", nil, fmt.Errorf("write it as %s://host/path, and user and pass as options", scheme)
		}
		return backend, map[string]string{"url": u.String()}, nil
	case "sftp", "ftp", "ftps":
		u, err := url.Parse("any://" + authority)
		if err != nil || u.Hostname() == "" {
			return "", nil, fmt.Errorf("write it as %s://user@host:port/path", scheme)
		}
		if _, ok := u.User.Password(); ok {
			return "", nil, errors.New("give the password as encryptOption pass, not in the mount point")
		}
		implied = map[string]string{"host": u.Hostname(), "root": p}
		if p != "" || strings.HasSuffix(rest, "/") {
			implied["root"] = "/" + p
		}
		for name, value := range map[string]string{"port": u.Port(), "user": u.User.Username()} {
			if value != "" {
				implied[name] = value
			}
		}
		if scheme == "ftps" {
			implied["tls"] = "true"
		}
		return backend, implied, nil
	}
	return backend, map[string]string{"root": strings.Trim(rest, "/")}, nil
}

// set takes an option that the backend knows; others are for other mounts.
func (r *remote) set(name, value string) error {
	if why := refused[name]; why != "" || strings.HasSuffix(name, "_command") && value != "" {
		if why == "" {
			why = "it starts a program"
		}
		return fmt.Errorf("option %s is not served: %s", name, why)
	}
	option := r.info.Options.Get(name)
	if option == nil {
		return nil
	}
	switch {
	case name == "key_pem": // one line, as the backend wants it
		value = strings.ReplaceAll(strings.ReplaceAll(value, "\r", ""), "\n", `\n`)
	case option.IsPassword && value != "":
		var err error
		if value, err = obscure.Obscure(value); err != nil {
			return fmt.Errorf("option %s: %w", name, err)
		}
	}
	r.values[name] = value
	return nil
}

// mapper gives the values, and the defaults below them. Neither rclone's
// configuration file nor its environment is looked at.
func (r *remote) mapper() *configmap.Map {
	defaults := configmap.Simple{}
	for i := range r.info.Options {
		defaults[r.info.Options[i].Name] = r.info.Options[i].String()
	}
	return configmap.New().AddGetter(r.values, configmap.PriorityNormal).AddGetter(defaults, configmap.PriorityDefault)
}

// host of an address with or without a scheme.
func host(address string) string {
	if !strings.Contains(address, "://") {
		if strings.Contains(address, "/") || strings.Count(address, ":") > 1 {
			return strings.Trim(path.Dir(address+"/"), "[]")
		}
		address = "any://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Hostname()
}
