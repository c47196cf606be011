package s3_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/millrace/millrace/runtime/migrate"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/s3"
	"github.com/millrace/millrace/runtime/source/sourcetest/s3server"
)

var _ migrate.Target = (*s3.Store)(nil)

func TestWhatIsWrittenIsReadAgainAndHeldForThatVersionAlone(t *testing.T) {
	server := s3server.Start(t)
	c := admin(t, server)
	if _, err := c.CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: aws.String("target")}); err != nil {
		t.Fatal(err)
	}
	s := openWith(t, server.Endpoint, "s3://target/below", s3server.SecretKey, map[string]string{"socket-timeout": "30s"})
	for sentence, size := range map[string]int64{"nothing": 0, "one request": 1000, "several parts": 16<<20 + 12345} {
		t.Run(sentence, func(t *testing.T) {
			data := bytes.Repeat([]byte("0123456789abcdef!"), int(size/17+1))[:size]
			o := source.Object{Path: "origin", Size: size, ModTime: time.Unix(1700000000, 0)}
			p := "a dir/" + sentence
			if have, err := s.Holds(t.Context(), p, o); err != nil || have {
				t.Fatalf("before: %v %v", have, err)
			}
			// One that breaks off leaves nothing, and no upload.
			if size > 0 {
				if err := s.Put(t.Context(), p, o, bytes.NewReader(data[:size-1])); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
					t.Errorf("a broken source: %v", err)
				}
				uploads, err := c.ListMultipartUploads(t.Context(), &awss3.ListMultipartUploadsInput{Bucket: aws.String("target")})
				if err != nil || len(uploads.Uploads) > 0 {
					t.Errorf("uploads left behind: %v %v", uploads, err)
				}
			}
			if err := s.Put(t.Context(), p, o, bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
			written, err := s.Stat(t.Context(), p)
			if err != nil || written.Size != size {
				t.Fatalf("stat %+v: %v", written, err)
			}
			in, err := s.Open(t.Context(), written, 0, size)
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			if got, err := io.ReadAll(in); err != nil || !bytes.Equal(got, data) {
				t.Errorf("read %d bytes, want %d: %v", len(got), size, err)
			}
			if have, err := s.Holds(t.Context(), p, o); err != nil || !have {
				t.Errorf("after: %v %v", have, err)
			}
			o.ModTime = o.ModTime.Add(time.Second)
			if have, err := s.Holds(t.Context(), p, o); err != nil || have {
				t.Errorf("of another version: %v %v", have, err)
			}
		})
	}
	wrong := openWith(t, server.Endpoint, "s3://target/below", "wrong", nil)
	if err := wrong.Put(t.Context(), "x", source.Object{Size: 1}, bytes.NewReader([]byte("x"))); !errors.Is(err, source.ErrDenied) {
		t.Errorf("with a wrong key: %v", err)
	}
}
