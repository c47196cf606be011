package s3_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/egress"
	"github.com/millrace/millrace/runtime/source/s3"
	"github.com/millrace/millrace/runtime/source/sourcetest/s3server"
)

var object = []byte(strings.Repeat("0123456789abcdef", 1<<12)) // 64 KiB

const etag = `"0123456789abcdef0123456789abcdef"`

// lying plays a server whose answers to GET a test gives; n counts them.
func lying(t *testing.T, answer func(n int32, w http.ResponseWriter, r *http.Request)) *s3.Store {
	t.Helper()
	var n atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(n.Add(1), w, r) }))
	t.Cleanup(server.Close)
	return openWith(t, server.URL, "s3://bucket", s3server.SecretKey, map[string]string{"alluxio.underfs.s3.socket.timeout": "3sec"})
}

// honest answers a range as it should be.
func honest(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(object))
}

func TestAServerThatLiesIsFoundOut(t *testing.T) {
	part := func(w http.ResponseWriter, contentRange string, data []byte) {
		w.Header().Set("ETag", etag)
		w.Header().Set("Content-Range", contentRange)
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(data)
	}
	for name, tc := range map[string]struct {
		answer func(n int32, w http.ResponseWriter, r *http.Request)
		want   error
	}{
		"it is honest": {func(_ int32, w http.ResponseWriter, r *http.Request) { honest(w, r) }, nil},
		"it is busy at first": {func(n int32, w http.ResponseWriter, r *http.Request) {
			if n <= 2 {
				w.WriteHeader(http.StatusServiceUnavailable)
				fmt.Fprint(w, "<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>")
				return
			}
			honest(w, r)
		}, nil},
		"it is always busy": {func(_ int32, w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, "<Error><Code>SlowDown</Code></Error>")
		}, source.ErrUnavailable},
		"it gives another range": {func(_ int32, w http.ResponseWriter, _ *http.Request) {
			part(w, "bytes 0-999/65536", object[:1000])
		}, source.ErrUnavailable},
		"it gives fewer bytes than asked for": {func(_ int32, w http.ResponseWriter, _ *http.Request) {
			part(w, "bytes 100-199/65536", object[100:200])
		}, source.ErrChanged},
		"it gives the whole in place of a part": {func(_ int32, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", etag)
			_, _ = w.Write(object)
		}, source.ErrInvalid},
		"the object has another size": {func(_ int32, w http.ResponseWriter, _ *http.Request) {
			part(w, "bytes 100-1099/70000", object[100:1100])
		}, source.ErrChanged},
		"the object has another tag": {func(_ int32, w http.ResponseWriter, r *http.Request) {
			r.Header.Del("If-Match") // a server that does not know it
			w.Header().Set("ETag", `"other"`)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(object))
		}, source.ErrChanged},
		"it changes while a broken read goes on": {func(n int32, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				w.Header().Set("ETag", etag)
				w.Header().Set("Content-Range", "bytes 100-1099/65536")
				w.Header().Set("Content-Length", "1000")
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(object[100:600]) // and ends
				return
			}
			if r.Header.Get("If-Match") != etag || r.Header.Get("Range") != "bytes=600-1099" {
				t.Errorf("goes on with %v", r.Header)
			}
			w.WriteHeader(http.StatusPreconditionFailed)
		}, source.ErrChanged},
		"it trickles": {func(_ int32, w http.ResponseWriter, r *http.Request) {
			var from int
			_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
			w.Header().Set("ETag", etag)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-1099/65536", from))
			w.Header().Set("Content-Length", fmt.Sprint(1100-from))
			w.WriteHeader(http.StatusPartialContent)
			for _, b := range object[from:1100] {
				if _, err := w.Write([]byte{b}); err != nil || r.Context().Err() != nil {
					return
				}
				w.(http.Flusher).Flush()
				select {
				case <-time.After(50 * time.Millisecond):
				case <-r.Context().Done():
				}
			}
		}, source.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := lying(t, tc.answer)
			var got []byte
			r, err := s.Open(t.Context(), source.Object{Path: "o", Size: int64(len(object)), ETag: etag}, 100, 1000)
			if err == nil {
				got, err = io.ReadAll(r)
				r.Close()
			}
			if !errors.Is(err, tc.want) || tc.want == nil && !bytes.Equal(got, object[100:1100]) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

func TestOptionsReachTheServer(t *testing.T) {
	seen := make(chan *http.Request, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		w.WriteHeader(http.StatusNotFound)
	}))
	defer server.Close()
	for name, tc := range map[string]struct {
		options, secrets map[string]string
		check            func(r *http.Request) bool
	}{
		"the requester pays": {map[string]string{"requester-pays": "true", "access-key": "a"}, map[string]string{"secret-key": "b"},
			func(r *http.Request) bool { return r.Header.Get("X-Amz-Request-Payer") == "requester" }},
		"a header is sent and signed": {map[string]string{"header.X-Tenant": "blue", "access-key": "a"}, map[string]string{"secret-key": "b"},
			func(r *http.Request) bool {
				return r.Header.Get("X-Tenant") == "blue" && strings.Contains(r.Header.Get("Authorization"), "x-tenant")
			}},
		"a session has a token": {map[string]string{}, map[string]string{"aws.accessKeyId": "a", "aws.secretKey": "b", "aws.sessionToken": "tok\n"},
			func(r *http.Request) bool { return r.Header.Get("X-Amz-Security-Token") == "tok" }},
		"nobody signs anonymous requests": {map[string]string{"anonymous": "true"}, nil,
			func(r *http.Request) bool { return r.Header.Get("Authorization") == "" }},
		"the region is signed": {map[string]string{"alluxio.underfs.s3.endpoint.region": "eu-west-7", "access-key": "a"}, map[string]string{"secret-key": "b"},
			func(r *http.Request) bool { return strings.Contains(r.Header.Get("Authorization"), "/eu-west-7/s3/") }},
		"a bucket is in the path of an address": {map[string]string{"anonymous": "true"}, nil,
			func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/bucket") }},
		"Alluxio's names for OSS": {map[string]string{"endpoint": "", "fs.oss.endpoint": server.URL}, map[string]string{"fs.oss.accessKeyId": "oss-id", "fs.oss.accessKeySecret": "b"},
			func(r *http.Request) bool {
				return strings.Contains(r.Header.Get("Authorization"), "Credential=oss-id/")
			}},
		"no checksum is asked for": {map[string]string{"anonymous": "true"}, nil,
			func(r *http.Request) bool { return r.Header.Get("X-Amz-Checksum-Mode") == "" }},
	} {
		t.Run(name, func(t *testing.T) {
			options := map[string]string{"endpoint": server.URL}
			for k, v := range tc.options {
				options[k] = v
			}
			s, err := s3.Open(t.Context(), source.Config{MountPoint: "oss://bucket", Options: options, EncryptOptions: tc.secrets, Egress: egress.Unrestricted()})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if _, err := s.Open(t.Context(), source.Object{Path: "o", Size: 1}, 0, 1); !errors.Is(err, source.ErrNotExist) {
				t.Error(err)
			}
			if r := <-seen; !tc.check(r) {
				t.Errorf("asked for %s with %v", r.URL, r.Header)
			}
		})
	}
}

