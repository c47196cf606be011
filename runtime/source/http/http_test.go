package http_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/egress"
	"github.com/millrace/millrace/runtime/source/http"
	"github.com/millrace/millrace/runtime/source/sourcetest"
	"github.com/millrace/millrace/runtime/source/sourcetest/webserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, url string, options map[string]string) *http.Store {
	t.Helper()
	s, err := http.Open(t.Context(), source.Config{MountPoint: url, EncryptOptions: options, Egress: egress.Unrestricted()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestSuiteAgainstRealServers(t *testing.T) {
	for i, kind := range webserver.Kinds {
		// Every server once at its root and once below a path, in one of its styles.
		below := []string{"", "with space/ünd/"}[i%2]
		t.Run(fmt.Sprintf("%s at /%s", kind, below), func(t *testing.T) {
			t.Parallel()
			server := webserver.Start(t, kind)
			f := sourcetest.Fixture{
				Open:   func(t *testing.T) source.Store { return open(t, server.URL+below, nil) },
				Put:    func(t *testing.T, path string, data []byte) { server.Put(t, below+path, data) },
				Remove: func(t *testing.T, path string) { server.Remove(t, below+path) },
				Stop:   server.Down, Start: server.Up,
			}
			if kind.Hides() {
				f.Unlisted = func(p string) bool { return strings.HasPrefix(path.Base(p), ".") }
			}
			sourcetest.Run(t, f)
		})
	}
}

// config of a store at url whose options are secrets.
func config(url string, options map[string]string, allow ...string) source.Config {
	policy, err := egress.Parse(allow)
	if err != nil {
		panic(err)
	}
	return source.Config{MountPoint: url, EncryptOptions: options, Egress: policy}
}

func names(t *testing.T, s source.Store, dir string) []string {
	t.Helper()
	var out []string
	err := s.List(t.Context(), dir, func(o source.Object) error {
		if o.Dir {
			o.Path += "/"
		}
		out = append(out, o.Path)
		return nil
	})
	if err != nil {
		t.Fatalf("list %q: %v", dir, err)
	}
	slices.Sort(out)
	return out
}

func read(ctx context.Context, s source.Store, o source.Object, off, n int64) ([]byte, error) {
	r, err := s.Open(ctx, o, off, n)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func TestAMountPointThatIsOneFileIsADirectoryWithIt(t *testing.T) {
	for _, kind := range []webserver.Kind{webserver.ApacheFancy, webserver.NginxHTML, webserver.CaddyJSON, webserver.Python} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			server := webserver.Start(t, kind)
			server.Put(t, "dir/a file.bin", []byte("the bytes"))
			server.Put(t, "dir/another", nil)
			s := open(t, server.URL+"dir/a%20file.bin", nil)
			if root, err := s.Stat(t.Context(), ""); err != nil || !root.Dir {
				t.Errorf("the root is %+v, %v", root, err)
			}
			if got := names(t, s, ""); !slices.Equal(got, []string{"a file.bin"}) {
				t.Errorf("the root has %q", got)
			}
			o, err := s.Stat(t.Context(), "a file.bin")
			if err != nil {
				t.Fatal(err)
			}
			if got, err := read(t.Context(), s, o, 4, 100); err != nil || string(got) != "bytes" {
				t.Errorf("read %q, %v", got, err)
			}
			for _, p := range []string{"another", "a file.bin/below"} {
				if _, err := s.Stat(t.Context(), p); !errors.Is(err, source.ErrNotExist) {
					t.Errorf("stat %s: %v", p, err)
				}
			}
			// A directory is one with and without its slash.
			for _, url := range []string{server.URL + "dir", server.URL + "dir/"} {
				if got := names(t, open(t, url, nil), ""); !slices.Equal(got, []string{"a file.bin", "another"}) {
					t.Errorf("%s has %q", url, got)
				}
			}
			if _, err := open(t, server.URL+"none", nil).Stat(t.Context(), ""); !errors.Is(err, source.ErrNotExist) {
				t.Errorf("stat of a mount point that is not there: %v", err)
			}
		})
	}
}

