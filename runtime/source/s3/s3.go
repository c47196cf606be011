// Package s3 reads a bucket of S3 or of a store that speaks its protocol.
package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/egress"
)

// Options under which users of Fluid and Alluxio write the same thing; the
// first that is set wins.
var (
	optEndpoint  = []string{"endpoint", "alluxio.underfs.s3.endpoint", "s3.endpoint", "fs.s3a.endpoint", "fs.oss.endpoint", "fs.obs.endpoint", "fs.tos.endpoint", "url"}
	optRegion    = []string{"region", "alluxio.underfs.s3.region", "s3.region", "alluxio.underfs.s3.endpoint.region"}
	optPathStyle = []string{"path-style", "alluxio.underfs.s3.disable.dns.buckets", "fs.s3a.path.style.access"}
	optAccessKey = []string{"aws.accessKeyId", "access-key", "fs.s3a.access.key", "s3a.accessKeyId", "fs.oss.accessKeyId", "fs.obs.access.key", "fs.tos.access-key-id", "fs.cosn.userinfo.secretId", "accessKeyId"}
	optSecretKey = []string{"aws.secretKey", "secret-key", "fs.s3a.secret.key", "s3a.accessKeySecret", "fs.oss.accessKeySecret", "fs.obs.secret.key", "fs.tos.secret-access-key", "fs.cosn.userinfo.secretKey", "secretKey", "aws.secretAccessKey"}
	optToken     = []string{"aws.sessionToken", "session-token", "fs.s3a.session.token"}
	optTimeout   = []string{"socket-timeout", "alluxio.underfs.s3.socket.timeout"}
)

const (
	// defaultTimeout is how long a server may be silent.
	defaultTimeout = 30 * time.Second
	// attempts of a request, within the budget of the SDK's retry tokens.
	attempts = 4
)

// Store reads the objects below one prefix of a bucket.
type Store struct {
	client         *s3.Client
	transport      *http.Transport
	timeout        time.Duration
	bucket, prefix string
	name           string
}

var (
	_ source.Store  = (*Store)(nil)
	_ source.Walker = (*Store)(nil)
)

// Open makes a client; it does not speak to the server yet.
func Open(ctx context.Context, c source.Config) (*Store, error) {
	// Not a URL: a prefix may have any character, also % and ?.
	scheme, rest, _ := strings.Cut(c.MountPoint, "://")
	bucket, prefix, _ := strings.Cut(rest, "/")
	if bucket == "" {
		return nil, fmt.Errorf("open source %s: write it as %s://bucket/prefix: %w", c.MountPoint, scheme, source.ErrInvalid)
	}
	get := func(names []string) string {
		for _, name := range names {
			// Values that come from files often end in a line feed.
			if v := strings.TrimSpace(c.EncryptOptions[name]); v != "" {
				return v
			}
			if v := strings.TrimSpace(c.Options[name]); v != "" {
				return v
			}
		}
		return ""
	}
	region := get(optRegion)
	if region == "" {
		region = "us-east-1"
	}
	timeout := defaultTimeout
	if v := get(optTimeout); v != "" {
		var err error
		if timeout, err = parseTimeout(v); err != nil {
			return nil, fmt.Errorf("open source %s: the timeout %q is no duration such as 30s: %w", c.MountPoint, v, source.ErrInvalid)
		}
	}
	transport := awshttp.NewBuildableClient().GetTransport()
	transport.MaxIdleConnsPerHost, transport.MaxConnsPerHost = 64, 64
	transport.ResponseHeaderTimeout = timeout
	transport.DisableCompression = true
	transport.DialContext = c.Egress.DialContext
	// The services that give credentials (STS, the metadata of the machine, the
	// agent of the container) are held to the same rule.
	agent := awshttp.NewBuildableClient().WithDialerOptions(func(d *net.Dialer) { d.ControlContext = c.Egress.Control })
	load := []func(*config.LoadOptions) error{
		config.WithRegion(region),
		config.WithRetryMaxAttempts(attempts),
		config.WithHTTPClient(agent),
		config.WithEndpointCredentialOptions(func(o *endpointcreds.Options) { o.HTTPClient = agent }),
	}
	if id, secret := get(optAccessKey), get(optSecretKey); id != "" || secret != "" {
		load = append(load, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(id, secret, get(optToken))))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("open source %s: %w: %w", c.MountPoint, source.ErrInvalid, err)
	}
	endpoint := get(optEndpoint)
	if endpoint == "" && !slices.Contains(amazon, scheme) {
		return nil, fmt.Errorf("open source %s: set the option endpoint to the address of the store: %w", c.MountPoint, source.ErrInvalid)
	}
	if endpoint != "" && !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	if u, err := url.Parse(endpoint); err != nil {
		return nil, fmt.Errorf("open source %s: the option endpoint is no URL: %w", c.MountPoint, source.ErrInvalid)
	} else if err := c.Egress.CheckHost(u.Hostname()); err != nil {
		return nil, fmt.Errorf("open source %s: option endpoint: %w: %w", c.MountPoint, source.ErrDenied, err)
	}
	client := s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.HTTPClient = &http.Client{Transport: transport}
		if endpoint != "" {
			o.BaseEndpoint = aws.String(endpoint)
		}
		o.UsePathStyle = get(optPathStyle) == "true"
		// Ranges cannot be checked against whole-object checksums; servers of
		// others do not all know the header.
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
	})
	if prefix = strings.Trim(prefix, "/"); prefix != "" {
		prefix += "/"
	}
	return &Store{client: client, transport: transport, timeout: timeout, bucket: bucket, prefix: prefix, name: strings.TrimRight(c.MountPoint, "/")}, nil
}

