// Package standalone is a cache without Kubernetes: one process that is master,
// worker and client of its machine, or a process of each on several machines,
// and what people do with them: load, status, unmount.
package standalone

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/component"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/egress"
	"github.com/millrace/millrace/runtime/source/posix"
)

// Plan is what somebody asks for on a command line, word by word.
type Plan struct {
	// Source is mounted at the root, each of Mounts (/path=source) at its path.
	Source string
	Mounts []string
	// Options are key=value for every source, or /path:key=value for one of them;
	// Secrets likewise with a file that holds the value.
	Options, Secrets []string
	// Caches are DIR:SIZE or DIR:SIZE,MEDIUM.
	Caches []string
	// Engine are options of the engine itself, key=value.
	Engine []string
}

// media from fast to slow.
var media = []string{contract.TierMEM, contract.TierSSD, contract.TierHDD}

// Config makes of it what the components read.
func (p Plan) Config() (*contract.RuntimeConfig, error) {
	c := &contract.RuntimeConfig{}
	mounts, err := p.mounts()
	if err != nil {
		return nil, err
	}
	c.Mounts = mounts
	if c.Worker.TieredStoreLevels, err = p.levels(); err != nil {
		return nil, err
	}
	engine := map[string]string{}
	for _, s := range p.Engine {
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("--set %q: write it as key=value, such as %s=30s", s, contract.OptionMetadataTTL)
		}
		engine[key] = value
	}
	c.Master.Options, c.Worker.Options, c.Client.Options = engine, engine, engine
	return c, nil
}