// A server tells times, and makes ETags, in whole seconds. Two versions of one
// second and one size would have one identity.
func TestAFileThatIsReplacedAtOnceIsNoticed(t *testing.T) {
	for _, kind := range []webserver.Kind{webserver.ApacheFancy, webserver.NginxHTML, webserver.CaddyHTML, webserver.Python} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			server := webserver.Start(t, kind)
			s := open(t, server.URL, nil)
			server.PutNow(t, "file", []byte("one"))
			old, err := s.Stat(t.Context(), "file")
			if err != nil {
				t.Fatal(err)
			}
			server.PutNow(t, "file", []byte("two"))
			if got, err := read(t.Context(), s, old, 0, 3); !errors.Is(err, source.ErrChanged) {
				t.Errorf("the old version reads %q, %v", got, err)
			}
		})
	}
}

func TestNamesOfEveryKindAreListedAndRead(t *testing.T) {
	odd := []string{"a b", "per%cent", "que?ry", "ha#sh", "am&p;amp", "quo\"te'", "<angle>", "back\\slash", "semi;colon", "co:lon", "plus+plus", "ünï", "日本語", "dots...", "tilde~", "index.html", "C=N;O=D", "@at", "[brackets]", "e\u0301"}
	for _, kind := range webserver.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			server := webserver.Start(t, kind)
			want := []string{}
			for _, name := range odd {
				if name == "index.html" && kind != webserver.ApacheFancy { // others show it in place of the listing
					continue
				}
				if name == "back\\slash" && (kind == webserver.CaddyHTML || kind == webserver.CaddyJSON) { // Caddy does not give it out
					continue
				}
				server.Put(t, "dir "+name+"/"+name, []byte(name))
				want = append(want, "dir "+name+"/")
			}
			s := open(t, server.URL, nil)
			slices.Sort(want)
			if got := names(t, s, ""); !slices.Equal(got, want) {
				t.Fatalf("listed\n%q, want\n%q", got, want)
			}
			for _, dir := range want {
				dir = strings.TrimSuffix(dir, "/")
				file := dir + "/" + strings.TrimPrefix(dir, "dir ")
				if got := names(t, s, dir); !slices.Equal(got, []string{file}) {
					t.Errorf("%q has %q", dir, got)
				}
				o, err := s.Stat(t.Context(), file)
				if err != nil {
					t.Error(err)
					continue
				}
				if got, err := read(t.Context(), s, o, 0, o.Size); err != nil || "dir "+string(got) != dir {
					t.Errorf("%q reads %q, %v", file, got, err)
				}
			}
		})
	}
}

func TestAServersAnswersKeepTheirMeaning(t *testing.T) {
	for name, tc := range map[string]struct {
		status, requests int
		want             error
	}{
		"not there":         {404, 2, source.ErrNotExist}, // with and without a slash
		"gone":              {410, 1, source.ErrNotExist},
		"no credentials":    {401, 1, source.ErrDenied},
		"forbidden":         {403, 1, source.ErrDenied},
		"a bad request":     {400, 1, source.ErrInvalid},
		"too many requests": {429, 4, source.ErrUnavailable},
		"broken":            {500, 4, source.ErrUnavailable},
		"down":              {503, 4, source.ErrUnavailable},
		"not known":         {505, 1, source.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			server := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
				requests.Add(1)
				w.WriteHeader(tc.status)
			}))
			defer server.Close()
			s := open(t, server.URL+"/secret-free", map[string]string{"user": "u", "password": "hunter2"})
			_, err := s.Stat(t.Context(), "file")
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), s.String()) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %v", err)
			}
			if got := int(requests.Load()); got != tc.requests && tc.status != 404 {
				t.Errorf("%d requests, want %d", got, tc.requests)
			}
		})
	}
}

