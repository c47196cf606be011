// Package s3 reads a bucket of S3 or of a store that speaks its protocol.
package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/egress"
)

// Store reads the objects below one prefix of a bucket.
type Store struct {
	client         *s3.Client
	transport      *http.Transport
	timeout        time.Duration
	bucket, prefix string
	name           string
	payer          types.RequestPayer
	source.Omissions
}

var (
	_ source.Store   = (*Store)(nil)
	_ source.Walker  = (*Store)(nil)
	_ source.Omitter = (*Store)(nil)
)

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
	case errors.Is(err, context.Canceled), errors.Is(err, source.ErrNotExist), errors.Is(err, source.ErrChanged),
		errors.Is(err, source.ErrInvalid), errors.Is(err, source.ErrUnavailable):
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