func TestAnOptionThatMakesNoSenseIsNamed(t *testing.T) {
	for name, options := range map[string]map[string]string{
		"endpoint":        {"endpoint": "ftp://x"},
		"fs.oss.endpoint": {"fs.oss.endpoint": "http://"},
		"proxy":           {"proxy": "nonsense"},
		"ca":              {"ca": "/no/such/file"},
		"path-style":      {"path-style": "perhaps"},
		"access-key":      {"access-key": "without a secret"},
		"anonymous":       {"anonymous": "true", "access-key": "a", "secret-key": "hunter2"},
		"header.a b":      {"header.a b": "c"},
		"header.a":        {"header.a": "hunter2\r\nb: c"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s3.Open(t.Context(), source.Config{MountPoint: "s3://bucket", Options: options, Egress: egress.Unrestricted()})
			if !errors.Is(err, source.ErrInvalid) || !strings.Contains(err.Error(), "option "+name) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// certificate of the server's own authority, as files.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "millrace test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "EC PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestAServerWithAnAuthorityOfItsOwnIsTrustedWhenTold(t *testing.T) {
	cert, key := certificate(t)
	inline, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	server := s3server.Start(t, "--cert", cert, "--key", key)
	for name, tc := range map[string]struct {
		ca   string
		want error
	}{
		"not told":    {"", source.ErrUnavailable},
		"by a file":   {cert, source.ErrNotExist}, // the bucket is not there
		"in the text": {string(inline), source.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			s := openWith(t, strings.Replace(server.Endpoint, "http:", "https:", 1), "s3://nothing", s3server.SecretKey, map[string]string{"ca": tc.ca, "socket-timeout": "20s"})
			if _, err := s.Stat(t.Context(), ""); !errors.Is(err, tc.want) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestRolesAreAssumed has a small STS of its own give the keys that the real S3
// server then checks: there is no real STS to be had here.
func TestRolesAreAssumed(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	server := s3server.Start(t)
	if _, err := admin(t, server).CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: aws.String("mine")}); err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 10)
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		action := r.Form.Get("Action")
		asked <- action + " " + r.Form.Get("RoleArn") + " " + r.Form.Get("WebIdentityToken") + r.Form.Get("ExternalId")
		fmt.Fprintf(w, `<%[1]sResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><%[1]sResult><Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey>`+
			`<SessionToken>session</SessionToken><Expiration>%s</Expiration></Credentials></%[1]sResult></%[1]sResponse>`,
			action, s3server.AccessKey, s3server.SecretKey, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	defer sts.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("projected-token"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("by the web identity of the pod", func(t *testing.T) {
		t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/reader")
		t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", token)
		t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)
		s, err := s3.Open(t.Context(), source.Config{MountPoint: "s3://mine", Options: map[string]string{"endpoint": server.Endpoint}, Egress: egress.Unrestricted()})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Stat(t.Context(), ""); err != nil {
			t.Error(err)
		}
		if got := <-asked; got != "AssumeRoleWithWebIdentity arn:aws:iam::1:role/reader projected-token" {
			t.Errorf("asked for %q", got)
		}
	})
	t.Run("by keys that may assume it", func(t *testing.T) {
		s, err := s3.Open(t.Context(), source.Config{MountPoint: "s3://mine", Options: map[string]string{"endpoint": server.Endpoint, "sts-endpoint": sts.URL,
			"role-arn": "arn:aws:iam::1:role/other", "external-id": "x", "access-key": "weak"}, EncryptOptions: map[string]string{"secret-key": "weak"}, Egress: egress.Unrestricted()})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Stat(t.Context(), ""); err != nil {
			t.Error(err)
		}
		if got := <-asked; got != "AssumeRole arn:aws:iam::1:role/other x" {
			t.Errorf("asked for %q", got)
		}
	})
}

func TestKeysWithControlCharactersAreListed(t *testing.T) {
	s := lying(t, func(_ int32, w http.ResponseWriter, r *http.Request) {
		encoded := r.URL.Query().Get("encoding-type") == "url"
		key := "a\x01b+c d"
		if encoded {
			key = "a%01b%2Bc+d"
		}
		fmt.Fprint(w, `<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>`)
		if encoded {
			fmt.Fprint(w, "<EncodingType>url</EncodingType>")
		}
		fmt.Fprintf(w, "<Contents><Key>%s</Key><Size>1</Size><ETag>e</ETag></Contents></ListBucketResult>", key)
	})
	list, walk := listed(t, s, "")
	if want := []string{"a\x01b+c d"}; !slices.Equal(list, want) || !slices.Equal(walk, want) {
		t.Errorf("listed %q, walked %q", list, walk)
	}
}

func TestAListingWithoutEndIsFoundOut(t *testing.T) {
	s := lying(t, func(_ int32, w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken></ListBucketResult>`)
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.List(ctx, "", func(source.Object) error { return nil }); !errors.Is(err, source.ErrUnavailable) || ctx.Err() != nil {
		t.Error(err)
	}
}
