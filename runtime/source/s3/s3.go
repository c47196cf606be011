// Package s3 reads a bucket of S3 or of a store that speaks its protocol.
package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/millrace/millrace/runtime/source"
)

// Options under which users of Fluid and Alluxio write the same thing; the
// first that is set wins.
var (
	optEndpoint  = []string{"endpoint", "alluxio.underfs.s3.endpoint", "s3.endpoint", "fs.s3a.endpoint", "url"}
	optRegion    = []string{"region", "alluxio.underfs.s3.region", "s3.region", "alluxio.underfs.s3.endpoint.region"}
	optPathStyle = []string{"path-style", "alluxio.underfs.s3.disable.dns.buckets", "fs.s3a.path.style.access"}
	optAccessKey = []string{"aws.accessKeyId", "access-key", "fs.s3a.access.key", "s3a.accessKeyId", "accessKeyId"}
	optSecretKey = []string{"aws.secretKey", "secret-key", "fs.s3a.secret.key", "s3a.accessKeySecret", "secretKey", "aws.secretAccessKey"}
	optToken     = []string{"aws.sessionToken", "session-token", "fs.s3a.session.token"}
)

// Store reads the objects below one prefix of a bucket.
type Store struct {
	client         *s3.Client
	bucket, prefix string
	name           string
}

var (
	_ source.Store  = (*Store)(nil)
	_ source.Walker = (*Store)(nil)
)

// Open makes a client; it does not speak to the server yet.
func Open(ctx context.Context, c source.Config) (*Store, error) {
	u, err := url.Parse(c.MountPoint)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("open source %s: write it as s3://bucket/prefix: %w", c.MountPoint, source.ErrInvalid)
	}
	get := func(names []string) string {
		for _, name := range names {
			if v := c.EncryptOptions[name]; v != "" {
				return v
			}
			if v := c.Options[name]; v != "" {
				return v
			}
		}
		return ""
	}
	region := get(optRegion)
	if region == "" {
		region = "us-east-1"
	}
	load := []func(*config.LoadOptions) error{
		config.WithRegion(region),
		config.WithRetryMaxAttempts(4),
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.MaxIdleConnsPerHost, t.MaxConnsPerHost = 64, 64
			t.ResponseHeaderTimeout = 30 * time.Second // a server that hangs is unavailable
			t.DisableCompression = true
		})),
	}
	if id, secret := get(optAccessKey), get(optSecretKey); id != "" || secret != "" {
		load = append(load, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(id, secret, get(optToken))))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("open source %s: %w: %w", c.MountPoint, source.ErrInvalid, err)
	}
	endpoint := get(optEndpoint)
	if endpoint != "" && !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	client := s3.NewFromConfig(cfg, func(o *s3.Options) {
		if endpoint != "" {
			o.BaseEndpoint = aws.String(endpoint)
		}
		o.UsePathStyle = get(optPathStyle) == "true"
		// Ranges cannot be checked against whole-object checksums; servers of
		// others do not all know the header.
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
	})
	prefix := strings.Trim(u.Path, "/")
	if prefix != "" {
		prefix += "/"
	}
	return &Store{client: client, bucket: u.Host, prefix: prefix, name: strings.TrimSuffix(c.MountPoint, "/")}, nil
}

// String is the mount point.
func (s *Store) String() string { return s.name }

// Close has nothing to let go of: connections end when they idle.
func (s *Store) Close() error { return nil }

// Stat finds an object, or a directory that exists as a prefix of others. Where
// a key is both, the object wins.
func (s *Store) Stat(ctx context.Context, p string) (source.Object, error) {
	if p != "" {
		head, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: aws.String(s.prefix + p)})
		if err == nil {
			return source.Object{Path: p, Size: aws.ToInt64(head.ContentLength), ModTime: aws.ToTime(head.LastModified), ETag: aws.ToString(head.ETag)}, nil
		}
		if failed := s.failed("stat", p, err); !errors.Is(failed, source.ErrNotExist) {
			return source.Object{}, failed
		}
	}
	prefix := s.directory(p)
	list, err := s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &prefix, MaxKeys: aws.Int32(1)})
	if err != nil {
		return source.Object{}, s.failed("stat", p, err)
	}
	if p != "" && len(list.Contents) == 0 {
		return source.Object{}, s.failed("stat", p, source.ErrNotExist)
	}
	return source.Object{Path: p, Dir: true}, nil
}