func TestRetriesWaitAsAskedAndHaveABudget(t *testing.T) {
	var requests atomic.Int64
	server := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		if requests.Add(1) == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(nethttp.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Length", "5")
	}))
	defer server.Close()
	began := time.Now()
	if o, err := open(t, server.URL+"/", nil).Stat(t.Context(), "file"); err != nil || o.Size != 5 || time.Since(began) < time.Second {
		t.Errorf("got %+v, %v after %v", o, err, time.Since(began))
	}
	// What asks for more patience than there is, is told at once.
	var long atomic.Int64
	busy := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		long.Add(1)
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(nethttp.StatusTooManyRequests)
	}))
	defer busy.Close()
	if _, err := open(t, busy.URL+"/", nil).Stat(t.Context(), "file"); !errors.Is(err, source.ErrUnavailable) || long.Load() != 1 {
		t.Errorf("%v after %d requests", err, long.Load())
	}
	// Many callers do not multiply the load of a server that is in trouble.
	var many atomic.Int64
	broken := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		many.Add(1)
		w.WriteHeader(nethttp.StatusBadGateway)
	}))
	defer broken.Close()
	s := open(t, broken.URL+"/", nil)
	var wg sync.WaitGroup
	began = time.Now()
	for range 200 {
		wg.Go(func() {
			if _, err := s.Stat(t.Context(), "file"); !errors.Is(err, source.ErrUnavailable) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most := 200 + 50 + 5*int64(time.Since(began).Seconds()+1); many.Load() > most {
		t.Errorf("%d requests, want at most %d", many.Load(), most)
	}
}

func TestAServerThatHangsOrTricklesEndsInBoundedTime(t *testing.T) {
	stop := make(chan struct{})
	server := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		part := func() {
			w.Header().Set("Content-Range", "bytes 0-999999/1000000")
			w.Header().Set("Content-Length", "1000000")
			w.WriteHeader(nethttp.StatusPartialContent)
		}
		trickle := func(text string) {
			for {
				select {
				case <-stop:
					return
				case <-r.Context().Done():
					return
				case <-time.After(20 * time.Millisecond):
					_, _ = io.WriteString(w, text)
					w.(nethttp.Flusher).Flush()
				}
			}
		}
		switch strings.Trim(r.URL.Path, "/") {
		case "silent":
			select {
			case <-stop:
			case <-r.Context().Done():
			}
		case "stalls":
			part()
			_, _ = io.WriteString(w, "some")
			w.(nethttp.Flusher).Flush()
			select {
			case <-stop:
			case <-r.Context().Done():
			}
		case "trickles":
			part()
			trickle("x")
		case "breaks":
			part()
			_, _ = io.WriteString(w, "some")
			w.(nethttp.Flusher).Flush()
			panic(nethttp.ErrAbortHandler)
		case "page":
			w.Header().Set("Content-Type", "text/html")
			trickle("<p>")
		}
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	defer server.Close()
	defer close(stop)
	s := open(t, server.URL+"/", map[string]string{"timeout": "300ms"})
	for name, does := range map[string]func() error{
		"silent": func() error { _, err := s.Stat(t.Context(), "silent"); return err },
		"stalls": func() error {
			_, err := read(t.Context(), s, source.Object{Path: "stalls", Size: 1e6, ModTime: time.Unix(0, 0)}, 0, 1e6)
			return err
		},
		"trickles": func() error {
			_, err := read(t.Context(), s, source.Object{Path: "trickles", Size: 1e6, ModTime: time.Unix(0, 0)}, 0, 1e6)
			return err
		},
		"breaks": func() error {
			_, err := read(t.Context(), s, source.Object{Path: "breaks", Size: 1e6, ModTime: time.Unix(0, 0)}, 0, 1e6)
			return err
		},
		"page": func() error { return s.List(t.Context(), "page", func(source.Object) error { return nil }) },
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			if err := does(); !errors.Is(err, source.ErrUnavailable) {
				t.Errorf("error %v", err)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestAnAnswerOfAnotherVersionIsNotBelieved(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tagged := source.Object{Path: "file", Size: 100, ModTime: at, ETag: `"one"`}
	timed := source.Object{Path: "file", Size: 100, ModTime: at}
	type answer struct {
		status                 int
		tag, modified, content string
	}
	lastModified := at.Format(nethttp.TimeFormat)
	for name, tc := range map[string]struct {
		o    source.Object
		a    answer
		want error
	}{
		"the same":                     {tagged, answer{206, `"one"`, lastModified, "bytes 10-19/100"}, nil},
		"the same by time":             {timed, answer{206, `W/"x"`, lastModified, "bytes 10-19/100"}, nil},
		"of unknown length":            {timed, answer{206, "", lastModified, "bytes 10-19/*"}, nil},
		"another tag":                  {tagged, answer{206, `"two"`, lastModified, "bytes 10-19/100"}, source.ErrChanged},
		"a tag that became weak":       {tagged, answer{206, `W/"one"`, lastModified, "bytes 10-19/100"}, source.ErrChanged},
		"another time":                 {timed, answer{206, "", at.Add(time.Second).Format(nethttp.TimeFormat), "bytes 10-19/100"}, source.ErrChanged},
		"another length":               {timed, answer{206, "", lastModified, "bytes 10-19/101"}, source.ErrChanged},
		"refused by condition":         {tagged, answer{412, "", "", ""}, source.ErrChanged},
		"beyond the end":               {tagged, answer{416, "", "", "bytes */5"}, source.ErrChanged},
		"another range":                {tagged, answer{206, `"one"`, lastModified, "bytes 11-20/100"}, source.ErrInvalid},
		"a range of nonsense":          {tagged, answer{206, `"one"`, lastModified, "bytes 19-10/100"}, source.ErrInvalid},
		"no range":                     {tagged, answer{206, `"one"`, lastModified, ""}, source.ErrInvalid},
		"the whole, of another length": {tagged, answer{200, `"one"`, lastModified, ""}, source.ErrChanged},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
				if r.Header.Get("Range") != "bytes=10-19" || r.Header.Get("If-Match") != tc.o.ETag || (r.Header.Get("If-Unmodified-Since") == lastModified) == (tc.o.ETag != "") {
					t.Errorf("asked with %v", r.Header)
				}
				for name, value := range map[string]string{"Etag": tc.a.tag, "Last-Modified": tc.a.modified, "Content-Range": tc.a.content} {
					if value != "" {
						w.Header().Set(name, value)
					}
				}
				w.WriteHeader(tc.a.status)
				_, _ = io.WriteString(w, "0123456789")
			}))
			defer server.Close()
			got, err := read(t.Context(), open(t, server.URL+"/", nil), tc.o, 10, 10)
			if !errors.Is(err, tc.want) || tc.want == nil && string(got) != "0123456789" {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
}

func TestAServerWithoutRangesIsReadThroughUpToABound(t *testing.T) {
	server := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		w.Header().Set("Content-Length", "1000000000")
		if r.Method == nethttp.MethodGet {
			_, _ = w.Write(bytes.Repeat([]byte("0123456789"), 10000))
		}
	}))
	defer server.Close()
	s := open(t, server.URL+"/", nil)
	o, err := s.Stat(t.Context(), "file")
	if err != nil || o.Size != 1e9 {
		t.Fatalf("%+v, %v", o, err)
	}
	if got, err := read(t.Context(), s, o, 77, 5); err != nil || string(got) != "78901" {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := read(t.Context(), s, o, 5e8, 5); !errors.Is(err, source.ErrInvalid) || !strings.Contains(err.Error(), "no range requests") {
		t.Errorf("far behind: %v", err)
	}
}

func TestAServerThatKnowsNoHeadIsAskedForAByte(t *testing.T) {
	content := strings.NewReader("0123456789")
	server := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		switch {
		case r.Method == nethttp.MethodHead:
			w.WriteHeader(nethttp.StatusMethodNotAllowed)
		case r.URL.Path == "/":
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = io.WriteString(w, `<a href="file">file</a> <a href="empty">empty</a> <a href="denied">denied</a> <a href="gone">gone</a>`)
		case r.URL.Path == "/file":
			nethttp.ServeContent(w, r, "", time.Unix(1e9, 0), strings.NewReader("0123456789"))
		case r.URL.Path == "/empty":
			nethttp.ServeContent(w, r, "", time.Unix(1e9, 0), strings.NewReader(""))
		case r.URL.Path == "/denied":
			w.WriteHeader(nethttp.StatusForbidden)
		default:
			w.WriteHeader(nethttp.StatusNotFound)
		}
	}))
	defer server.Close()
	s := open(t, server.URL, nil)
	if o, err := s.Stat(t.Context(), "file"); err != nil || o.Size != int64(content.Len()) || o.ModTime.Unix() != 1e9 {
		t.Errorf("%+v, %v", o, err)
	}
	// What is listed and not given out is left out.
	if got := names(t, s, ""); !slices.Equal(got, []string{"empty", "file"}) {
		t.Errorf("listed %q", got)
	}
	if root, err := s.Stat(t.Context(), ""); err != nil || !root.Dir {
		t.Errorf("the root is %+v, %v", root, err)
	}
}

