package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/egress"
	"github.com/millrace/millrace/runtime/source/s3"
	"github.com/millrace/millrace/runtime/source/sourcetest"
	"github.com/millrace/millrace/runtime/source/sourcetest/s3server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func admin(t testing.TB, server *s3server.Server, tune ...func(*http.Transport)) *awss3.Client {
	transport := &http.Transport{}
	for _, f := range tune {
		f(transport)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return awss3.New(awss3.Options{HTTPClient: &http.Client{Transport: transport}, BaseEndpoint: &server.Endpoint, Region: "us-east-1", UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(s3server.AccessKey, s3server.SecretKey, "")})
}

func open(t *testing.T, server *s3server.Server, mountPoint, secret string) *s3.Store {
	t.Helper()
	return openAt(t, server.Endpoint, mountPoint, secret)
}

func openAt(t *testing.T, endpoint, mountPoint, secret string) *s3.Store {
	t.Helper()
	return openWith(t, endpoint, mountPoint, secret, nil)
}

func config(endpoint, mountPoint, secret string, more map[string]string) source.Config {
	options := map[string]string{"alluxio.underfs.s3.endpoint": endpoint, "alluxio.underfs.s3.disable.dns.buckets": "true",
		"alluxio.underfs.s3.socket.timeout": "500 ms"}
	maps.Copy(options, more)
	return source.Config{
		MountPoint:     mountPoint,
		Options:        options,
		EncryptOptions: map[string]string{"aws.accessKeyId": s3server.AccessKey, "aws.secretKey": secret},
		Egress:         egress.Unrestricted(),
	}
}

