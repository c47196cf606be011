package scale

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"k8s.io/client-go/rest"
)

// Write is one that a manager did.
type Write struct{ Method, Path string }

// Door is what a manager reaches the API server through. It counts writes, and
// may do something behind each that changed anything.
type Door struct {
	URL    string
	server *httptest.Server
	direct *http.Client // to the API server, past the door
	host   string
	writes atomic.Int64 // all, also those that changed nothing, without events
	mu     sync.Mutex   // held while a write is looked at, so one after the other
	behind func(Write)  // called behind a write that changed something
	seen   []Write
}

// NewDoor opens a door to the API server of a configuration. Behind may be nil;
// then nobody looks what a write changes, and Changes stays empty.
func NewDoor(config *rest.Config, behind func(Write)) (*Door, error) {
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, fmt.Errorf("open door: %w", err)
	}
	to, err := url.Parse(config.Host)
	if err != nil {
		return nil, fmt.Errorf("open door to %s: %w", config.Host, err)
	}
	d := &Door{direct: &http.Client{Transport: transport}, host: config.Host, behind: behind}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.Transport, proxy.FlushInterval = transport, -1
	// A manager that is killed leaves its watches behind.
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	d.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { d.pass(proxy, w, r) }))
	d.URL = d.server.URL
	return d, nil
}

// Close ends every connection.
func (d *Door) Close() {
	d.server.CloseClientConnections()
	d.server.Close()
}

// Writes is how many there were, those that changed nothing included.
func (d *Door) Writes() int64 { return d.writes.Load() }

// Changes are the writes that changed something.
func (d *Door) Changes() []Write {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]Write(nil), d.seen...)
}

func (d *Door) pass(proxy http.Handler, w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet || strings.HasSuffix(r.URL.Path, "/events") || strings.Contains(r.URL.Path, "/events/") {
		proxy.ServeHTTP(w, r)
		return
	}
	d.writes.Add(1)
	if d.behind == nil {
		proxy.ServeHTTP(w, r)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.Context().Err() != nil {
		return // it waited, and who sent it is dead
	}
	object := r.URL.Path
	if r.Method == http.MethodPost {
		object = ""
	}
	before := d.version(r.Context(), object)
	// The API server does the write even if the manager does not live to hear
	// of it.
	answer := httptest.NewRecorder()
	proxy.ServeHTTP(answer, r.WithContext(context.WithoutCancel(r.Context())))
	if answer.Code < 300 && (object == "" || d.version(context.WithoutCancel(r.Context()), object) != before) {
		write := Write{r.Method, r.URL.Path}
		d.seen = append(d.seen, write)
		d.behind(write)
	}
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// version is the resource version of an object; empty when it is not there.
func (d *Door) version(ctx context.Context, path string) string {
	if path == "" {
		return ""
	}
	path = strings.TrimSuffix(path, "/status")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(d.host, "/")+path, nil)
	if err != nil {
		return ""
	}
	req.Header.Set("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
	resp, err := d.direct.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	var object struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
	}
	if json.NewDecoder(resp.Body).Decode(&object) != nil {
		return ""
	}
	return object.Metadata.ResourceVersion
}