func TestCredentialsReachTheirServerAndNoOther(t *testing.T) {
	seen := make(chan nethttp.Header, 10)
	other := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		seen <- r.Header.Clone()
		w.Header().Set("Content-Length", "7")
	}))
	defer other.Close()
	server := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		seen <- r.Header.Clone()
		nethttp.Redirect(w, r, other.URL+"/elsewhere?signature=abc", nethttp.StatusFound)
	}))
	defer server.Close()
	for name, tc := range map[string]struct {
		options map[string]string
		want    string
	}{
		"a user":  {map[string]string{"user": "me", "password": "pass\n", "header.x-api-key": "key"}, "Basic bWU6cGFzcw=="},
		"a token": {map[string]string{"token": "abc", "header.X-Api-Key": "key"}, "Bearer abc"},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := open(t, server.URL+"/", tc.options).Stat(t.Context(), "file")
			if err != nil || o.Size != 7 {
				t.Errorf("%+v, %v", o, err)
			}
			first, second := <-seen, <-seen
			if first.Get("Authorization") != tc.want || first.Get("X-Api-Key") != "key" || first.Get("Accept-Encoding") != "identity" {
				t.Errorf("the server got %v", first)
			}
			if second.Get("Authorization") != "" || second.Get("X-Api-Key") != "" || second.Get("Referer") != "" {
				t.Errorf("another server got %v", second)
			}
		})
	}
}

