package stage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"
)

// S3 is where objects are seeded.
type S3 struct {
	Endpoint, Bucket, AccessKey, SecretKey string
}

// Client speaks to the server in path style.
func (s S3) Client() *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(s.Endpoint), Region: "us-east-1", UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(s.AccessKey, s.SecretKey, ""),
	})
}

// Object is one object to seed.
type Object struct {
	Name string
	Size int64
}

// SmallObjects are n objects of size bytes in folders of a hundred.
func SmallObjects(n int, size int64) []Object {
	out := make([]Object, n)
	for i := range out {
		out[i] = Object{Name: fmt.Sprintf("train/%03d/img-%05d.jpg", i/100, i), Size: size}
	}
	return out
}

// Seed makes the bucket and puts the objects, waiting for the server to come up.
func Seed(ctx context.Context, to S3, objects []Object) error {
	client := to.Client()
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		_, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &to.Bucket})
		var mine *types.BucketAlreadyOwnedByYou
		if errors.As(err, &mine) {
			err = nil
		}
		return struct{}{}, err
	}, backoff.WithMaxElapsedTime(2*time.Minute))
	if err != nil {
		return fmt.Errorf("create bucket %s: %w", to.Bucket, err)
	}
	//nolint:staticcheck // its successor, transfermanager, has no stable release yet
	uploader := manager.NewUploader(client, func(u *manager.Uploader) { u.PartSize = 64 << 20; u.Concurrency = 2 })
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, o := range objects {
		group.Go(func() error {
			//nolint:staticcheck // as above
			_, err := uploader.Upload(ctx, &s3.PutObjectInput{Bucket: &to.Bucket, Key: &o.Name, Body: Content(o.Name, o.Size)})
			if err != nil {
				return fmt.Errorf("put %s: %w", o.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}
