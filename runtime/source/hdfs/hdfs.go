// Package hdfs reads a directory of HDFS.
package hdfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/colinmarc/hdfs/v2"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/egress"
)

// listBatch is how many entries a NameNode gives at once (dfs.ls.limit), unless
// its administrator has said otherwise.
const listBatch = 1000

// Store reads the files below one directory.
type Store struct {
	setup  *setup
	policy egress.Policy
	name   string
	order  addresses

	slots  chan struct{} // one for each session that is not idle
	mu     sync.Mutex
	idle   []*session // the one that was given last at the end
	closed bool
}

// Not a source.Walker: HDFS has no listing of a tree, and the caller lists
// directories side by side.
var _ source.Store = (*Store)(nil)

// Open reads the configuration; it does not speak to the NameNode yet.
func Open(c source.Config) (*Store, error) {
	setup, err := configure(c)
	if err != nil {
		return nil, err
	}
	return &Store{
		setup: setup, policy: c.Egress, name: strings.TrimRight(c.MountPoint, "/"),
		order: addresses{all: slices.Clone(setup.addresses)},
		slots: make(chan struct{}, maxSessions),
	}, nil
}

// String is the mount point.
func (s *Store) String() string { return s.name }

// Close ends the sessions that idle; those of readers end with them.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.dropIdle()
	return nil
}

// Stat asks the NameNode for one path.
func (s *Store) Stat(ctx context.Context, p string) (out source.Object, err error) {
	if !valid(p) {
		return out, s.failed("stat", p, source.ErrNotExist)
	}
	one, err := s.with(ctx, "stat", p, nil, 0, func(one *session) error {
		info, err := one.client.Stat(s.at(p))
		if err != nil {
			return err
		}
		if out = object(p, info); out.Link != "" {
			return fmt.Errorf("%w: a symbolic link is not served", source.ErrNotExist)
		}
		return nil
	})
	if err != nil {
		return source.Object{}, err
	}
	s.give(one)
	return out, nil
}

// List gives the entries in the order of their names, as the NameNode does, a
// batch at a time. Snapshots are no entries; symbolic links are left out.
func (s *Store) List(ctx context.Context, dir string, each func(source.Object) error) error {
	if !valid(dir) {
		return s.failed("list", dir, source.ErrNotExist)
	}
	var last string // that was given, of which a listing that begins anew knows
	var rest []fs.FileInfo
	var stopped error
	give := func(batch []fs.FileInfo) error {
		for _, info := range batch {
			name := info.Name()
			if last != "" && !before(last, name) {
				continue
			}
			last = name
			o := object(path.Join(dir, name), info)
			if o.Link != "" || !valid(name) {
				continue
			}
			if stopped = each(o); stopped != nil {
				return errStopped
			}
		}
		return nil
	}
	one, err := s.with(ctx, "list", dir, nil, 0, func(one *session) error {
		f, err := one.client.Open(s.at(dir))
		if err != nil {
			return err
		}
		if !f.Stat().IsDir() {
			return fmt.Errorf("%w as a directory: it is a file", source.ErrNotExist)
		}
		for {
			batch, err := f.Readdir(listBatch)
			if err != nil && err != io.EOF { //nolint:errorlint // one that is wrapped is a lost connection
				return err
			}
			if len(batch) < listBatch {
				rest = batch
				return nil
			}
			// each may list as well, and must not wait for this session.
			<-s.slots
			err = give(batch)
			s.slots <- struct{}{}
			if err == nil && ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			if err != nil {
				return err
			}
		}
	})
	if err == nil {
		s.give(one)
		err = give(rest)
	}
	if stopped != nil {
		return stopped
	}
	return err
}

// before tells the order of a NameNode's listing: that of signed bytes.
func before(a, b string) bool {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return int8(a[i]) < int8(b[i])
		}
	}
	return len(a) < len(b)
}

// errStopped says that the caller has seen enough.
var errStopped = errors.New("stopped")

// with does f with a session and returns it, the caller's to give or drop. What
// is not answered is tried again until the time for that is over.
func (s *Store) with(ctx context.Context, what, p string, o *source.Object, off int64, f func(*session) error) (*session, error) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 100*time.Millisecond, 3*time.Second
	one, err := backoff.Retry(ctx, func() (*session, error) {
		one, err := s.once(ctx, o, off, f)
		if err != nil {
			err = s.failed(what, p, err)
		}
		if !errors.Is(err, source.ErrUnavailable) || errors.Is(err, errClosed) {
			err = backoff.Permanent(err)
		}
		return one, err
	}, backoff.WithBackOff(pause), backoff.WithMaxElapsedTime(s.setup.retry))
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%s %s: %w", what, s.uri(p), context.Cause(ctx))
	}
	return one, err
}

// once does f with a session. One that was idle may have lost its server long
// ago, which is no reason to wait.
func (s *Store) once(ctx context.Context, o *source.Object, off int64, f func(*session) error) (*session, error) {
	for {
		one, idle, err := s.take(ctx, o, off)
		if err != nil {
			return nil, err
		}
		stop := context.AfterFunc(ctx, one.cut)
		err = one.because(f(one))
		switch cut := !stop(); {
		case cut:
			s.drop(one)
			return nil, context.Cause(ctx)
		case err == nil:
			return one, nil
		case answered(err):
			s.give(one)
			return nil, err
		}
		s.order.last(one.dialed())
		s.drop(one)
		if !idle {
			return nil, err
		}
	}
}