func TestRedirectsAreBoundedAndNeverLeadToARefusedAddress(t *testing.T) {
	var reached atomic.Bool
	inside, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	secret := &httptest.Server{Listener: inside, Config: &nethttp.Server{Handler: nethttp.HandlerFunc(func(nethttp.ResponseWriter, *nethttp.Request) { reached.Store(true) })}}
	secret.Start()
	defer secret.Close()
	server := httptest.NewTLSServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		to := map[string]string{
			"/inside": "https://" + inside.Addr().String() + "/latest/meta-data?signature=abc",
			"/round":  "/round?",
			"/down":   "http://" + r.Host + "/file",
			"/scheme": "file:///etc/passwd",
		}[r.URL.Path]
		nethttp.Redirect(w, r, to, nethttp.StatusFound)
	}))
	defer server.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	s, err := http.Open(t.Context(), config(server.URL+"/", map[string]string{"ca": ca}, "127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for where, want := range map[string]struct {
		kind error
		says string
	}{
		"inside": {source.ErrDenied, "127.0.0.2 is a loopback address: the administrator may allow it"},
		"round":  {source.ErrInvalid, "redirects"},
		"down":   {source.ErrInvalid, "from https to http"},
		"scheme": {source.ErrInvalid, `scheme "file"`},
	} {
		_, err := s.Stat(t.Context(), where)
		if !errors.Is(err, want.kind) || !strings.Contains(err.Error(), want.says) || strings.Contains(err.Error(), "signature") {
			t.Errorf("%s: %v", where, err)
		}
	}
	if reached.Load() {
		t.Error("a refused address was reached")
	}
}