// amazon's schemes have an endpoint of their own.
var amazon = []string{"s3", "s3a", "s3n"}

// parseTimeout reads 30s and Alluxio's 30sec, 5min, 500ms.
func parseTimeout(v string) (time.Duration, error) {
	v = strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(v, " ", ""), "sec", "s"), "min", "m")
	d, err := time.ParseDuration(v)
	if err == nil && d <= 0 {
		err = errors.New("not positive")
	}
	return d, err
}

// String is the mount point.
func (s *Store) String() string { return s.name }

// Close closes the connections that idle.
func (s *Store) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

// bound ends a call whose server goes on and on without an answer.
func (s *Store) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, 2*s.timeout, errSilent)
}

var errSilent = errors.New("the server does not answer in time")

// Stat finds an object, or a directory that exists as a prefix of others. Where
// a key is both, the object wins.
func (s *Store) Stat(ctx context.Context, p string) (source.Object, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if p != "" {
		head, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: aws.String(s.prefix + p)})
		if err == nil {
			return source.Object{Path: p, Size: aws.ToInt64(head.ContentLength), ModTime: modTime(head.LastModified), ETag: aws.ToString(head.ETag)}, nil
		}
		if failed := s.failed("stat", p, because(ctx, err)); !errors.Is(failed, source.ErrNotExist) {
			return source.Object{}, failed
		}
	}
	prefix := s.directory(p)
	list, err := s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &prefix, MaxKeys: aws.Int32(1)})
	if err != nil {
		return source.Object{}, s.failed("stat", p, because(ctx, err))
	}
	if p != "" && len(list.Contents) == 0 {
		return source.Object{}, s.failed("stat", p, source.ErrNotExist)
	}
	return source.Object{Path: p, Dir: true}, nil
}

