package s3_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/s3"
	"github.com/millrace/millrace/runtime/source/sourcetest/s3server"
)

// discard takes parts in any order.
type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// sink counts nothing and keeps nothing; unlike io.Discard it makes the reader
// give its bytes.
var pool = make(chan []byte, 64)

func drain(b *testing.B, r io.ReadCloser, err error) {
	if err != nil {
		b.Error(err)
		return
	}
	defer r.Close()
	var p []byte
	select {
	case p = <-pool:
	default:
		p = make([]byte, 256<<10)
	}
	defer func() { pool <- p }()
	for {
		if _, err := r.Read(p); err == io.EOF {
			return
		} else if err != nil {
			b.Error(err)
			return
		}
	}
}

// BenchmarkAgainstTheSDK reads one object of 2 GiB and many of 64 KiB from the
// real server, through this package and by the SDK alone, in turns.
func BenchmarkAgainstTheSDK(b *testing.B) {
	server := s3server.Start(b)
	client := admin(b, server)
	ctx := b.Context()
	bucket := aws.String("bench")
	if _, err := client.CreateBucket(ctx, &awss3.CreateBucketInput{Bucket: bucket}); err != nil {
		b.Fatal(err)
	}
	const size, small = 2 << 30, 2000
	if err := os.Truncate(server.Put(b, "bench", "big"), size); err != nil {
		b.Fatal(err)
	}
	keys := make([]string, small)
	for i := range keys {
		keys[i] = fmt.Sprintf("small/%04d", i)
		if _, err := client.PutObject(ctx, &awss3.PutObjectInput{Bucket: bucket, Key: &keys[i], Body: bytes.NewReader(make([]byte, 64<<10))}); err != nil {
			b.Fatal(err)
		}
	}
	store, err := s3.Open(ctx, config(server.Endpoint, "s3://bench", s3server.SecretKey, map[string]string{"socket-timeout": "30s"}))
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	tuned := admin(b, server, func(t *http.Transport) {
		t.MaxIdleConnsPerHost, t.ReadBufferSize, t.DisableCompression = 128, 64<<10, true
	})
	o, err := store.Stat(ctx, "big")
	if err != nil {
		b.Fatal(err)
	}
	ranges := func(n int64, parallel int) func() {
		return func() {
			var g errgroup.Group
			g.SetLimit(parallel)
			for off := int64(0); off < size; off += n {
				g.Go(func() error {
					r, err := store.Open(ctx, o, off, n)
					drain(b, r, err)
					return nil
				})
			}
			_ = g.Wait()
		}
	}
	cases := []struct {
		name string
		n    float64
		unit string
		do   func()
	}{
		{"big, SDK downloader, 5 × 5 MiB", size / 1e6, "MB/s", func() {
			//nolint:staticcheck // what its successor is for, this one does as well
			d := manager.NewDownloader(tuned, func(d *manager.Downloader) {
				d.BufferProvider = manager.NewPooledBufferedWriterReadFromProvider(256 << 10)
			})
			//nolint:staticcheck // as above
			if _, err := d.Download(ctx, discard{}, &awss3.GetObjectInput{Bucket: bucket, Key: aws.String("big")}); err != nil {
				b.Error(err)
			}
		}},
		{"big, blocks of 4 MiB, 8 at once", size / 1e6, "MB/s", ranges(4<<20, 8)},
		{"big, blocks of 4 MiB, 4 at once", size / 1e6, "MB/s", ranges(4<<20, 4)},
		{"big, ranges of 64 MiB, 1 at once", size / 1e6, "MB/s", ranges(64<<20, 1)},
		{"big, ranges of 15 MiB, 1 at once", size / 1e6, "MB/s", ranges(15<<20, 1)},
		{"big, ranges of 64 MiB, 4 at once", size / 1e6, "MB/s", ranges(64<<20, 4)},
		{"small, SDK, 64 at once", small, "/s", func() {
			var g errgroup.Group
			g.SetLimit(64)
			for _, key := range keys {
				g.Go(func() error {
					out, err := tuned.GetObject(ctx, &awss3.GetObjectInput{Bucket: bucket, Key: &key})
					if err != nil {
						return err
					}
					drain(b, out.Body, nil)
					return nil
				})
			}
			if err := g.Wait(); err != nil {
				b.Error(err)
			}
		}},
		{"small, 64 at once", small, "/s", func() {
			var g errgroup.Group
			g.SetLimit(64)
			for _, key := range keys {
				g.Go(func() error {
					r, err := store.Open(ctx, source.Object{Path: key, Size: 64 << 10}, 0, 64<<10)
					drain(b, r, err)
					return nil
				})
			}
			_ = g.Wait()
		}},
		{"small, SDK with ranges, 64 at once", small, "/s", func() {
			var g errgroup.Group
			g.SetLimit(64)
			for _, key := range keys {
				g.Go(func() error {
					out, err := tuned.GetObject(ctx, &awss3.GetObjectInput{Bucket: bucket, Key: &key, Range: aws.String("bytes=0-65535")})
					if err != nil {
						return err
					}
					drain(b, out.Body, nil)
					return nil
				})
			}
			if err := g.Wait(); err != nil {
				b.Error(err)
			}
		}},
		{"list, SDK", small, "/s", func() {
			for range 10 {
				pages := awss3.NewListObjectsV2Paginator(tuned, &awss3.ListObjectsV2Input{Bucket: bucket})
				for pages.HasMorePages() {
					if _, err := pages.NextPage(ctx); err != nil {
						b.Fatal(err)
					}
				}
			}
		}},
		{"list, walk", small, "/s", func() {
			for range 10 {
				if err := store.Walk(ctx, "", func(source.Object) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		}},
	}
	for range 5 { // in turns, so that the machine's moods meet all
		for _, c := range cases {
			began := time.Now()
			c.do()
			n := c.n
			if strings.HasPrefix(c.name, "list") {
				n *= 10
			}
			fmt.Printf("%-36s %8.0f %s\n", c.name, n/time.Since(began).Seconds(), c.unit)
		}
	}
}
