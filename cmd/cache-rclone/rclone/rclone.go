// Package rclone reads what rclone's backends can read: SFTP, WebDAV, FTP, Google
// Cloud Storage, Azure Blob Storage, Backblaze B2, Swift, Dropbox.
package rclone

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/cenkalti/backoff/v5"
	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/fshttp"
	"github.com/rclone/rclone/fs/hash"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/egress"
)

const (
	// defaultTimeout is how long a server may be silent.
	defaultTimeout = 30 * time.Second
	connectTimeout = 10 * time.Second
	// attempts of a request.
	attempts = 3
)

// Store reads the files below one place of a backend.
type Store struct {
	fs     fs.Fs
	gate   *gate
	config context.Context // holds rclone's configuration of this store
	name   string
	single string // the only file of a mount point that is one
	sum    hash.Type
}

var _ source.Store = (*Store)(nil)

// making keeps the backends that share a transport from sharing one of two stores.
var making sync.Mutex

// quiet keeps the library's own log, which is not ours, off the terminal: what
// matters comes as an error.
var quiet = sync.OnceFunc(func() { fs.GetConfig(context.Background()).LogLevel = fs.LogLevelCritical })

// Open makes a backend; some connect at once.
func Open(ctx context.Context, c source.Config) (*Store, error) {
	quiet()
	name := withoutUser(c.MountPoint)
	r, err := parse(c)
	if errors.Is(err, egress.ErrRefused) {
		return nil, fmt.Errorf("open source %s: %w: %w", name, source.ErrDenied, err)
	} else if err != nil {
		return nil, fmt.Errorf("open source %s: %w: %w", name, source.ErrInvalid, err)
	}
	ca, err := authorities(r.ca)
	if err != nil {
		return nil, fmt.Errorf("open source %s: option %s: %w: %w", name, optCA, source.ErrInvalid, err)
	}
	if ca != "" {
		defer func() { _ = os.Remove(ca) }()
	}
	g, err := newGate(c.Egress)
	if err != nil {
		return nil, fmt.Errorf("open source %s: %w", name, err)
	}
	// Detached: the backend keeps it for its whole life.
	config, settings := fs.AddConfig(context.WithoutCancel(ctx))
	settings.HTTPProxy = g.url()
	settings.Timeout, settings.ConnectTimeout = fs.Duration(r.timeout), fs.Duration(connectTimeout)
	settings.LowLevelRetries = attempts
	settings.NoGzip = true
	settings.UserAgent = "millrace"
	if ca != "" {
		settings.CaCert = []string{ca}
	}
	if r.info.Options.Get("http_proxy") != nil {
		r.values["http_proxy"] = g.url()
	}
	s := &Store{gate: g, config: config, name: strings.TrimRight(name, "/")}
	making.Lock()
	fshttp.ResetTransport()
	s.fs, err = r.info.NewFs(config, r.info.Name, r.root, r.mapper())
	making.Unlock()
	if errors.Is(err, fs.ErrorIsFile) {
		s.single, err = path.Base(c.MountPoint), nil
	}
	if err != nil {
		g.Close()
		return nil, s.failed("open source", "", err)
	}
	if f := s.fs.Features(); !f.SlowHash {
		s.sum = s.fs.Hashes().GetOne()
	}
	return s, nil
}

// withoutUser hides a password that should not be there.
func withoutUser(s string) string {
	scheme, rest, _ := strings.Cut(s, "://")
	host, tail, _ := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		user, _, _ := strings.Cut(host[:i], ":")
		host = user + host[i:]
	}
	if tail != "" {
		tail = "/" + tail
	}
	return scheme + "://" + host + tail
}

// authorities writes certificates to a file, which is how rclone takes them. It
// ends the process over one that it cannot read, so they are checked here.
func authorities(ca string) (file string, err error) {
	if ca == "" {
		return "", nil
	}
	pem := []byte(ca)
	if path.IsAbs(ca) {
		if pem, err = os.ReadFile(ca); err != nil {
			return "", err
		}
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return "", errors.New("it holds no certificate: give the PEM text or the path of its file")
	}
	f, err := os.CreateTemp("", "ca-*.pem")
	if err != nil {
		return "", err
	}
	_, err = f.Write(pem)
	return f.Name(), errors.Join(err, f.Close())
}

// String is the mount point.
func (s *Store) String() string { return s.name }

// Close ends every connection.
func (s *Store) Close() error {
	var err error
	if shutdown := s.fs.Features().Shutdown; shutdown != nil {
		err = shutdown(s.config)
	}
	s.gate.Close()
	return err
}

// with gives a call the configuration of the store.
func (s *Store) with(ctx context.Context) context.Context { return fs.CopyConfig(ctx, s.config) }

