package s3_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/s3"
	"github.com/millrace/millrace/runtime/source/sourcetest"
	"github.com/millrace/millrace/runtime/source/sourcetest/s3server"
)

func admin(server *s3server.Server) *awss3.Client {
	return awss3.New(awss3.Options{BaseEndpoint: &server.Endpoint, Region: "us-east-1", UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(s3server.AccessKey, s3server.SecretKey, "")})
}

func open(t *testing.T, server *s3server.Server, mountPoint, secret string) *s3.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), source.Config{
		MountPoint:     mountPoint,
		Options:        map[string]string{"alluxio.underfs.s3.endpoint": server.Endpoint, "alluxio.underfs.s3.disable.dns.buckets": "true"},
		EncryptOptions: map[string]string{"aws.accessKeyId": s3server.AccessKey, "aws.secretKey": secret},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, c *awss3.Client, bucket, key string, data []byte) {
	t.Helper()
	if _, err := c.PutObject(t.Context(), &awss3.PutObjectInput{Bucket: &bucket, Key: &key, Body: bytes.NewReader(data)}); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

func TestSuiteAgainstARealServer(t *testing.T) {
	server := s3server.Start(t)
	c := admin(server)
	if _, err := c.CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: aws.String("suite")}); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"", "some/prefix"} {
		t.Run("prefix "+prefix, func(t *testing.T) {
			key := func(path string) string { return strings.TrimPrefix(prefix+"/"+path, "/") }
			sourcetest.Run(t, sourcetest.Fixture{
				Open: func(t *testing.T) source.Store {
					return open(t, server, strings.TrimSuffix("s3://suite/"+prefix, "/"), s3server.SecretKey)
				},
				Put: func(t *testing.T, path string, data []byte) { put(t, c, "suite", key(path), data) },
				Remove: func(t *testing.T, path string) {
					if _, err := c.DeleteObject(t.Context(), &awss3.DeleteObjectInput{Bucket: aws.String("suite"), Key: aws.String(key(path))}); err != nil {
						t.Fatal(err)
					}
				},
				Stop: server.Down, Start: server.Up,
			})
			emptyBucket(t, c)
		})
	}
}

func emptyBucket(t *testing.T, c *awss3.Client) {
	pages := awss3.NewListObjectsV2Paginator(c, &awss3.ListObjectsV2Input{Bucket: aws.String("suite")})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Contents {
			if _, err := c.DeleteObject(t.Context(), &awss3.DeleteObjectInput{Bucket: aws.String("suite"), Key: o.Key}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestTheServersAnswersKeepTheirMeaning(t *testing.T) {
	server := s3server.Start(t)
	if _, err := admin(server).CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: aws.String("mine")}); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		store *s3.Store
		want  error
	}{
		"wrong secret":   {open(t, server, "s3://mine", "wrong-secret-value"), source.ErrDenied},
		"missing bucket": {open(t, server, "s3://not-mine", s3server.SecretKey), source.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.store.List(t.Context(), "", func(source.Object) error { return nil })
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.store.String()) {
				t.Errorf("error %v", err)
			}
			if err != nil && (strings.Contains(err.Error(), "wrong-secret-value") || strings.Contains(err.Error(), s3server.SecretKey)) {
				t.Errorf("the error tells a secret: %v", err)
			}
			if _, err := tc.store.Stat(t.Context(), ""); !errors.Is(err, tc.want) {
				t.Errorf("stat: %v", err)
			}
		})
	}
	if _, err := s3.Open(t.Context(), source.Config{MountPoint: "s3://"}); !errors.Is(err, source.ErrInvalid) {
		t.Errorf("a mount point without a bucket: %v", err)
	}
}
