// Package hdfs reads a directory of HDFS.
package hdfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
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

const (
	// maxRead bounds what is held back until its checksums are known to be right.
	maxRead = 1 << 20
	// lessThanAChunk is fewer bytes than any file has for each checksum; they
	// are 512 unless its writer has said otherwise.
	lessThanAChunk = 64
)

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

// Open reads a range of the version o. A file that is replaced, cut or appended
// to is noticed when its blocks are looked up and when the range ends.
func (s *Store) Open(ctx context.Context, o source.Object, off, n int64) (io.ReadCloser, error) {
	n = min(n, o.Size-off)
	if n <= 0 {
		return io.NopCloser(strings.NewReader("")), nil
	}
	if !valid(o.Path) {
		return nil, s.failed("read", o.Path, source.ErrNotExist)
	}
	one, err := s.with(ctx, "read", o.Path, &o, off, func(one *session) error { return s.seek(one, o, off) })
	if err != nil {
		return nil, err
	}
	b := &body{store: s, object: o, pos: off, left: n}
	b.ctx, b.cancel = context.WithCancelCause(ctx)
	b.hold(one)
	return b, nil
}

// seek makes the session read o at off.
func (s *Store) seek(one *session, o source.Object, off int64) error {
	one.progress()
	if one.fits(&o, off, 0) < sameFile {
		one.leave()
		f, err := one.client.Open(s.at(o.Path))
		if err != nil {
			return err
		}
		if err := unchanged(o, object(o.Path, f.Stat())); err != nil {
			return err
		}
		if err := readable(f.Stat().Sys()); err != nil {
			return err
		}
		one.file, one.object = f, o
	}
	if one.pos != off { // else the stream goes on; the library ends it even then
		if err := one.moveTo(off); err != nil {
			return err
		}
	}
	one.since = time.Now()
	return nil
}

// body reads a range. It goes on where it was when a server fails.
type body struct {
	store  *Store
	ctx    context.Context
	cancel context.CancelCauseFunc
	object source.Object

	mu        sync.Mutex // held by Read, which Close may interrupt
	pos, left int64

	one  *session // nil when it failed, and at the end
	stop func() bool
	err  error
}

// hold ends the session's connections when the reader is cancelled.
func (b *body) hold(one *session) {
	b.one, b.stop = one, context.AfterFunc(b.ctx, one.cut)
}

// release gives the session back. It is of no use after a failure.
func (b *body) release(sound bool) {
	if b.one == nil {
		return
	}
	one := b.one
	b.one = nil
	if b.stop() && sound {
		b.store.give(one)
	} else {
		b.store.drop(one)
	}
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.some(p[:min(int64(len(p)), b.left)])
	b.pos += int64(n)
	b.left -= int64(n)
	if err == nil && b.left == 0 {
		// Before the last bytes go out: they may be of blocks that were cut and
		// written anew while they were read.
		b.release(true)
		var now source.Object
		if now, err = b.store.Stat(b.ctx, b.object.Path); err == nil {
			if err = unchanged(b.object, now); err != nil {
				err = b.store.failed("read", b.object.Path, err)
			}
		}
	}
	if err != nil {
		b.err = err
		b.release(false)
		return 0, err
	}
	return n, nil
}

// some reads what comes next, at least one byte.
func (b *body) some(p []byte) (n int, err error) {
	if b.one != nil {
		if n, err = b.one.read(p); err == nil {
			return n, nil
		}
		b.release(false)
	}
	one, err := b.store.with(b.ctx, "read", b.object.Path, &b.object, b.pos, func(one *session) error {
		if err := b.store.seek(one, b.object, b.pos); err != nil {
			return err
		}
		n, err = one.read(p)
		return err
	})
	if err != nil {
		return 0, err
	}
	b.hold(one)
	return n, nil
}

// moveTo makes the next byte the one at off. It goes back to the beginning
// first, which ends the stream: where the library skips a few bytes of a stream
// it forgets that it did, and reads elsewhere when it needs another replica.
func (s *session) moveTo(off int64) error {
	for _, at := range []int64{0, off} {
		if _, err := s.file.Seek(at, io.SeekStart); err != nil {
			s.leave()
			return err
		}
	}
	s.pos = off
	return nil
}

// read fills p, or as much of it as lies in one block, with bytes that agree
// with their checksums.
//
// A read of a whole chunk and more gives bytes out whose checksum is wrong, and
// the library asks another replica only for those after them. A read of less is
// checked first. So the last byte is read alone: where that needed no new
// stream, all before it was right, and else all is read again in small steps.
func (s *session) read(p []byte) (int, error) {
	p = p[:min(int64(len(p)), s.blockEnd()-s.pos, maxRead)]
	first, last := s.pos, len(p)-1
	for n := 0; n < len(p); {
		streams := s.opened()
		to := len(p)
		if n < last {
			to = last
		}
		m, err := s.step(p[n:to])
		if err != nil {
			return 0, err
		}
		if n > 0 && s.opened() != streams {
			return s.readAgain(p, first)
		}
		n += m
	}
	return len(p), nil
}

func (s *session) readAgain(p []byte, off int64) (int, error) {
	if err := s.moveTo(off); err != nil {
		return 0, s.because(err)
	}
	for n := 0; n < len(p); {
		m, err := s.step(p[n:min(n+lessThanAChunk, len(p))])
		if err != nil {
			return 0, err
		}
		n += m
	}
	return len(p), nil
}

// blockEnd is where the block at pos ends, if all blocks have the file's size:
// those of a concatenated file may end before.
func (s *session) blockEnd() int64 {
	st := status(s.file.Stat().Sys())
	size := int64(st.GetBlocksize())
	if size <= 0 {
		return math.MaxInt64
	}
	return s.pos - s.pos%size + size
}

// step reads at least one byte of the session's file.
func (s *session) step(p []byte) (int, error) {
	for range maxDials {
		n, err := s.file.Read(p)
		s.pos += int64(n)
		if n > 0 {
			s.since = time.Now()
			s.progress()
			return n, nil
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			s.leave()
			return 0, s.because(err)
		}
	}
	s.leave()
	return 0, io.ErrNoProgress
}

func (b *body) Close() error {
	if !b.mu.TryLock() { // a read waits, maybe for long
		b.cancel(fs.ErrClosed)
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	b.release(b.err == nil)
	b.cancel(nil)
	if b.err == nil {
		b.err = fs.ErrClosed
	}
	return nil
}

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