// Stat looks up a file, or a directory.
func (s *Store) Stat(ctx context.Context, p string) (source.Object, error) {
	if err := ctx.Err(); err != nil {
		return source.Object{}, s.failed("stat", p, err)
	}
	ctx = s.with(ctx)
	if s.single != "" && p != "" && p != s.single {
		return source.Object{}, s.failed("stat", p, source.ErrNotExist)
	}
	if p == "" {
		if s.single == "" {
			if err := s.hasDirectory(ctx, ""); err != nil {
				return source.Object{}, s.failed("stat", p, err)
			}
		}
		return source.Object{Dir: true}, nil
	}
	o, err := s.fs.NewObject(ctx, p)
	switch {
	case err == nil && o.Size() < 0:
		return source.Object{}, s.failed("stat", p, errNoSize)
	case err == nil:
		return s.object(ctx, o), nil
	case errors.Is(err, fs.ErrorIsDir):
		return source.Object{Path: p, Dir: true}, nil
	case notThere(err) || errors.Is(err, fs.ErrorNotAFile):
		if err = s.hasDirectory(ctx, p); err == nil {
			return source.Object{Path: p, Dir: true}, nil
		}
	}
	return source.Object{}, s.failed("stat", p, s.belowFile(ctx, p, err))
}

var (
	errNoSize = errors.New("the backend does not tell the file's size")
	errEnough = errors.New("enough")
)

// belowFile says that a path is not there if one of its parents, or itself in a
// listing, is a file: WebDAV answers that such a request is bad.
func (s *Store) belowFile(ctx context.Context, p string, err error) error {
	for ; says(err, "400 Bad Request") && p != "." && p != ""; p = path.Dir(p) {
		if _, e := s.fs.NewObject(ctx, p); e == nil {
			return source.ErrNotExist
		}
	}
	return err
}

// hasDirectory looks into a directory. Of stores that have none, one is there
// when something is in it; their root always is.
func (s *Store) hasDirectory(ctx context.Context, p string) error {
	found := p == "" || !s.fs.Features().BucketBased
	err := s.entries(ctx, p, func(fs.DirEntry) error {
		found = true
		return errEnough
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	if !found {
		return source.ErrNotExist
	}
	return nil
}

// entries lists a directory, page by page where the backend can.
func (s *Store) entries(ctx context.Context, dir string, each func(fs.DirEntry) error) error {
	page := func(entries fs.DirEntries) error {
		for _, e := range entries {
			if err := each(e); err != nil {
				return err
			}
		}
		return nil
	}
	if list := s.fs.Features().ListP; list != nil {
		return list(ctx, dir, page)
	}
	entries, err := s.fs.List(ctx, dir)
	if err != nil {
		return err
	}
	return page(entries)
}

// List gives the children of a directory. Files without a size, as Dropbox's
// documents, are left out, and names that no file system could have.
func (s *Store) List(ctx context.Context, dir string, each func(source.Object) error) error {
	if err := ctx.Err(); err != nil {
		return s.failed("list", dir, err)
	}
	ctx = s.with(ctx)
	if s.single != "" {
		if dir != "" {
			return s.failed("list", dir, source.ErrNotExist)
		}
		o, err := s.Stat(ctx, s.single)
		if err != nil {
			return err
		}
		return each(o)
	}
	found := dir == "" || !s.fs.Features().BucketBased
	var theirs error // of each: backends wrap what ends their listing
	err := s.entries(ctx, dir, func(e fs.DirEntry) error {
		found = true
		name, ok := strings.CutPrefix(e.Remote(), dir)
		if name = strings.TrimPrefix(name, "/"); !ok || !fileName(name) {
			return nil
		}
		out := source.Object{Path: path.Join(dir, name), Dir: true}
		if o, ok := e.(fs.Object); ok {
			if o.Size() < 0 {
				return nil
			}
			out = s.object(ctx, o)
		}
		theirs = each(out)
		return theirs
	})
	switch {
	case theirs != nil:
		return theirs
	case err == nil && !found:
		err = source.ErrNotExist
	}
	if err != nil {
		return s.failed("list", dir, s.belowFile(ctx, dir, err))
	}
	return nil
}

func fileName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= 255 && utf8.ValidString(name) && !strings.ContainsAny(name, "/\x00")
}

// object identifies a file by a checksum that costs no request, else by size and time.
func (s *Store) object(ctx context.Context, o fs.Object) source.Object {
	out := source.Object{Path: o.Remote(), Size: o.Size(), ModTime: o.ModTime(ctx)}
	if s.sum != hash.None {
		if sum, err := o.Hash(ctx, s.sum); err == nil && sum != "" {
			out.ETag = s.sum.String() + ":" + sum
		}
	}
	return out
}

// Open reads a range of the version o, which is compared before the first byte
// and after the last.
func (s *Store) Open(ctx context.Context, o source.Object, off, n int64) (io.ReadCloser, error) {
	n = min(n, o.Size-off)
	if n <= 0 {
		return io.NopCloser(strings.NewReader("")), nil
	}
	if err := ctx.Err(); err != nil {
		return nil, s.failed("read", o.Path, err)
	}
	ctx = s.with(ctx)
	in, err := again(ctx, s, o.Path, func() (io.ReadCloser, error) { return s.begin(ctx, o, off, n) })
	if err != nil {
		return nil, err
	}
	return &part{ctx: ctx, store: s, object: o, in: in, left: n}, nil
}

// again does f until it is answered: a connection that idled may have been closed
// by the server at any time.
func again[T any](ctx context.Context, s *Store, p string, f func() (T, error)) (T, error) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval = 100 * time.Millisecond
	return backoff.Retry(ctx, func() (T, error) {
		out, err := f()
		if err != nil {
			err = s.failed("read", p, err)
		}
		if !errors.Is(err, source.ErrUnavailable) {
			err = backoff.Permanent(err)
		}
		return out, err
	}, backoff.WithBackOff(pause), backoff.WithMaxTries(attempts))
}