func TestAServersCertificateIsHeldAgainstTheAuthoritiesGiven(t *testing.T) {
	server := httptest.NewTLSServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		w.Header().Set("Content-Length", "7")
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	defer server.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		ca   string
		want error
	}{"as text": {string(ca), nil}, "as a file": {file, nil}, "not": {"", source.ErrInvalid}} {
		_, err := open(t, server.URL, map[string]string{"ca": tc.ca}).Stat(t.Context(), "file")
		if !errors.Is(err, tc.want) || err != nil && !strings.Contains(err.Error(), "option ca") {
			t.Errorf("authority given %s: %v", name, err)
		}
	}
}

func TestAMountPointOrOptionThatMakesNoSenseIsInvalid(t *testing.T) {
	for name, tc := range map[string]struct {
		url     string
		options map[string]string
		want    error
	}{
		"no host":              {"http:///path", nil, source.ErrInvalid},
		"user and password":    {"https://user:hunter2@host/path", nil, source.ErrInvalid},
		"parameters":           {"https://host/path?token=hunter2", nil, source.ErrInvalid},
		"no URL":               {"https://user:hunter2@ho st/%zz", nil, source.ErrInvalid},
		"timeout":              {"https://host", map[string]string{"timeout": "soon"}, source.ErrInvalid},
		"no timeout":           {"https://host", map[string]string{"timeout": "0s"}, source.ErrInvalid},
		"connections":          {"https://host", map[string]string{"connections": "0"}, source.ErrInvalid},
		"certificate":          {"https://host", map[string]string{"ca": "nothing"}, source.ErrInvalid},
		"certificate's file":   {"https://host", map[string]string{"ca": "/nonexistent"}, source.ErrInvalid},
		"user and token":       {"https://host", map[string]string{"user": "u", "token": "hunter2"}, source.ErrInvalid},
		"password and no user": {"https://host", map[string]string{"password": "hunter2"}, source.ErrInvalid},
		"a header of two":      {"https://host", map[string]string{"header.X-Key": "hunter2\r\nHost: other"}, source.ErrInvalid},
		"a header's name":      {"https://host", map[string]string{"header.X Key": "hunter2"}, source.ErrInvalid},
		"a header of ours":     {"https://host", map[string]string{"header.range": "bytes=0-"}, source.ErrInvalid},
		"a token of two":       {"https://host", map[string]string{"token": "a\r\nhunter2"}, source.ErrInvalid},
		"loopback":             {"http://127.0.0.1/x", nil, source.ErrDenied},
		"localhost":            {"http://localhost:8080", nil, source.ErrDenied},
		"metadata":             {"http://169.254.169.254/latest", nil, source.ErrDenied},
		"metadata in IPv6":     {"http://[::ffff:169.254.169.254]/latest", nil, source.ErrDenied},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := http.Open(t.Context(), config(tc.url, tc.options))
			if !errors.Is(err, tc.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestAHugeListingIsWhole(t *testing.T) {
	const n = 5000
	server := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		if r.URL.Path != "/" {
			w.Header().Set("Content-Length", "1")
			return
		}
		w.Header().Set("Content-Type", "text/html")
		for i := range n {
			fmt.Fprintf(w, "<a href=\"f%d\">f</a> 1 byte\n", i)
		}
	}))
	defer server.Close()
	if got := len(names(t, open(t, server.URL, nil), "")); got != n {
		t.Errorf("%d listed", got)
	}
}