// List gives the objects and the common prefixes one level below dir. A prefix
// that is an object's name as well is hidden by the object. Names that no file
// system could have ("", ".", "..") are left out.
func (s *Store) List(ctx context.Context, dir string, each func(source.Object) error) error {
	files := map[string]bool{}
	var dirs []string
	prefix, found := s.directory(dir), false
	pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &prefix, Delimiter: aws.String("/")})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return s.failed("list", dir, err)
		}
		found = found || len(page.Contents)+len(page.CommonPrefixes) > 0
		for _, o := range page.Contents {
			name := strings.TrimPrefix(aws.ToString(o.Key), prefix)
			if !fileName(name) {
				continue
			}
			files[name] = true
			if err := each(s.object(path.Join(dir, name), o)); err != nil {
				return err
			}
		}
		for _, p := range page.CommonPrefixes {
			if name := strings.TrimSuffix(strings.TrimPrefix(aws.ToString(p.Prefix), prefix), "/"); fileName(name) {
				dirs = append(dirs, name)
			}
		}
	}
	if !found && dir != "" {
		return s.failed("list", dir, source.ErrNotExist)
	}
	for _, name := range dirs {
		if files[name] {
			continue
		}
		if err := each(source.Object{Path: path.Join(dir, name), Dir: true}); err != nil {
			return err
		}
	}
	return nil
}

// Walk lists every object below dir in one flat listing. Directories are not
// named, but for those that a key ending in a slash stands for.
func (s *Store) Walk(ctx context.Context, dir string, each func(source.Object) error) error {
	prefix := s.directory(dir)
	pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &prefix})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return s.failed("walk", dir, err)
		}
		for _, o := range page.Contents {
			name := strings.TrimPrefix(aws.ToString(o.Key), prefix)
			isDir := strings.HasSuffix(name, "/")
			name = strings.TrimSuffix(name, "/")
			if !filePath(name) {
				continue
			}
			out := s.object(path.Join(dir, name), o)
			if isDir {
				out = source.Object{Path: path.Join(dir, name), Dir: true}
			}
			if err := each(out); err != nil {
				return err
			}
		}
	}
	return nil
}

// Open reads a range of the version o: If-Match makes the server refuse another.
func (s *Store) Open(ctx context.Context, o source.Object, off, n int64) (io.ReadCloser, error) {
	n = min(n, o.Size-off)
	if n <= 0 {
		return io.NopCloser(strings.NewReader("")), nil
	}
	in := &s3.GetObjectInput{Bucket: &s.bucket, Key: aws.String(s.prefix + o.Path), Range: aws.String(fmt.Sprintf("bytes=%d-%d", off, off+n-1))}
	if o.ETag != "" {
		in.IfMatch = &o.ETag
	}
	out, err := s.client.GetObject(ctx, in)
	if err != nil {
		return nil, s.failed("read", o.Path, err)
	}
	if got := aws.ToString(out.ETag); got != o.ETag || aws.ToInt64(out.ContentLength) != n {
		out.Body.Close()
		return nil, s.failed("read", o.Path, source.ErrChanged)
	}
	return &body{ReadCloser: out.Body, left: n, failed: func(err error) error { return s.failed("read", o.Path, err) }}, nil
}

// body turns a connection that ends early into an error.
type body struct {
	io.ReadCloser
	left   int64
	failed func(error) error
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if errors.Is(err, io.EOF) && b.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.failed(err)
	}
	return n, err
}

func (s *Store) object(p string, o types.Object) source.Object {
	return source.Object{Path: p, Size: aws.ToInt64(o.Size), ModTime: aws.ToTime(o.LastModified), ETag: aws.ToString(o.ETag)}
}

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
	case status == http.StatusForbidden, status == http.StatusUnauthorized, code == "InvalidAccessKeyId", code == "SignatureDoesNotMatch":
		kind = source.ErrDenied
	}
	detail := err.Error()
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
