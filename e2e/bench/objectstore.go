package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/apis/contract"
)

const (
	accessKey = "bench"
	secretKey = "bench-secret"
)

// objectStore is an S3 server of its own: Versity's gateway over a directory.
type objectStore struct {
	*process
	endpoint, dir string
	client        *s3.Client
}

// newObjectStore starts a server whose buckets are directories of dir.
func (b *Bench) newObjectStore(ctx context.Context) (*objectStore, error) {
	dir, err := os.MkdirTemp(b.dir, "objects-")
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	server := b.binary("versitygw-keepalive")
	if _, err := os.Stat(server); err != nil {
		server = b.binary("versitygw") // closes the connection after each request, as no store does
	}
	p, err := start(b.dir, "versitygw", []string{"ROOT_ACCESS_KEY=" + accessKey, "ROOT_SECRET_KEY=" + secretKey, "VGW_KEEP_ALIVE=true"},
		server, "--port", address, "posix", dir)
	if err != nil {
		return nil, err
	}
	s := &objectStore{process: p, endpoint: "http://" + address, dir: dir}
	s.client = s3.New(s3.Options{
		BaseEndpoint: aws.String(s.endpoint), Region: "us-east-1", UsePathStyle: true,
		Credentials:                credentials.NewStaticCredentialsProvider(accessKey, secretKey, ""),
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired, ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
	})
	return s, until(ctx, "the S3 server", 30*time.Second, func() (bool, error) {
		if err := p.up(); err != nil {
			return true, err
		}
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
		if err != nil {
			return false, err
		}
		return true, conn.Close()
	})
}

// mount is a bucket as the source of a Dataset; its secrets lie in files.
func (s *objectStore) mount(bucket string) (contract.MountConfig, error) {
	m := contract.MountConfig{
		MountPoint: "s3://" + bucket, Path: "/", ReadOnly: true,
		Options:        map[string]string{"endpoint": s.endpoint, "region": "us-east-1", "path-style": "true"},
		EncryptOptions: map[string]string{},
	}
	for option, value := range map[string]string{"aws.accessKeyId": accessKey, "aws.secretKey": secretKey} {
		file := filepath.Join(s.dir, "."+option)
		m.EncryptOptions[option] = file
		if err := os.WriteFile(file, []byte(value), 0o600); err != nil {
			return m, err
		}
	}
	return m, nil
}

// bucket makes one.
func (s *objectStore) bucket(ctx context.Context, name string) error {
	_, err := s.client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &name})
	return err
}

// put uploads n objects that the function names and opens, eight at a time.
func (s *objectStore) put(ctx context.Context, bucket string, n int, object func(i int) (key string, body io.Reader)) error {
	//nolint:staticcheck // its successor, transfermanager, has no stable release yet
	up := manager.NewUploader(s.client, func(u *manager.Uploader) { u.PartSize = 64 << 20 })
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i := range n {
		group.Go(func() error {
			key, body := object(i)
			//nolint:staticcheck // as above
			_, err := up.Upload(ctx, &s3.PutObjectInput{Bucket: &bucket, Key: &key, Body: body})
			return err
		})
	}
	return group.Wait()
}

// fetch reads an object whole in ranges of 8 MiB, four at a time: the best that
// the source's own client does here. The bytes go nowhere.
func (s *objectStore) fetch(ctx context.Context, bucket, key string, size int64) work {
	const part, parallel = 8 << 20, 4
	return func() (done, error) {
		var next atomic.Int64
		return measured(parallel, func(int) (bytes, ops int64, _ error) {
			p := make([]byte, 1<<20)
			for off := next.Add(part) - part; off < size; off = next.Add(part) - part {
				n, err := s.get(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &key,
					Range: aws.String(fmt.Sprintf("bytes=%d-%d", off, min(off+part, size)-1))}, io.Discard, p)
				if err != nil {
					return bytes, ops, err
				}
				bytes, ops = bytes+n, ops+1
			}
			return bytes, ops, nil
		})
	}
}

// fetchAll reads n small objects, several at a time.
func (s *objectStore) fetchAll(ctx context.Context, bucket string, n, parallel int) work {
	return func() (done, error) {
		var next atomic.Int64
		return measured(parallel, func(int) (bytes, ops int64, _ error) {
			p := make([]byte, 1<<20)
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				got, err := s.get(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: aws.String(smallName(int(i)))}, io.Discard, p)
				if err != nil {
					return bytes, ops, err
				}
				bytes, ops = bytes+got, ops+1
			}
			return bytes, ops, nil
		})
	}
}

// download copies objects into files, several at a time, as the tools of object
// stores do: small ones whole, large ones in ranges.
func (s *objectStore) download(ctx context.Context, bucket string, keys []string, parallel int, dir string) work {
	//nolint:staticcheck // as in put
	down := manager.NewDownloader(s.client, func(d *manager.Downloader) { d.PartSize, d.Concurrency = 8<<20, 4 })
	return func() (done, error) {
		var next atomic.Int64
		return measured(parallel, func(int) (bytes, ops int64, _ error) {
			for i := next.Add(1) - 1; i < int64(len(keys)); i = next.Add(1) - 1 {
				file := filepath.Join(dir, keys[i])
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					return bytes, ops, err
				}
				f, err := os.Create(file)
				if err != nil {
					return bytes, ops, err
				}
				//nolint:staticcheck // as in put
				n, err := down.Download(ctx, f, &s3.GetObjectInput{Bucket: &bucket, Key: &keys[i]})
				if e := f.Close(); err == nil {
					err = e
				}
				if err != nil {
					return bytes, ops, err
				}
				bytes, ops = bytes+n, ops+1
			}
			return bytes, ops, nil
		})
	}
}

func (s *objectStore) get(ctx context.Context, in *s3.GetObjectInput, to io.Writer, p []byte) (int64, error) {
	out, err := s.client.GetObject(ctx, in)
	if err != nil {
		return 0, err
	}
	defer out.Body.Close()
	return io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{out.Body}, p)
}