func (p Plan) mounts() ([]contract.MountConfig, error) {
	var out []contract.MountConfig
	add := func(at, uri string) error {
		uri, err := sourceURI(uri)
		if err != nil {
			return err
		}
		at = path.Clean("/" + at)
		if slices.ContainsFunc(out, func(m contract.MountConfig) bool { return m.Path == at }) {
			return fmt.Errorf("two sources at %s: give each a path of its own", at)
		}
		out = append(out, contract.MountConfig{
			MountPoint: uri, Path: at, Name: strings.Trim(at, "/"), ReadOnly: true,
			Options: map[string]string{}, EncryptOptions: map[string]string{},
		})
		return nil
	}
	if p.Source != "" {
		if err := add("/", p.Source); err != nil {
			return nil, err
		}
	}
	for _, m := range p.Mounts {
		at, uri, ok := strings.Cut(m, "=")
		if !ok || !strings.HasPrefix(at, "/") || uri == "" {
			return nil, fmt.Errorf("--mount %q: write it as /path=source, such as /train=s3://bucket/train", m)
		}
		if err := add(at, uri); err != nil {
			return nil, err
		}
	}
	err := each("--option", p.Options, out, func(m *contract.MountConfig, key, value string) error {
		if isSecret(key) {
			return fmt.Errorf("-o %s: a secret on the command line is seen by everyone on the machine: write its value to a file and say --secret %s=FILE", key, key)
		}
		m.Options[key] = value
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, addSecrets(out, p.Secrets)
}

// addSecrets takes in KEY=FILE or /path:KEY=FILE.
func addSecrets(mounts []contract.MountConfig, secrets []string) error {
	return each("--secret", secrets, mounts, func(m *contract.MountConfig, key, file string) error {
		file, err := filepath.Abs(file)
		if err != nil {
			return err
		}
		if f, err := os.Open(file); err != nil {
			return fmt.Errorf("--secret %s: %w", key, err)
		} else {
			f.Close()
		}
		if m.EncryptOptions == nil {
			m.EncryptOptions = map[string]string{}
		}
		m.EncryptOptions[key] = file
		return nil
	})
}

// Names of options whose values must not stand on a command line, written with
// a hyphen between their words; and what such a name may end with all the same.
var (
	secretWords = regexp.MustCompile(`secret|passw|(^|-)pass(-|$)|token|authorization|cookie|(^|-)(account|private|api)-?key(-|$)|(^|-)sas(-|$)`)
	openEnd     = regexp.MustCompile(`-(file|path|id)$`)
	newWord     = regexp.MustCompile(`([a-z0-9])([A-Z])|[._]`)
)

// isSecret tells whether an option sounds like a secret.
func isSecret(option string) bool {
	words := strings.ToLower(newWord.ReplaceAllString(option, "$1-$2"))
	return secretWords.MatchString(words) && !openEnd.MatchString(words)
}

// each splits key=value or /path:key=value and applies it to the sources it is for.
func each(flag string, words []string, mounts []contract.MountConfig, apply func(m *contract.MountConfig, key, value string) error) error {
	for _, word := range words {
		key, value, ok := strings.Cut(word, "=")
		at, only := "", false
		if strings.HasPrefix(key, "/") {
			at, key, only = strings.Cut(key, ":")
		}
		if !ok || key == "" || strings.HasPrefix(word, "/") && !only {
			// Not the word: what stands behind the = may be a secret all the same.
			return fmt.Errorf("%s %s: write it as key=value, or as /path:key=value for one of several sources", flag, strings.SplitN(word, "=", 2)[0])
		}
		used := false
		for i := range mounts {
			if !only || mounts[i].Path == path.Clean(at) {
				used = true
				if err := apply(&mounts[i], key, value); err != nil {
					return err
				}
			}
		}
		if !used && only {
			return fmt.Errorf("%s %s:%s: there is no source at %s", flag, at, key, at)
		}
	}
	return nil
}

// sourceURI completes a source: a path of this machine becomes local:///path.
func sourceURI(s string) (string, error) {
	if strings.HasPrefix(s, contract.SchemePVC) {
		return "", fmt.Errorf("source %s: there are no claims without Kubernetes: give the directory where it is mounted, such as /mnt/nfs", s)
	}
	if dir, ok := strings.CutPrefix(s, "file://"); ok {
		s = "/" + strings.TrimLeft(dir, "/")
	}
	if dir, ok := contract.LocalPath(s); ok {
		s = dir
	}
	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		dir, err := filepath.Abs(s)
		if err != nil {
			return "", err
		}
		if dir, err = filepath.EvalSymlinks(dir); err != nil {
			return "", fmt.Errorf("source %s: %w", s, err)
		}
		if info, err := os.Stat(dir); err != nil {
			return "", fmt.Errorf("source %s: %w", s, err)
		} else if !info.IsDir() {
			return "", fmt.Errorf("source %s: it is not a directory", s)
		}
		return contract.SchemeLocal + dir, nil
	}
	host, _, _ := strings.Cut(rest, "/")
	if user, _, ok := strings.Cut(host, "@"); ok && strings.Contains(user, ":") {
		return "", fmt.Errorf("source %s: a password on the command line is seen by everyone on the machine: leave it out and use --secret", component.WithoutUser(scheme+"://"+rest))
	}
	return s, nil
}

// localDir is the directory of a source of this machine.
func localDir(uri string) (string, bool) { return contract.LocalPath(uri) }

// here opens sources as this machine sees them: local:// is a path of its own,
// where pods have it mounted elsewhere.
func here(open component.OpenSource) component.OpenSource {
	return func(ctx context.Context, c source.Config) (source.Store, error) {
		if dir, ok := localDir(c.MountPoint); ok {
			return posix.OpenBelow(dir, "", c)
		}
		c.Egress = egress.Unrestricted() // who mounts may as well connect by hand
		return open(ctx, c)
	}
}

func (p Plan) levels() ([]contract.TierConfig, error) {
	byMedium := map[string]*contract.TierConfig{}
	seen := map[string]bool{}
	for _, s := range p.Caches {
		dir, quota, medium, err := parseCache(s)
		if err != nil {
			return nil, err
		}
		if seen[dir] {
			return nil, fmt.Errorf("--cache %s: this directory is given twice", s)
		}
		seen[dir] = true
		if byMedium[medium] == nil {
			byMedium[medium] = &contract.TierConfig{MediumType: medium}
		}
		level := byMedium[medium]
		level.MountPaths, level.Quotas = append(level.MountPaths, dir), append(level.Quotas, strconv.FormatInt(quota, 10))
	}
	var out []contract.TierConfig
	for _, medium := range media {
		if level := byMedium[medium]; level != nil {
			out = append(out, *level)
		}
	}
	return out, nil
}

// parseCache reads DIR:SIZE or DIR:SIZE,MEDIUM.
func parseCache(s string) (dir string, quota int64, medium string, err error) {
	words := fmt.Errorf("--cache %q: write it as DIR:SIZE, such as /var/cache/millrace:100Gi, or DIR:SIZE,MEDIUM with %s", s, strings.Join(media, ", "))
	rest := s
	if i := strings.LastIndexByte(s, ','); i > strings.LastIndexByte(s, ':') {
		rest, medium = s[:i], strings.ToUpper(s[i+1:])
		if !slices.Contains(media, medium) {
			return "", 0, "", words
		}
	}
	i := strings.LastIndexByte(rest, ':')
	if i <= 0 {
		return "", 0, "", words
	}
	if dir, err = filepath.Abs(rest[:i]); err != nil {
		return "", 0, "", err
	}
	if quota, err = component.ParseBytes(rest[i+1:]); err != nil || quota <= 0 {
		return "", 0, "", words
	}
	if medium == "" {
		medium = mediumOf(dir)
	}
	return dir, quota, medium, nil
}

// mediumOf is MEM on a tmpfs, else SSD.
func mediumOf(dir string) string {
	for ; ; dir = filepath.Dir(dir) { // the directory itself may have yet to be made
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err == nil {
			if fs.Type == unix.TMPFS_MAGIC {
				return contract.TierMEM
			}
			return contract.TierSSD
		}
		if dir == "/" {
			return contract.TierSSD
		}
	}
}

// checkPlaces refuses trees that would contain themselves: a source that shows
// its own cache or its own mount grows for ever, or waits for itself.
func checkPlaces(c *contract.RuntimeConfig, mountPoint string) error {
	type place struct{ what, dir string }
	mine := []place{{"the mount point", mountPoint}}
	for _, level := range c.Worker.TieredStoreLevels {
		for _, dir := range level.MountPaths {
			if mountPoint != "" && contains(mountPoint, dir) {
				return fmt.Errorf("the cache directory %s is below the mount point %s: give one elsewhere", dir, mountPoint)
			}
			mine = append(mine, place{"the cache directory", dir})
		}
	}
	for _, m := range c.Mounts {
		dir, ok := localDir(m.MountPoint)
		if !ok {
			continue
		}
		for _, p := range mine {
			if p.dir != "" && contains(dir, p.dir) {
				return fmt.Errorf("%s %s is inside the source %s: give one elsewhere", p.what, p.dir, dir)
			}
		}
		if mountPoint != "" && contains(mountPoint, dir) {
			return fmt.Errorf("the source %s is below the mount point %s, which would hide it: give another mount point", dir, mountPoint)
		}
	}
	return nil
}

// contains tells whether dir is parent or below it.
func contains(parent, dir string) bool {
	return strings.HasPrefix(strings.TrimSuffix(dir, "/")+"/", strings.TrimSuffix(parent, "/")+"/")
}