// List gives the objects and the common prefixes one level below dir. Names
// that no file system could have ("", ".", "..") are left out, and a prefix that
// is an object's name as well is hidden by the object.
func (s *Store) List(ctx context.Context, dir string, each func(source.Object) error) error {
	found := false
	prefix := s.directory(dir)
	err := s.pages(ctx, "list", dir, aws.String("/"), func(page *s3.ListObjectsV2Output, hides *shadow) error {
		found = found || len(page.Contents)+len(page.CommonPrefixes) > 0
		objects, prefixes := page.Contents, page.CommonPrefixes
		for len(objects)+len(prefixes) > 0 {
			var out source.Object
			if len(prefixes) == 0 || len(objects) > 0 && aws.ToString(objects[0].Key) < aws.ToString(prefixes[0].Prefix) {
				out = s.object(strings.TrimPrefix(aws.ToString(objects[0].Key), prefix), objects[0])
				objects = objects[1:]
				if !fileName(out.Path) {
					continue
				}
				hides.add(out.Path)
			} else {
				out = source.Object{Path: strings.TrimSuffix(strings.TrimPrefix(aws.ToString(prefixes[0].Prefix), prefix), "/"), Dir: true}
				prefixes = prefixes[1:]
				if !fileName(out.Path) || hides.below(out.Path+"/") {
					continue
				}
			}
			out.Path = path.Join(dir, out.Path)
			if err := each(out); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && !found && dir != "" {
		err = s.failed("list", dir, source.ErrNotExist)
	}
	return err
}

// Walk lists every object below dir in one flat listing, and leaves out what
// List would. Directories are not named, but for those that a key ending in a
// slash stands for.
func (s *Store) Walk(ctx context.Context, dir string, each func(source.Object) error) error {
	prefix := s.directory(dir)
	return s.pages(ctx, "walk", dir, nil, func(page *s3.ListObjectsV2Output, hides *shadow) error {
		for _, o := range page.Contents {
			name, isDir := strings.CutSuffix(strings.TrimPrefix(aws.ToString(o.Key), prefix), "/")
			if !filePath(name) || hides.below(strings.TrimPrefix(aws.ToString(o.Key), prefix)) {
				continue
			}
			out := source.Object{Path: path.Join(dir, name), Dir: true}
			if !isDir {
				hides.add(name)
				out = s.object(out.Path, o)
			}
			if err := each(out); err != nil {
				return err
			}
		}
		return nil
	})
}

// pages gives the pages of a listing, whose keys are in order.
func (s *Store) pages(ctx context.Context, what, dir string, delimiter *string, each func(*s3.ListObjectsV2Output, *shadow) error) error {
	prefix, hides := s.directory(dir), &shadow{}
	pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &prefix, Delimiter: delimiter})
	for pages.HasMorePages() {
		bounded, cancel := s.bound(ctx)
		page, err := pages.NextPage(bounded)
		if err != nil {
			err = s.failed(what, dir, because(bounded, err))
		} else {
			err = each(page, hides)
		}
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// shadow remembers the objects whose names, with a slash, may still begin keys
// of an ordered listing. Each begins with the one before, so they are few.
type shadow struct{ names []string }

func (h *shadow) add(name string) {
	h.below(name)
	h.names = append(h.names, name)
}

// below tells whether key lies below an object. It must be given keys in order.
func (h *shadow) below(key string) bool {
	for len(h.names) > 0 && !strings.HasPrefix(key, h.names[len(h.names)-1]) {
		h.names = h.names[:len(h.names)-1]
	}
	return slices.ContainsFunc(h.names, func(name string) bool { return strings.HasPrefix(key, name+"/") })
}

// Open reads a range of the version o: If-Match makes the server refuse another.
// A source without ETags is held to size and modification time.
func (s *Store) Open(ctx context.Context, o source.Object, off, n int64) (io.ReadCloser, error) {
	n = min(n, o.Size-off)
	if n <= 0 {
		return io.NopCloser(strings.NewReader("")), nil
	}
	in := &s3.GetObjectInput{Bucket: &s.bucket, Key: aws.String(s.prefix + o.Path), Range: aws.String(fmt.Sprintf("bytes=%d-%d", off, off+n-1))}
	if o.ETag != "" {
		in.IfMatch = &o.ETag
	}
	ctx, cancel := context.WithCancelCause(ctx)
	silence := time.AfterFunc(2*s.timeout, func() { cancel(errSilent) })
	out, err := s.client.GetObject(ctx, in)
	silence.Stop()
	if err != nil {
		err = s.failed("read", o.Path, because(ctx, err))
		cancel(nil)
		return nil, err
	}
	b := &body{ctx: ctx, cancel: cancel, silence: silence, timeout: s.timeout, in: out.Body, left: n,
		failed: func(err error) error { return s.failed("read", o.Path, err) }}
	changed := aws.ToInt64(out.ContentLength) != n || aws.ToString(out.ETag) != o.ETag && o.ETag != "" ||
		o.ETag == "" && !o.ModTime.IsZero() && !modTime(out.LastModified).Equal(o.ModTime)
	if changed {
		b.Close()
		return nil, s.failed("read", o.Path, source.ErrChanged)
	}
	return b, nil
}

// body turns a connection that ends early, or is silent for too long, into an error.
type body struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	silence *time.Timer
	timeout time.Duration
	in      io.ReadCloser
	left    int64
	failed  func(error) error
}

func (b *body) Read(p []byte) (int, error) {
	b.silence.Reset(b.timeout)
	n, err := b.in.Read(p)
	b.silence.Stop()
	b.left -= int64(n)
	if errors.Is(err, io.EOF) && b.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.failed(because(b.ctx, err))
	}
	return n, err
}

func (b *body) Close() error {
	b.silence.Stop()
	b.cancel(nil)
	return b.in.Close()
}

// because gives the cause of a call that this package ended, else err.
func because(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	return err
}

func (s *Store) object(p string, o types.Object) source.Object {
	return source.Object{Path: p, Size: aws.ToInt64(o.Size), ModTime: modTime(o.LastModified), ETag: aws.ToString(o.ETag)}
}

// modTime has whole seconds: a listing may have fractions of them that a HEAD has not.
func modTime(t *time.Time) time.Time { return aws.ToTime(t).Truncate(time.Second) }

// directory is the prefix of the keys below a directory.
func (s *Store) directory(dir string) string {
	if dir == "" {
		return s.prefix
	}
	return s.prefix + dir + "/"
}

func fileName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.Contains(name, "/") && len(name) <= 255
}