func openWith(t *testing.T, endpoint, mountPoint, secret string, more map[string]string) *s3.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), config(endpoint, mountPoint, secret, more))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
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
	c := admin(t, server)
	if _, err := c.CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: aws.String("suite")}); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"", "some/prefix"} {
		t.Run("prefix "+prefix, func(t *testing.T) {
			key := func(path string) string { return strings.TrimPrefix(prefix+"/"+path, "/") }
			f := sourcetest.Fixture{
				Open: func(t *testing.T) source.Store {
					return openWith(t, server.Endpoint, strings.TrimSuffix("s3://suite/"+prefix, "/"), s3server.SecretKey, map[string]string{"socket-timeout": "10s"})
				},
				Put: func(t *testing.T, path string, data []byte) { put(t, c, "suite", key(path), data) },
				Remove: func(t *testing.T, path string) {
					if _, err := c.DeleteObject(t.Context(), &awss3.DeleteObjectInput{Bucket: aws.String("suite"), Key: aws.String(key(path))}); err != nil {
						t.Fatal(err)
					}
				},
			}
			if prefix == "" { // once is enough
				f.Stop, f.Start = func(t *testing.T) { server.Down(t) }, func(t *testing.T) { server.Up(t) }
			}
			sourcetest.Run(t, f)
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
	if _, err := admin(t, server).CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: aws.String("mine")}); err != nil {
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
}

func TestAMountPointThatMakesNoSenseIsInvalid(t *testing.T) {
	for name, c := range map[string]source.Config{
		"no bucket":           {MountPoint: "s3://"},
		"no endpoint":         {MountPoint: "minio://bucket"},
		"timeout in no unit":  {MountPoint: "s3://bucket", Options: map[string]string{"socket-timeout": "soon"}},
		"timeout that is nil": {MountPoint: "s3://bucket", Options: map[string]string{"socket-timeout": "0s"}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := s3.Open(t.Context(), c); !errors.Is(err, source.ErrInvalid) || !strings.Contains(err.Error(), c.MountPoint) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestAnEndpointOfTheMachineItselfIsRefusedUnlessAllowed(t *testing.T) {
	server := s3server.Start(t)
	c := admin(t, server)
	if _, err := c.CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: aws.String("mine")}); err != nil {
		t.Fatal(err)
	}
	// The policy is asked for what a name leads to, and for an address at once.
	allowed := func(endpoint string, allow ...string) source.Config {
		policy, err := egress.Parse(allow)
		if err != nil {
			t.Fatal(err)
		}
		return source.Config{MountPoint: "s3://mine", Egress: policy, Options: map[string]string{
			"endpoint": endpoint, "path-style": "true", "access-key": s3server.AccessKey, "secret-key": s3server.SecretKey,
		}}
	}
	for _, endpoint := range []string{server.Endpoint, "localhost:9000", "http://169.254.169.254", "http://[::ffff:127.0.0.1]:9000"} {
		_, err := s3.Open(t.Context(), allowed(endpoint, "10.0.0.0/8"))
		if !errors.Is(err, source.ErrDenied) || !strings.Contains(err.Error(), "option endpoint") || !strings.Contains(err.Error(), "egress.allow") {
			t.Errorf("endpoint %s: %v", endpoint, err)
		}
	}
	s, err := s3.Open(t.Context(), allowed(server.Endpoint, "127.0.0.0/8"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Stat(t.Context(), ""); err != nil {
		t.Error(err)
	}
}

func TestTheRoleOfTheMachineIsNotTakenUnlessAllowed(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	asked := make(chan string, 100)
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		w.WriteHeader(http.StatusNotFound)
	}))
	defer agent.Close()
	for name, env := range map[string][2]string{
		"metadata of the machine": {"AWS_EC2_METADATA_SERVICE_ENDPOINT", agent.URL},
		"agent of the container":  {"AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.URL + "/creds"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(env[0], env[1])
			for _, allowed := range []bool{false, true} {
				c := source.Config{MountPoint: "s3://bucket", Options: map[string]string{"endpoint": "http://192.0.2.1:1"}}
				if allowed {
					c.Egress = egress.Unrestricted()
				}
				s, err := s3.Open(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Stat(t.Context(), ""); !errors.Is(err, source.ErrDenied) {
					t.Errorf("error %v", err)
				}
				s.Close()
				if (len(asked) > 0) != allowed {
					t.Errorf("asked %d times, allowed %v", len(asked), allowed)
				}
				for len(asked) > 0 {
					<-asked
				}
			}
		})
	}
}

func TestWithoutCredentialsTheAnswerSaysSo(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	s, err := s3.Open(t.Context(), source.Config{MountPoint: "s3://bucket", Options: map[string]string{"endpoint": "http://127.0.0.1:1"}, Egress: egress.Unrestricted()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Stat(t.Context(), ""); !errors.Is(err, source.ErrDenied) || !strings.Contains(err.Error(), "no credentials") {
		t.Errorf("error %v", err)
	}
}

// listed gives what is below dir by List, all the way down, and by Walk.
func listed(t *testing.T, s *s3.Store, dir string) (list, walk []string) {
	t.Helper()
	err := s.List(t.Context(), dir, func(o source.Object) error {
		if !o.Dir {
			list = append(list, o.Path)
			return nil
		}
		below, _ := listed(t, s, o.Path)
		list = append(list, below...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Walk(t.Context(), dir, func(o source.Object) error {
		if !o.Dir {
			walk = append(walk, o.Path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	slices.Sort(walk)
	return list, walk
}

func TestListingsOfManyPagesAreWhole(t *testing.T) {
	server := s3server.Start(t)
	c := admin(t, server)
	if _, err := c.CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: aws.String("many")}); err != nil {
		t.Fatal(err)
	}
	const n = 2100 // a page has a thousand
	var want []string
	var g errgroup.Group
	g.SetLimit(16)
	for i := range n {
		key := fmt.Sprintf("d/%04d", i)
		want = append(want, key)
		g.Go(func() error {
			_, err := c.PutObject(t.Context(), &awss3.PutObjectInput{Bucket: aws.String("many"), Key: &key, Body: strings.NewReader("x")})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	list, walk := listed(t, open(t, server, "s3://many", s3server.SecretKey), "")
	if !slices.Equal(list, want) || !slices.Equal(walk, want) {
		t.Errorf("%d listed, %d walked, %d are there", len(list), len(walk), n)
	}
}

// answers plays a server's listings: keys that a store on a file system cannot
// hold, as Amazon's can.
func answers(t *testing.T, keys ...string) *httptest.Server {
	t.Helper()
	slices.Sort(keys)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if q.Get("list-type") != "2" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		prefix, delimiter, after := q.Get("prefix"), q.Get("delimiter"), q.Get("continuation-token")
		const page = 2
		var body strings.Builder
		names, last, more := 0, "", false
		for _, key := range keys {
			rest, ok := strings.CutPrefix(key, prefix)
			if !ok {
				continue
			}
			name, tag := key, "Contents"
			if head, _, cut := strings.Cut(rest, "/"); delimiter != "" && cut {
				name, tag = prefix+head+"/", "CommonPrefixes"
			}
			if name <= after || name == last {
				continue
			}
			if names == page {
				more = true
				break
			}
			names, last = names+1, name
			if tag == "Contents" {
				fmt.Fprintf(&body, "<Contents><Key>%s</Key><Size>1</Size><ETag>e</ETag><LastModified>2024-01-01T00:00:00.5Z</LastModified></Contents>", name)
			} else {
				fmt.Fprintf(&body, "<CommonPrefixes><Prefix>%s</Prefix></CommonPrefixes>", name)
			}
		}
		token := ""
		if more {
			token = "<NextContinuationToken>" + last + "</NextContinuationToken>"
		}
		fmt.Fprintf(w, "<ListBucketResult><IsTruncated>%v</IsTruncated>%s%s</ListBucketResult>", more, token, body.String())
	}))
	t.Cleanup(server.Close)
	return server
}

func TestKeysThatNoFileSystemHasAreLeftOutAndCountedAndADirectoryHidesAnObject(t *testing.T) {
	server := answers(t, "a", "a//b", "a/b", "a-c", "a.d/x", "b/", "b/c", "d", "d!", "d!/x", "d/e", "d/f/g", "e/./f", "e/../g", "e/h", "/lead", strings.Repeat("x", 256))
	want := []string{"a-c", "a.d/x", "a/b", "b/c", "d!/x", "d/e", "d/f/g", "e/h"}
	s := openAt(t, server.URL, "s3://odd", s3server.SecretKey)
	list, walk := listed(t, s, "")
	if !slices.Equal(list, want) || !slices.Equal(walk, want) {
		t.Errorf("listed %q\nwalked %q\nwant   %q", list, walk, want)
	}
	// Hidden: a, d, d!. Odd by List: /, a//, e/./, e/../, x…; and by Walk what lies below them: 4 more.
	if n, first := s.Omitted(); n != 12 || first != "/" {
		t.Errorf("left out %d, the first %q", n, first)
	}
}

// wire stands between a client and the real server and ends or stalls each
// connection after some bytes of the answer.
func wire(t *testing.T, server *s3server.Server, after int64, stall bool) (endpoint string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	t.Cleanup(func() {
		close(stop)
		l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", strings.TrimPrefix(server.Endpoint, "http://"))
			if err != nil {
				in.Close()
				continue
			}
			wg.Go(func() {
				_, _ = io.Copy(out, in)
				out.Close()
			})
			wg.Go(func() {
				_, _ = io.CopyN(in, out, after)
				if stall {
					<-stop
				}
				in.Close()
				out.Close()
			})
		}
	})
	return "http://" + l.Addr().String()
}

func TestAServerThatStallsOrBreaksOffIsUnavailable(t *testing.T) {
	server := s3server.Start(t)
	c := admin(t, server)
	if _, err := c.CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: aws.String("mine")}); err != nil {
		t.Fatal(err)
	}
	put(t, c, "mine", "big", make([]byte, 4<<20))
	whole := open(t, server, "s3://mine", s3server.SecretKey)
	o, err := whole.Stat(t.Context(), "big")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		after int64
		stall bool
		want  error
	}{
		"it never answers":              {0, true, source.ErrUnavailable},
		"it stalls within the body":     {1 << 20, true, source.ErrUnavailable},
		"it breaks off again and again": {1 << 18, false, source.ErrUnavailable},
		"it breaks off three times":     {1 << 20, false, nil}, // the read goes on where it was
		"it closes every connection":    {0, false, source.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openAt(t, wire(t, server, tc.after, tc.stall), "s3://mine", s3server.SecretKey)
			r, err := s.Open(t.Context(), o, 0, o.Size)
			if err == nil {
				_, err = io.Copy(io.Discard, r)
				r.Close()
			}
			if !errors.Is(err, tc.want) {
				t.Errorf("read: %v", err)
			}
			if tc.after == 0 {
				if _, err := s.Stat(t.Context(), "big"); !errors.Is(err, source.ErrUnavailable) {
					t.Errorf("stat: %v", err)
				}
				if err := s.List(t.Context(), "", func(source.Object) error { return nil }); !errors.Is(err, source.ErrUnavailable) {
					t.Errorf("list: %v", err)
				}
			}
		})
	}
}
