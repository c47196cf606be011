package namespace_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/egress"
	"github.com/millrace/millrace/runtime/source/s3"
	"github.com/millrace/millrace/runtime/source/sourcetest/s3server"
)

var keys = flag.Int("keys", 100_000, "objects that BenchmarkS3AgainstTheSDK lists")

// BenchmarkS3AgainstTheSDK lists a bucket of the real server into a tree, and
// by the SDK's own paginator alone, in turns; the median of the ratios is what
// counts.
func BenchmarkS3AgainstTheSDK(b *testing.B) {
	const perDir = 1000
	server, ctx := s3server.Start(b), b.Context()
	client := awss3.New(awss3.Options{
		BaseEndpoint: &server.Endpoint, UsePathStyle: true, Region: "us-east-1",
		Credentials: credentials.NewStaticCredentialsProvider(s3server.AccessKey, s3server.SecretKey, ""),
	})
	bucket := aws.String("bench")
	if _, err := client.CreateBucket(ctx, &awss3.CreateBucketInput{Bucket: bucket}); err != nil {
		b.Fatal(err)
	}
	for i := range *keys {
		key := fmt.Sprintf("train/shard-%05d/image-%08d.jpg", i/perDir, i)
		if i%perDir != 0 {
			server.Put(b, "bench", key)
			continue
		}
		if _, err := client.PutObject(ctx, &awss3.PutObjectInput{Bucket: bucket, Key: &key, Body: bytes.NewReader(nil)}); err != nil {
			b.Fatal(err)
		}
	}
	config := source.Config{
		MountPoint: "s3://bench", Egress: egress.Unrestricted(),
		Options:        map[string]string{"alluxio.underfs.s3.endpoint": server.Endpoint, "alluxio.underfs.s3.disable.dns.buckets": "true"},
		EncryptOptions: map[string]string{"aws.accessKeyId": s3server.AccessKey, "aws.secretKey": s3server.SecretKey},
	}
	mounts := []namespace.Mount{{Path: "/", URI: "s3://bench", Open: func(ctx context.Context) (source.Store, error) { return s3.Open(ctx, config) }}}
	alone := func() time.Duration {
		began, n := time.Now(), 0
		pages := awss3.NewListObjectsV2Paginator(client, &awss3.ListObjectsV2Input{Bucket: bucket})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				b.Fatal(err)
			}
			n += len(page.Contents)
		}
		if n < *keys {
			b.Fatalf("the SDK lists %d of %d keys", n, *keys)
		}
		return time.Since(began)
	}
	tree := func() time.Duration {
		began := time.Now()
		t, err := namespace.New(mounts, namespace.Options{})
		if err != nil {
			b.Fatal(err)
		}
		defer t.Close()
		if err := t.WaitKnown(ctx, "/"); err != nil {
			b.Fatal(err)
		}
		if n := t.Totals().Files; n != int64(*keys) {
			b.Fatalf("the tree has %d of %d keys", n, *keys)
		}
		return time.Since(began)
	}
	for b.Loop() {
		var ratios, rates []float64
		for range 3 {
			sdk, ours := alone(), tree()
			ratios = append(ratios, sdk.Seconds()/ours.Seconds())
			rates = append(rates, float64(*keys)/ours.Seconds())
		}
		slices.Sort(ratios)
		slices.Sort(rates)
		b.ReportMetric(ratios[1], "of-the-SDK")
		b.ReportMetric(rates[1], "keys/s")
	}
}
