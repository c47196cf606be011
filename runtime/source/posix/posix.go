// Package posix reads a directory that is mounted here: a PersistentVolume, an
// NFS or other network mount, a host path.
package posix

import (
	"context"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/source"
)

// Options of a mount.
const (
	// OptionIdentity chooses what tells two versions of a file apart: "mtime"
	// (size and modification time), "ctime" (these, the time of the last change
	// of any kind and the inode number), or "auto", the default.
	OptionIdentity = "identity"
	// OptionLinkRoot is the directory where those who write the data have it
	// mounted: absolute links below it are links inside the mount.
	OptionLinkRoot = "link-root"
	// OptionTimeout is how long a file system that others serve may be silent.
	OptionTimeout = "timeout"
)

// defaultTimeout of a file system that others serve.
const defaultTimeout = 30 * time.Second

// Store reads below one directory and never leaves it: the kernel resolves each
// path beneath the directory, links within it included, and refuses what leads
// out. A link at the end of a path is given as a link.
type Store struct {
	name     string
	dir, sub string
	// roots are absolute directories whose links lie inside the mount.
	roots []string
	// from is what is mounted at dir.
	from     string
	identity identity
	gate     *gate
	source.Omissions

	mu     sync.Mutex
	root   *handle
	closed bool
}

var (
	_ source.Store   = (*Store)(nil)
	_ source.Omitter = (*Store)(nil)
)

// Open opens dir; name is the mount point as its user wrote it, for errors.
func Open(dir, name string) (*Store, error) {
	return OpenBelow(dir, "", source.Config{MountPoint: name})
}

// OpenBelow opens the directory sub below dir, which no link leads out of.
func OpenBelow(dir, sub string, c source.Config) (*Store, error) {
	s := &Store{name: strings.TrimRight(c.MountPoint, "/"), dir: dir, sub: strings.Trim(path.Clean("/"+sub), "/")}
	invalid := func(option, v, want string) error {
		return fmt.Errorf("open source %s: option %s is %q, want %s: %w", c.MountPoint, option, v, want, source.ErrInvalid)
	}
	timeout := defaultTimeout
	if v := c.Options[OptionTimeout]; v != "" {
		var err error
		if timeout, err = time.ParseDuration(v); err != nil || timeout <= 0 {
			return nil, invalid(OptionTimeout, v, "a duration such as 30s")
		}
	}
	if v := c.Options[OptionLinkRoot]; v != "" {
		if !path.IsAbs(v) {
			return nil, invalid(OptionLinkRoot, v, "an absolute path")
		}
		s.roots = append(s.roots, path.Clean(v))
	}
	local, isLocal := strings.CutPrefix(s.name, "local://")
	if isLocal {
		s.roots = append(s.roots, path.Clean("/"+local))
	}
	s.roots = append(s.roots, path.Join(dir, s.sub))

	// What is mounted here is not known yet, so neither is whether it answers.
	s.gate = newGate(timeout)
	type opened struct {
		root *handle
		kind fileSystem
	}
	got, err := call(context.Background(), s.gate, func() (opened, error) {
		root, err := openRoot(dir, s.sub)
		return opened{root, fileSystemOf(root)}, err
	}, func(o opened) { o.root.release() })
	if err != nil {
		return nil, fmt.Errorf("open source %s: %w", c.MountPoint, classify(err))
	}
	s.root, s.from = got.root, got.kind.from
	switch v := c.Options[OptionIdentity]; v {
	case "", "auto":
		s.identity = got.kind.identity(isLocal)
	case "mtime":
		s.identity = byMtime
	case "ctime":
		s.identity = byInode
		if !got.kind.stableInodes {
			s.identity = byCtime
		}
	default:
		s.root.release()
		return nil, invalid(OptionIdentity, v, "auto, mtime or ctime")
	}
	if got.kind.local {
		s.gate = nil
	}
	return s, nil
}

// String is the mount point.
func (s *Store) String() string { return s.name }

// Close lets go of the directory, after the calls that are under way.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		s.root.release()
	}
	return nil
}

// Stat looks up one path without following a link at its end.
func (s *Store) Stat(ctx context.Context, p string) (source.Object, error) {
	if err := ctx.Err(); err != nil {
		return source.Object{}, err
	}
	o, err := call(ctx, s.gate, func() (source.Object, error) {
		at, err := s.open(p, unix.O_PATH|unix.O_NOFOLLOW)
		if err != nil {
			return source.Object{}, err
		}
		defer unix.Close(at)
		var st unix.Statx_t
		// A client that keeps attributes asks its server: who wants to know
		// about one path has heard that it changed.
		if err := statx(at, "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, &st); err != nil {
			return source.Object{}, err
		}
		o, ok, err := s.object(p, at, "", &st)
		if err == nil && !ok {
			err = fmt.Errorf("%w: a %s is not served", source.ErrNotExist, typeName(&st))
		}
		return o, err
	}, nil)
	if err != nil {
		return source.Object{}, s.failed("stat", p, err)
	}
	return o, nil
}

// object is what st says of the entry name in the directory at, or of at itself
// without a name; ok is false for what is not served.
func (s *Store) object(p string, at int, name string, st *unix.Statx_t) (o source.Object, ok bool, err error) {
	o = source.Object{Path: p, ModTime: when(st.Mtime), Mode: uint32(st.Mode) & 0o777}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		o.Size = int64(st.Size)
		o.ETag = s.identity.tag(st)
	case unix.S_IFDIR:
		o.Dir = true
	case unix.S_IFLNK:
		target, err := readlink(at, name)
		if err != nil {
			return o, false, err
		}
		o.Link = s.inside(p, target)
	default:
		return o, false, nil
	}
	return o, true, nil
}

func when(t unix.StatxTimestamp) time.Time { return time.Unix(t.Sec, int64(t.Nsec)) }

func typeName(st *unix.Statx_t) string {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFIFO:
		return "pipe"
	case unix.S_IFSOCK:
		return "socket"
	default:
		return "device"
	}
}

// inside gives the target of the link at p: one that is absolute and lies in
// the mount is made relative, for readers see the mount elsewhere.
func (s *Store) inside(p, target string) string {
	if !path.IsAbs(target) {
		return toText(target)
	}
	clean := path.Clean(target)
	for _, root := range s.roots {
		rest, ok := strings.CutPrefix(clean+"/", strings.TrimSuffix(root, "/")+"/")
		if !ok {
			continue
		}
		up := strings.Repeat("../", strings.Count(p, "/"))
		if out := up + strings.TrimSuffix(rest, "/"); out != "" {
			return toText(strings.TrimSuffix(out, "/"))
		}
		return "."
	}
	return toText(target)
}

func (s *Store) failed(what, p string, err error) error {
	return fmt.Errorf("%s %s: %w", what, s.uri(p), classify(err))
}

func (s *Store) uri(p string) string {
	if p == "" {
		return s.name
	}
	return s.name + "/" + p
}
