// Package http reads files from a web server: those that its directory listings
// name, or a single one.
//
// A listing is a page made for people. Of it only the names are believed; size,
// time and identity of a file are what the server says when it is asked for the
// file itself.
package http

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/egress"
)

const (
	// defaultTimeout is how long a server may be silent.
	defaultTimeout = 30 * time.Second
	// defaultConnections is how many requests one store makes at once.
	defaultConnections, maxConnections = 32, 1024
	// maxSkip is up to where a file can be read from a server without range
	// requests: all bytes before are read and thrown away.
	maxSkip = 256 << 20
)

// Store reads the files below one URL, or one file.
type Store struct {
	base        *url.URL // as the user wrote it, without user and password
	client      *http.Client
	transport   *http.Transport
	retries     *rate.Limiter
	timeout     time.Duration
	connections int

	mu   sync.Mutex
	root root
}

// root is what the mount point is.
type root int

const (
	unknown root = iota
	directory
	file
)

var _ source.Store = (*Store)(nil)

// Open makes a client; it does not speak to the server yet.
func Open(_ context.Context, c source.Config) (*Store, error) {
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("open source %s: %w: %w", withoutUser(c.MountPoint), source.ErrInvalid, fmt.Errorf(format, args...))
	}
	base, err := url.Parse(c.MountPoint)
	if err != nil {
		return nil, invalid("this is no URL: write it as https://host/path, with what is special in names encoded (%%20)")
	}
	if base.Hostname() == "" || base.Opaque != "" {
		return nil, invalid("write it as https://host/path")
	}
	if base.User != nil {
		return nil, invalid("give user and password as encryptOptions %s and %s, not in the URL", optUser, optPassword)
	}
	if base.RawQuery != "" || base.Fragment != "" || base.ForceQuery {
		return nil, invalid("a URL with ? or # cannot be mounted; in names write %%3F and %%23")
	}
	if err := c.Egress.CheckHost(base.Hostname()); err != nil {
		return nil, fmt.Errorf("open source %s: %w: %w", c.MountPoint, source.ErrDenied, err)
	}
	get := func(name string) string {
		// Values that come from files often end in a line feed.
		if v := strings.TrimSpace(c.EncryptOptions[name]); v != "" {
			return v
		}
		return strings.TrimSpace(c.Options[name])
	}
	header, err := identity(c, get)
	if err != nil {
		return nil, invalid("%w", err)
	}
	roots, err := authorities(get(optCA))
	if err != nil {
		return nil, invalid("option %s: %w", optCA, err)
	}
	timeout, connections := defaultTimeout, defaultConnections
	if v := get(optTimeout); v != "" {
		if timeout, err = time.ParseDuration(v); err != nil || timeout <= 0 {
			return nil, invalid("option %s is %q, want a duration such as 30s", optTimeout, v)
		}
	}
	if v := get(optConnections); v != "" {
		if connections, err = strconv.Atoi(v); err != nil || connections < 1 || connections > maxConnections {
			return nil, invalid("option %s is %q, want a number from 1 to %d", optConnections, v, maxConnections)
		}
	}
	s := &Store{base: base, retries: newRetries(), timeout: timeout, connections: connections}
	if base.Path == "" || strings.HasSuffix(base.Path, "/") {
		s.root = directory
	}
	s.transport = newTransport(c, roots, timeout, connections)
	s.client = &http.Client{Transport: &credentials{next: s.transport, origin: base, header: header}, CheckRedirect: redirect}
	return s, nil
}

// withoutUser hides what stands before the host, also in what is no URL.
func withoutUser(s string) string {
	scheme, rest, _ := strings.Cut(s, "://")
	host, tail, slash := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		host = host[i+1:]
	}
	if slash {
		tail = "/" + tail
	}
	tail, _, _ = strings.Cut(tail, "?")
	return scheme + "://" + host + tail
}

// authorities reads certificates, given as they are or as a file's path. Nil is
// the system's own.
func authorities(ca string) (*x509.CertPool, error) {
	if ca == "" {
		return nil, nil
	}
	pem := []byte(ca)
	if path.IsAbs(ca) {
		var err error
		if pem, err = os.ReadFile(ca); err != nil {
			return nil, err
		}
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("it holds no certificate: give the PEM text or the path of its file")
	}
	return pool, nil
}

