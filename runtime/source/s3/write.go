package s3

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // what S3 checks what it was given with, not a signature
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/millrace/millrace/runtime/source"
)

const (
	// partBytes is held in memory of each object that is being written; a larger
	// one has at most maxParts parts.
	partBytes = 16 << 20
	maxParts  = 10000
	// metaVersion in the metadata of an object that was copied here tells which
	// version of its original it is.
	metaVersion = "millrace-version"
)

// Holds tells whether p is a whole copy of o.
func (s *Store) Holds(ctx context.Context, p string, o source.Object) (bool, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: aws.String(s.prefix + p), RequestPayer: s.payer})
	if err != nil {
		if err := s.failed("look for", p, because(ctx, err)); !errors.Is(err, source.ErrNotExist) {
			return false, err
		}
		return false, nil
	}
	return aws.ToInt64(out.ContentLength) == o.Size && out.Metadata[metaVersion] == versionTag(o), nil
}

// Put writes the bytes of o, which in gives, to p. The server checks every part
// against its MD5, and nothing is seen at p before all of it is there.
func (s *Store) Put(ctx context.Context, p string, o source.Object, in io.Reader) error {
	if !filePath(p) {
		return s.failed("write", p, fmt.Errorf("%w: no object can have this name", source.ErrInvalid))
	}
	metadata := map[string]string{metaVersion: versionTag(o)}
	part := max(partBytes, (o.Size+maxParts-1)/maxParts)
	buffer := make([]byte, min(part, o.Size))
	if o.Size > part {
		return s.putParts(ctx, p, o, in, buffer, metadata)
	}
	if _, err := io.ReadFull(in, buffer); err != nil {
		return fmt.Errorf("read what is written to %s: %w", s.uri(p), err)
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if _, err := s.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &s.bucket, Key: aws.String(s.prefix + p), Body: bytes.NewReader(buffer), ContentLength: aws.Int64(o.Size), ContentMD5: md5Of(buffer),
		Metadata: metadata, RequestPayer: s.payer,
	}); err != nil {
		return s.failed("write", p, because(ctx, err))
	}
	return nil
}

func (s *Store) putParts(ctx context.Context, p string, o source.Object, in io.Reader, buffer []byte, metadata map[string]string) (err error) {
	key := s.prefix + p
	upload, err := s.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &s.bucket, Key: &key, Metadata: metadata, RequestPayer: s.payer})
	if err != nil {
		return s.failed("write", p, err)
	}
	defer func() {
		if err == nil {
			return
		}
		// Parts of an upload that nobody ends cost their owner money.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_, aborted := s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &s.bucket, Key: &key, UploadId: upload.UploadId, RequestPayer: s.payer})
		if aborted != nil {
			err = errors.Join(err, s.failed("give up the upload of", p, aborted))
		}
	}()
	var parts []types.CompletedPart
	for left, number := o.Size, int32(1); left > 0; number++ {
		piece := buffer[:min(left, int64(len(buffer)))]
		if _, err := io.ReadFull(in, piece); err != nil {
			return fmt.Errorf("read what is written to %s: %w", s.uri(p), err)
		}
		part, err := s.putPart(ctx, key, upload.UploadId, number, piece)
		if err != nil {
			return s.failed("write", p, err)
		}
		parts = append(parts, types.CompletedPart{ETag: part, PartNumber: aws.Int32(number)})
		left -= int64(len(piece))
	}
	if _, err := s.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &s.bucket, Key: &key, UploadId: upload.UploadId, RequestPayer: s.payer, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	}); err != nil {
		return s.failed("write", p, err)
	}
	return nil
}

func (s *Store) putPart(ctx context.Context, key string, upload *string, number int32, piece []byte) (etag *string, err error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	out, err := s.client.UploadPart(ctx, &s3.UploadPartInput{
		Bucket: &s.bucket, Key: &key, UploadId: upload, PartNumber: aws.Int32(number), Body: bytes.NewReader(piece), ContentLength: aws.Int64(int64(len(piece))),
		ContentMD5: md5Of(piece), RequestPayer: s.payer,
	})
	if err != nil {
		return nil, because(ctx, err)
	}
	return out.ETag, nil
}

func md5Of(b []byte) *string {
	sum := md5.Sum(b) //nolint:gosec // see the import
	return aws.String(base64.StdEncoding.EncodeToString(sum[:]))
}

// versionTag names a version in the letters that a header may have.
func versionTag(o source.Object) string {
	sum := sha256.Sum256([]byte(o.Version()))
	return hex.EncodeToString(sum[:16])
}