func (s *Store) begin(ctx context.Context, o source.Object, off, n int64) (io.ReadCloser, error) {
	now, err := s.same(ctx, o)
	if err != nil {
		return nil, err
	}
	return now.Open(ctx, &fs.RangeOption{Start: off, End: off + n - 1})
}

// same is the file if it is still of o's version.
func (s *Store) same(ctx context.Context, o source.Object) (fs.Object, error) {
	now, err := s.fs.NewObject(ctx, o.Path)
	if err != nil {
		return nil, err
	}
	if then := s.object(ctx, now); then.Version() != o.Version() || then.Size != o.Size {
		return nil, source.ErrChanged
	}
	return now, nil
}

// part is a range of a file.
type part struct {
	ctx    context.Context
	store  *Store
	object source.Object
	in     io.ReadCloser
	left   int64
}

func (p *part) Read(buf []byte) (int, error) {
	if p.left <= 0 {
		return 0, io.EOF
	}
	n, err := p.in.Read(buf[:min(int64(len(buf)), p.left)])
	p.left -= int64(n)
	if p.left == 0 {
		// The last bytes are given once it is known whose they are.
		if _, err := again(p.ctx, p.store, p.object.Path, func() (fs.Object, error) { return p.store.same(p.ctx, p.object) }); err != nil {
			return 0, err
		}
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		// A file that was cut short or replaced ends like a connection that broke.
		if _, e := p.store.same(p.ctx, p.object); errors.Is(e, source.ErrChanged) {
			err = e
		}
		err = p.store.failed("read", p.object.Path, err)
	}
	return n, err
}

func (p *part) Close() error { return p.in.Close() }

// notThere are the ways in which backends say so.
func notThere(err error) bool {
	return errors.Is(err, fs.ErrorObjectNotFound) || errors.Is(err, fs.ErrorDirNotFound) || errors.Is(err, os.ErrNotExist) || errors.Is(err, source.ErrNotExist)
}

// says tells whether an error without a type has one of the words.
func says(err error, words ...string) bool {
	text := err.Error()
	for _, word := range words {
		if strings.Contains(text, word) {
			return true
		}
	}
	return false
}

// failed names what was done to which URI and says which kind of failure it was.
func (s *Store) failed(what, p string, err error) error {
	uri := s.name
	if p != "" && s.single == "" {
		uri += "/" + p
	}
	kind := source.ErrUnavailable
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, source.ErrChanged), errors.Is(err, source.ErrNotExist):
		return fmt.Errorf("%s %s: %w", what, uri, err)
	case notThere(err):
		kind = source.ErrNotExist
	case errors.Is(err, fs.ErrorIsDir), errors.Is(err, fs.ErrorNotAFile):
		kind = source.ErrChanged // of a file
	case errors.Is(err, fs.ErrorPermissionDenied), errors.Is(err, os.ErrPermission),
		says(err, egress.ErrRefused.Error(), "unable to authenticate", "401 Unauthorized", "403 Forbidden", "Login incorrect", "AuthenticationFailed", "AuthorizationFailure"):
		kind = source.ErrDenied
	case errors.Is(err, errNoSize), says(err, "knownhosts: ", "host key mismatch", "certificate signed by unknown authority", "didn't find section", "couldn't decode"):
		kind = source.ErrInvalid
	}
	return fmt.Errorf("%s %s: %w: %s", what, uri, kind, strings.ReplaceAll(err.Error(), s.gate.password, "…"))
}