// String is the mount point.
func (s *Store) String() string { return strings.TrimRight(s.base.String(), "/") }

// Close closes the connections that idle.
func (s *Store) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

// url of a path below the mount point. Directories end in a slash.
func (s *Store) url(p string, dir bool) *url.URL {
	u := *s.base
	if s.kind() == file {
		return &u
	}
	escaped := strings.TrimSuffix(u.EscapedPath(), "/")
	u.Path = strings.TrimSuffix(u.Path, "/")
	if p != "" {
		for name := range strings.SplitSeq(p, "/") {
			escaped += "/" + url.PathEscape(name)
		}
		u.Path += "/" + p
	}
	if dir {
		u.Path, escaped = u.Path+"/", escaped+"/"
	}
	u.RawPath = escaped
	return &u
}

func (s *Store) kind() root {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.root
}

// find finds out what the mount point is: a file, or a directory to which the
// server redirects.
func (s *Store) find(ctx context.Context) (root, error) {
	if kind := s.kind(); kind != unknown {
		return kind, nil
	}
	o, err := s.head(ctx, s.base)
	if err != nil {
		return unknown, err
	}
	kind := file
	if o.Dir {
		kind = directory
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.root = kind
	return kind, nil
}

// single is the name of the only file of a mount point that is one.
func (s *Store) single() string { return path.Base(s.base.Path) }

// Stat asks for the attributes of a file. Directories have none but their being.
func (s *Store) Stat(ctx context.Context, p string) (source.Object, error) {
	o, err := s.stat(ctx, p)
	if err != nil {
		return source.Object{}, s.failed("stat", p, err)
	}
	return o, nil
}

func (s *Store) stat(ctx context.Context, p string) (source.Object, error) {
	kind, err := s.find(ctx)
	if err != nil {
		return source.Object{}, err
	}
	if p == "" && kind == file {
		return source.Object{Dir: true}, nil
	}
	if p == "" {
		return source.Object{Dir: true}, s.hasDirectory(ctx, "")
	}
	if kind == file && p != s.single() {
		return source.Object{}, source.ErrNotExist
	}
	o, err := s.head(ctx, s.url(p, false))
	if errors.Is(err, statusError(http.StatusNotFound)) && kind != file {
		// Some servers know a directory only with its slash.
		if s.hasDirectory(ctx, p) == nil {
			return source.Object{Path: p, Dir: true}, nil
		}
	}
	o.Path = p
	return o, err
}

// hasDirectory asks for a directory by its name with a slash. Whether it can be
// listed shows when that is asked for.
func (s *Store) hasDirectory(ctx context.Context, p string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*s.timeout, errSilent)
	defer cancel()
	out, err := s.do(ctx, http.MethodHead, s.url(p, true), nil)
	if headless(err) {
		return nil
	}
	if err == nil {
		out.Body.Close()
	}
	return err
}

// headless is a server that does not know HEAD.
func headless(err error) bool {
	return errors.Is(err, statusError(http.StatusMethodNotAllowed)) || errors.Is(err, statusError(http.StatusNotImplemented))
}

// errNoSize is a server that does not say how long a file is.
var errNoSize = errors.New("the server does not tell the file's size")

// head asks for a file's attributes until they are settled.
func (s *Store) head(ctx context.Context, u *url.URL) (source.Object, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*s.timeout+settling, errSilent)
	defer cancel()
	for again := false; ; again = true {
		out, err := s.attributes(ctx, u) //nolint:bodyclose // attributes does
		if err != nil {
			return source.Object{}, err
		}
		if out.StatusCode/100 == 3 {
			return source.Object{Dir: true}, nil
		}
		wait := unsettled(out.Header)
		if wait <= 0 || again {
			return objectOf(out)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return source.Object{}, context.Cause(ctx)
		}
	}
}

// attributes sends HEAD, or asks for one byte where that is not known.
func (s *Store) attributes(ctx context.Context, u *url.URL) (*http.Response, error) {
	out, err := s.do(ctx, http.MethodHead, u, nil)
	if err == nil {
		out.Body.Close()
	}
	if err == nil && (out.ContentLength >= 0 || out.StatusCode/100 == 3) || err != nil && !headless(err) {
		return out, err
	}
	out, err = s.do(ctx, http.MethodGet, u, http.Header{"Range": {"bytes=0-0"}})
	if errors.Is(err, statusError(http.StatusRequestedRangeNotSatisfiable)) { // an empty file
		out, err = s.do(ctx, http.MethodGet, u, nil)
	}
	if err == nil {
		out.Body.Close()
	}
	return out, err
}