func filePath(p string) bool {
	for name := range strings.SplitSeq(p, "/") {
		if !fileName(name) {
			return false
		}
	}
	return true
}

// failed names what was done to which URI and says which kind of failure it was.
func (s *Store) failed(what, p string, err error) error {
	kind := source.ErrUnavailable
	var response *awshttp.ResponseError
	var api smithy.APIError
	status, code := 0, ""
	if errors.As(err, &response) {
		status = response.HTTPStatusCode()
	}
	if errors.As(err, &api) {
		code = api.ErrorCode()
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, source.ErrNotExist), errors.Is(err, source.ErrChanged):
		return fmt.Errorf("%s %s: %w", what, s.uri(p), err)
	case code == "NoSuchBucket", code == "NoSuchKey", code == "NotFound", status == http.StatusNotFound:
		kind = source.ErrNotExist
	case status == http.StatusPreconditionFailed:
		kind = source.ErrChanged
	case status == http.StatusRequestedRangeNotSatisfiable:
		kind = source.ErrChanged
	case status == http.StatusMovedPermanently, code == "PermanentRedirect", code == "AuthorizationHeaderMalformed":
		return fmt.Errorf("%s %s: the bucket is in another region: set the option region: %w: %s", what, s.uri(p), source.ErrInvalid, code)
	case errors.Is(err, egress.ErrRefused), status == http.StatusForbidden, status == http.StatusUnauthorized, code == "InvalidAccessKeyId", code == "SignatureDoesNotMatch":
		kind = source.ErrDenied
	}
	detail := err.Error()
	if strings.Contains(detail, "failed to refresh cached credentials") { // it has no type
		kind, detail = source.ErrDenied, "there are no credentials: give access-key and secret-key as encryptOptions"
	}
	if code != "" {
		detail = code + ": " + api.ErrorMessage()
	}
	return fmt.Errorf("%s %s: %w: %s", what, s.uri(p), kind, detail)
}

func (s *Store) uri(p string) string {
	if p == "" {
		return s.name
	}
	return s.name + "/" + p
}
