package component

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/source/sourcetest/s3server"
)

// migration copies between two buckets of a server; the secret key is in a file.
func migration(t *testing.T, server *s3server.Server) *contract.Migration {
	t.Helper()
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(s3server.SecretKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	end := func(uri string) contract.MountConfig {
		return contract.MountConfig{
			MountPoint: uri, Options: map[string]string{"endpoint": server.Endpoint, "path-style": "true", "access-key": s3server.AccessKey},
			EncryptOptions: map[string]string{"secret-key": key},
		}
	}
	return &contract.Migration{
		ID: "migrate-1", From: end("s3://origin"), FromPath: "/part", To: end("s3://target/pre"), ToPath: "/copy",
		Egress: &contract.EgressConfig{Allow: []string{"127.0.0.0/8"}},
	}
}

func TestAMigrationCopiesAndTellsHowFarItIs(t *testing.T) {
	server := s3server.Start(t)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	admin := awss3.New(awss3.Options{HTTPClient: client, BaseEndpoint: &server.Endpoint, Region: "us-east-1", UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(s3server.AccessKey, s3server.SecretKey, "")})
	for _, bucket := range []string{"origin", "target"} {
		if _, err := admin.CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: &bucket}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		if _, err := admin.PutObject(t.Context(), &awss3.PutObjectInput{Bucket: aws.String("origin"), Key: aws.String(fmt.Sprintf("part/d/%d", i)), Body: bytes.NewReader([]byte("0123456789"))}); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	done, err := Migrate(t.Context(), migration(t, server), nil, address)
	if err != nil || done.FilesDone != 20 || done.BytesDone != 200 || done.Kept != 0 {
		t.Fatalf("%+v: %v", done, err)
	}
	head, err := admin.HeadObject(t.Context(), &awss3.HeadObjectInput{Bucket: aws.String("target"), Key: aws.String("pre/copy/d/7")})
	if err != nil || aws.ToInt64(head.ContentLength) != 10 {
		t.Errorf("d/7: %+v %v", head, err)
	}

	// While the next one cannot go on, somebody asks how far it is.
	stuck := migration(t, server)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := admin.PutObject(t.Context(), &awss3.PutObjectInput{Bucket: aws.String("origin"), Key: aws.String("part/new"), Body: bytes.NewReader([]byte("12345"))}); err != nil {
		t.Fatal(err)
	}
	seen := make(chan contract.Summary, 1)
	stuck.To.MountPoint = "s3://none/pre" // each file is tried again for a while
	stuck.To.Options["endpoint"] = "http://127.0.0.1:1"
	go func() {
		defer cancel()
		for ctx.Err() == nil {
			resp, err := client.Get("http://" + address + contract.PathSummary + "?watch=true")
			if err != nil {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			decoder := json.NewDecoder(resp.Body)
			for ctx.Err() == nil {
				s := contract.Summary{}
				if err := decoder.Decode(&s); err != nil {
					break
				}
				if len(s.Loads) == 1 && s.Loads[0].FilesTotal == 21 {
					seen <- s
					resp.Body.Close()
					return
				}
			}
			resp.Body.Close()
		}
	}()
	_, err = Migrate(ctx, stuck, nil, address)
	if err == nil {
		t.Error("it succeeded")
	}
	select {
	case s := <-seen:
		if load := s.Loads[0]; load.ID != "migrate-1" || load.Phase != contract.LoadRunning || load.BytesTotal != 205 {
			t.Errorf("summary %+v", load)
		}
	case <-time.After(time.Minute):
		t.Error("nobody said how far it is")
	}
}

func TestAMigrationThatCanNeverSucceedIsHopeless(t *testing.T) {
	server := s3server.Start(t)
	m := migration(t, server) // without buckets
	if _, err := Migrate(t.Context(), m, nil, "127.0.0.1:0"); !errors.As(err, &Hopeless{}) {
		t.Errorf("error %v", err)
	}
	m.To.MountPoint = server.Endpoint
	if _, err := Migrate(t.Context(), m, nil, "127.0.0.1:0"); !errors.As(err, &Hopeless{}) || !strings.Contains(err.Error(), "nothing can be written") || strings.Contains(err.Error(), s3server.SecretKey) {
		t.Errorf("error %v", err)
	}
	m.Egress = nil
	if _, err := Migrate(t.Context(), m, nil, "127.0.0.1:0"); err == nil {
		t.Error("loopback was reached without leave")
	}
}