// settling is for how long after its modification a file's attributes may stay
// the same while its bytes change: servers tell times, and make ETags of them,
// in whole seconds. Apache calls ETags weak for just as long.
const settling = 2 * time.Second

// unsettled is how much of that is left, by the server's own clock.
func unsettled(h http.Header) time.Duration {
	modified, err := http.ParseTime(h.Get("Last-Modified"))
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil || now.Before(modified) { // a clock that goes ahead
		return 0
	}
	return settling - now.Sub(modified)
}

// objectOf reads what identifies a file: a strong ETag, or time and size.
func objectOf(out *http.Response) (source.Object, error) {
	o := source.Object{Size: out.ContentLength, ModTime: modified(out.Header), ETag: strongETag(out.Header)}
	if out.StatusCode == http.StatusPartialContent {
		_, _, total, err := contentRange(out.Header)
		if err != nil {
			return source.Object{}, err
		}
		o.Size = total
	}
	if o.Size < 0 {
		return source.Object{}, errNoSize
	}
	return o, nil
}

// modified is the time of modification; 1970 where the server tells none.
func modified(h http.Header) time.Time {
	t, err := http.ParseTime(h.Get("Last-Modified"))
	if err != nil {
		return time.Unix(0, 0).UTC()
	}
	return t
}

func strongETag(h http.Header) string {
	tag := h.Get("Etag")
	if len(tag) < 2 || tag[0] != '"' || tag[len(tag)-1] != '"' {
		return ""
	}
	return tag
}

var errContentRange = errors.New("the server answers with a Content-Range that makes no sense")

// contentRange reads bytes 0-9/100; total is -1 for *.
func contentRange(h http.Header) (first, last, total int64, err error) {
	v, ok := strings.CutPrefix(h.Get("Content-Range"), "bytes ")
	span, size, ok2 := strings.Cut(v, "/")
	from, to, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, 0, errContentRange
	}
	first, err1 := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	total = -1
	var err3 error
	if size != "*" {
		total, err3 = strconv.ParseInt(size, 10, 64)
	}
	if err1 != nil || err2 != nil || err3 != nil || first < 0 || last < first || total >= 0 && last >= total {
		return 0, 0, 0, errContentRange
	}
	return first, last, total, nil
}

// List reads a directory's page for the names and asks for the attributes of
// each file. Files that the server lists and does not give out are left out.
func (s *Store) List(ctx context.Context, dir string, each func(source.Object) error) error {
	kind, err := s.find(ctx)
	if err != nil {
		return s.failed("list", dir, err)
	}
	entries := []entry{{name: s.single()}}
	if kind == file && dir != "" {
		return s.failed("list", dir, source.ErrNotExist)
	}
	if kind == directory {
		if entries, err = s.names(ctx, dir); err != nil {
			return s.failed("list", dir, err)
		}
	}
	var mu sync.Mutex // of each
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(s.connections)
	for _, e := range entries {
		if gctx.Err() != nil {
			break
		}
		p := path.Join(dir, e.name)
		g.Go(func() error {
			o := source.Object{Path: p, Dir: true}
			if !e.dir {
				var err error
				o, err = s.head(gctx, s.url(p, false))
				if notGivenOut(err) {
					return nil
				}
				if err != nil {
					return s.failed("list", p, err)
				}
				o.Path = p
			}
			mu.Lock()
			defer mu.Unlock()
			if err := gctx.Err(); err != nil {
				return err
			}
			return each(o)
		})
	}
	return g.Wait()
}

// notGivenOut is a file that was removed, that the server may not read, or that
// has no size.
func notGivenOut(err error) bool {
	return errors.Is(err, statusError(http.StatusNotFound)) || errors.Is(err, statusError(http.StatusGone)) ||
		errors.Is(err, statusError(http.StatusForbidden)) || errors.Is(err, errNoSize)
}