// answered tells whether a failure is an answer, after which the session is in
// order.
func answered(err error) bool {
	var remote hdfs.Error
	return errors.As(err, &remote) || slices.ContainsFunc([]error{
		fs.ErrNotExist, fs.ErrPermission, fs.ErrInvalid, errStopped,
		source.ErrNotExist, source.ErrChanged, source.ErrInvalid,
	}, func(target error) bool { return errors.Is(err, target) })
}

// at is the absolute path of a path of the mount.
func (s *Store) at(p string) string { return path.Join(s.setup.root, p) }

// valid tells whether a path stays below the mount point, out of snapshots and
// of the NameNode's own names.
func valid(p string) bool {
	if p == "" {
		return true
	}
	for name := range strings.SplitSeq(p, "/") {
		switch name {
		case "", ".", "..", ".snapshot", ".reserved":
			return false
		}
	}
	return true
}

// status is what the library's FileInfo holds.
func status(sys any) *hdfs.FileStatus {
	st, _ := sys.(*hdfs.FileStatus)
	return st
}

// object describes a file. Its permissions are those of HDFS's users, not of
// the pods': the mount's user reads for all.
func object(p string, info fs.FileInfo) source.Object {
	st := status(info.Sys())
	o := source.Object{Path: p, Dir: info.IsDir(), ModTime: info.ModTime(), Link: string(st.GetSymlink())}
	if !o.Dir {
		o.Size = info.Size()
		// The inode: files that replace each other within a millisecond differ.
		o.ETag = strconv.FormatUint(st.GetFileId(), 36) + "-" + source.Object{Size: o.Size, ModTime: o.ModTime}.Version()
	}
	return o
}

// unchanged holds what the source has now to what was listed.
func unchanged(want, now source.Object) error {
	if want.ETag == "" {
		now.ETag = ""
	}
	if now.Dir || now.Version() != want.Version() {
		return source.ErrChanged
	}
	return nil
}

// readable refuses files whose blocks are not their bytes.
func readable(sys any) error {
	st := status(sys)
	if st.GetEcPolicy() != nil && st.GetLength() > 0 {
		return fmt.Errorf("%w: the file is erasure coded, which cannot be read here: keep a replicated copy", source.ErrInvalid)
	}
	if st.GetFileEncryptionInfo() != nil {
		return fmt.Errorf("%w: the file lies in an encryption zone, which cannot be read here: keep a copy outside", source.ErrInvalid)
	}
	return nil
}

// failed names what was done to which path and says which kind of failure it was.
func (s *Store) failed(what, p string, err error) error {
	kind, detail := source.ErrUnavailable, err.Error()
	var remote hdfs.Error
	exception := ""
	if errors.As(err, &remote) {
		exception = remote.Exception()
		message, _, _ := strings.Cut(strings.TrimSpace(remote.Message()), "\n")
		detail = exception[strings.LastIndexByte(exception, '.')+1:] + ": " + message
	}
	switch {
	case errors.Is(err, source.ErrNotExist), errors.Is(err, source.ErrChanged), errors.Is(err, source.ErrInvalid):
		return fmt.Errorf("%s %s: %w", what, s.uri(p), err)
	case errors.Is(err, errClosed):
		return fmt.Errorf("%s %s: %w: %w", what, s.uri(p), kind, err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s %s: %w", what, s.uri(p), source.ErrNotExist)
	case slices.Contains(absent, exception):
		kind = source.ErrNotExist
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s %s: %w for user %s", what, s.uri(p), source.ErrDenied, s.user())
	case slices.Contains(denied, exception), errors.Is(err, egress.ErrRefused):
		kind = source.ErrDenied
	case errors.Is(err, errLogin) && !unreachableKDC(detail), strings.Contains(detail, "SASL handshake") && strings.Contains(detail, "kerberos"):
		kind = source.ErrDenied
	case strings.Contains(detail, "unexpected sequence number") && s.setup.client.KerberosClient == nil:
		kind, detail = source.ErrDenied, "the NameNode refuses a user without proof, it may want Kerberos: set the option hadoop.security.authentication to kerberos"
	case errors.Is(err, fs.ErrInvalid):
		kind = source.ErrInvalid
	}
	return fmt.Errorf("%s %s: %w: %s", what, s.uri(p), kind, detail)
}

// Exceptions of the NameNode that the library does not know.
var (
	absent = []string{
		"org.apache.hadoop.fs.ParentNotDirectoryException",
		"org.apache.hadoop.fs.InvalidPathException",
		"org.apache.hadoop.hdfs.protocol.UnresolvedPathException",
	}
	denied = []string{
		"org.apache.hadoop.security.AccessControlException",
		"org.apache.hadoop.security.authorize.AuthorizationException",
		"org.apache.hadoop.security.token.SecretManager$InvalidToken",
		"javax.security.sasl.SaslException",
	}
)

// unreachableKDC tells a Kerberos server that does not answer from one that
// refuses; the library says so only in words.
func unreachableKDC(detail string) bool {
	return strings.Contains(detail, "Networking_Error") && !strings.Contains(detail, "KDC_Error") ||
		strings.Contains(detail, "no KDC") || strings.Contains(detail, "connection refused")
}

func (s *Store) user() string {
	if k := s.setup.client.KerberosClient; k != nil {
		return k.Credentials.UserName() + "@" + k.Credentials.Realm()
	}
	return s.setup.client.User
}

func (s *Store) uri(p string) string {
	if p == "" {
		return s.name
	}
	return s.name + "/" + p
}