// names reads the page of a directory.
func (s *Store) names(ctx context.Context, dir string) ([]entry, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	silence := time.AfterFunc(2*s.timeout, func() { cancel(errSilent) })
	out, err := s.do(ctx, http.MethodGet, s.url(dir, true), http.Header{"Accept": {"text/html, application/json"}}) //nolint:bodyclose // by page.Close
	silence.Stop()
	if err != nil {
		cancel(nil)
		return nil, err
	}
	page := newBody(ctx, cancel, s.timeout, out.Body)
	defer page.Close()
	if out.StatusCode != http.StatusOK {
		return nil, errNoListing
	}
	return readListing(out.Request.URL, out.Header.Get("Content-Type"), page)
}

// Open reads a range of the version o. The server is asked to refuse another
// version, and its answer is compared all the same.
func (s *Store) Open(ctx context.Context, o source.Object, off, n int64) (io.ReadCloser, error) {
	n = min(n, o.Size-off)
	if n <= 0 {
		return io.NopCloser(strings.NewReader("")), nil
	}
	header := http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", off, off+n-1)}}
	if o.ETag != "" {
		header.Set("If-Match", o.ETag)
	} else if o.ModTime.Unix() > 0 {
		header.Set("If-Unmodified-Since", o.ModTime.UTC().Format(http.TimeFormat))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	silence := time.AfterFunc(2*s.timeout, func() { cancel(errSilent) })
	out, err := s.do(ctx, http.MethodGet, s.url(o.Path, false), header) //nolint:bodyclose // by the Close of what is returned
	silence.Stop()
	if err != nil {
		cancel(nil)
		return nil, s.failed("read", o.Path, err)
	}
	b := newBody(ctx, cancel, s.timeout, out.Body)
	skip, err := fits(out, o, off, n)
	if err == nil {
		err = b.skip(skip)
	}
	if err != nil {
		b.Close()
		return nil, s.failed("read", o.Path, err)
	}
	return &part{body: b, left: n, failed: func(err error) error { return s.failed("read", o.Path, err) }}, nil
}

// fits tells how much of the answer stands before the range, or why the answer
// is not that of the version o.
func fits(out *http.Response, o source.Object, off, n int64) (skip int64, err error) {
	if out.StatusCode/100 == 3 || o.ETag != strongETag(out.Header) && o.ETag != "" || o.ETag == "" && !modified(out.Header).Equal(o.ModTime) {
		return 0, source.ErrChanged
	}
	switch out.StatusCode {
	case http.StatusPartialContent:
		first, last, total, err := contentRange(out.Header)
		if err != nil {
			return 0, err
		}
		if total >= 0 && total != o.Size {
			return 0, source.ErrChanged
		}
		if first != off || last != off+n-1 {
			return 0, errContentRange
		}
		return 0, nil
	case http.StatusOK:
		if out.ContentLength >= 0 && out.ContentLength != o.Size {
			return 0, source.ErrChanged
		}
		if off > maxSkip {
			return 0, errNoRanges
		}
		return off, nil
	}
	return 0, statusError(out.StatusCode)
}

var errNoRanges = fmt.Errorf("the server has no range requests: files can be read up to %d MiB from it", maxSkip>>20)

// failed names what was done to which URL and says which kind of failure it was.
func (s *Store) failed(what, p string, err error) error {
	uri := s.String()
	if p != "" && s.kind() != file {
		uri += "/" + p
	}
	var status statusError
	kind := source.ErrUnavailable
	errors.As(err, &status)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, source.ErrNotExist), errors.Is(err, source.ErrChanged):
		return fmt.Errorf("%s %s: %w", what, uri, err)
	case status == http.StatusNotFound, status == http.StatusGone:
		kind = source.ErrNotExist
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusProxyAuthRequired, errors.Is(err, egress.ErrRefused):
		kind = source.ErrDenied
	case status == http.StatusPreconditionFailed, status == http.StatusRequestedRangeNotSatisfiable:
		kind = source.ErrChanged
	case untrusted(err):
		return fmt.Errorf("%s %s: give the server's authority as option %s: %w: %w", what, uri, optCA, source.ErrInvalid, err)
	case final(err), errors.Is(err, errNoListing), errors.Is(err, errLongListing), errors.Is(err, errNoSize), errors.Is(err, errNoRanges), errors.Is(err, errContentRange):
		kind = source.ErrInvalid
	case status == http.StatusRequestTimeout, status == http.StatusTooManyRequests:
	case status >= 400 && status < 500:
		kind = source.ErrInvalid
	}
	return fmt.Errorf("%s %s: %w: %w", what, uri, kind, err)
}
