package controllers_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// requests counts what the manager writes, those writes that change nothing
// included.
type requests struct {
	mu    sync.Mutex
	paths map[string]int // by the path's parts, of which one is or begins with a namespace
}

var writes = &requests{paths: map[string]int{}}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (c *requests) count(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.Method != http.MethodGet {
			c.mu.Lock()
			c.paths[r.Method+" "+r.URL.Path]++
			c.mu.Unlock()
		}
		return next.RoundTrip(r)
	})
}

// to is how many writes went to a namespace and to volumes of its name.
func (c *requests) to(namespace string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for path, times := range c.paths {
		if strings.Contains(path+"/", "/"+namespace+"/") || strings.Contains(path, "/"+namespace+"-") {
			n += times
		}
	}
	return n
}

// settled waits until nothing is written for half a second, and gives how much was.
func (p *place) settled() (before int) {
	p.Helper()
	eventually(p.T, func() error {
		before = writes.to(p.namespace)
		time.Sleep(500 * time.Millisecond)
		if now := writes.to(p.namespace); now != before {
			return fmt.Errorf("%d writes became %d", before, now)
		}
		return nil
	})
	return before
}

// stays looks for a while whether anything is written.
func (p *place) stays(before int, d time.Duration) {
	p.Helper()
	time.Sleep(d)
	if now := writes.to(p.namespace); now != before {
		p.Errorf("%d writes while nothing changed", now-before)
	}
}

// binaries is a directory that goes with the process.
var binaries string

// cacheBinary is the engine, built once.
var cacheBinary = sync.OnceValues(func() (string, error) {
	binary := filepath.Join(binaries, "cache")
	if out, err := exec.Command("go", "build", "-o", binary, "../cmd/cache").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the engine: %w\n%s", err, out)
	}
	return binary, nil
})

// realEngine is the engine's own master and a worker, for a runtime whose pods
// are names only.
type realEngine struct {
	*place
	name, dir, rpc, binary string
}

// engine starts them as soon as there is a runtime.json.
func (p *place) engine(name string) *realEngine {
	p.Helper()
	binary, err := cacheBinary()
	p.must(err)
	e := &realEngine{place: p, name: name, dir: p.TempDir(), binary: binary}
	var text string
	eventually(p.T, func() error {
		config := &corev1.ConfigMap{}
		err := world.Get(p.Context(), p.key(contract.ConfigMapName(name)), config)
		text = config.Data[contract.RuntimeConfigKey]
		return err
	})
	config, err := contract.DecodeRuntimeConfig([]byte(text))
	p.must(err)
	config.Worker.TieredStoreLevels = []contract.TierConfig{{MountPaths: []string{e.dir}, MediumType: contract.TierSSD, Quotas: []string{"1Gi"}}}
	data, err := config.Encode()
	p.must(err)
	p.must(os.WriteFile(filepath.Join(e.dir, "runtime.json"), data, 0o600))
	at := freeAddress(p.T)
	e.rpc = freeAddress(p.T)
	e.start("master", "master", "--rpc-address="+e.rpc, "--http-address="+at)
	e.start("worker", "worker", "--data-address="+freeAddress(p.T), "--http-address=", "--socket="+filepath.Join(e.dir, "socket"))
	to := &httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: at}) }}
	to.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	masters.mu.Lock()
	masters.real[p.key(name)] = to
	masters.mu.Unlock()
	p.run(name, "worker-node")
	return e
}

func freeAddress(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(nil)
	defer server.Close()
	return server.Listener.Addr().String()
}

// start runs a process of the engine until the end of the test.
func (e *realEngine) start(pod string, args ...string) *exec.Cmd {
	e.Helper()
	log, err := os.Create(filepath.Join(e.dir, pod+".log"))
	e.must(err)
	cmd := exec.Command(e.binary, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Env = append(os.Environ(), contract.EnvRuntimeConfig+"="+filepath.Join(e.dir, "runtime.json"), contract.EnvMasterAddress+"="+e.rpc,
		contract.EnvPodName+"="+pod, contract.EnvNodeName+"=node", contract.EnvPodIP+"=127.0.0.1", contract.EnvLoadID+"=load")
	e.must(cmd.Start())
	e.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
		if text, err := os.ReadFile(log.Name()); e.Failed() && err == nil {
			e.Logf("%s said:\n%s", pod, text[max(0, len(text)-3000):])
		}
	})
	return cmd
}

// slowSource is an HTTP server with directory listings that gives a file only
// when it is let, and may be told to hold or fail the listing of /late/.
type slowSource struct {
	*httptest.Server
	files  int
	let    chan struct{} // one for each file that may be read
	listed chan struct{} // closed when /late/ may be listed
	mu     sync.Mutex
	fails  bool
	given  map[string]bool
}

const slowFile = 300_000 // bytes of each file

func newSlowSource(t *testing.T, files int) *slowSource {
	s := &slowSource{files: files, let: make(chan struct{}, files), listed: make(chan struct{}), given: map[string]bool{}}
	s.Server = httptest.NewServer(s)
	s.Config.Handler = s
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *slowSource) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/":
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, `<a href="late/">late/</a>`)
	case "/late/":
		s.mu.Lock()
		fails := s.fails
		s.mu.Unlock()
		if fails {
			http.Error(w, "out of order", http.StatusServiceUnavailable)
			return
		}
		select {
		case <-s.listed:
		case <-r.Context().Done():
			return
		}
		w.Header().Set("Content-Type", "text/html")
		for i := range s.files {
			fmt.Fprintf(w, `<a href="f%03d">f</a>`, i)
		}
	default:
		if r.Method == http.MethodGet && !s.pass(r) {
			return
		}
		http.ServeContent(w, r, "", time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), strings.NewReader(strings.Repeat("x", slowFile)))
	}
}

// pass waits until one more file may be given, each once.
func (s *slowSource) pass(r *http.Request) bool {
	s.mu.Lock()
	given := s.given[r.URL.Path]
	s.given[r.URL.Path] = true
	s.mu.Unlock()
	if given {
		return true
	}
	select {
	case <-s.let:
		return true
	case <-r.Context().Done():
		s.mu.Lock()
		s.given[r.URL.Path] = false
		s.mu.Unlock()
		return false
	}
}

// httpDataset makes a Dataset of the source.
func (p *place) httpDataset(name string, s *slowSource) {
	p.Helper()
	p.dataset(name, datav1alpha1.Mount{MountPoint: s.URL + "/", Name: "web", Path: "/"})
	p.create(p.cacheRuntime(name))
}

// Pain 4: status is stale or wrong. The engine's own master and worker, and a
// source that gives one file after the other.
func TestPain4NumbersFollowAndThenNothingIsWritten(t *testing.T) {
	p := newPlace(t)
	const files = 6
	source := newSlowSource(t, files)
	p.httpDataset("data", source)
	e := p.engine("data")
	shows := func(what string, ok func(ds *datav1alpha1.Dataset) bool) {
		t.Helper()
		eventually(t, func() error {
			if ds := p.get("data"); !ok(ds) {
				return fmt.Errorf("%s: the Dataset shows %s files with %s, %v: %+v", what, ds.Status.FileNum, ds.Status.UfsTotal, ds.Status.CacheStates, ds.Status.Conditions)
			}
			return nil
		})
	}
	// A source that is slow to list: it can be read, and how far the listing is
	// is said.
	p.becomes("data", datav1alpha1.BoundDatasetPhase)
	shows("while it is listed", func(ds *datav1alpha1.Dataset) bool { return ds.Status.UfsTotal == datav1alpha1.MetadataSyncCalculating })
	p.datasetSays("data", metav1.ConditionTrue, "still being listed")
	close(source.listed)
	shows("listed", func(ds *datav1alpha1.Dataset) bool {
		return ds.Status.UfsTotal == "1.72MiB" && ds.Status.FileNum == "6"
	})

	e.start("load", "load")
	for i := 1; i <= files; i++ {
		source.let <- struct{}{}
		began := time.Now()
		want := []string{"292.97KiB", "585.94KiB", "878.91KiB", "1.14MiB", "1.43MiB", "1.72MiB"}[i-1]
		shows("file after file", func(ds *datav1alpha1.Dataset) bool { return ds.Status.CacheStates["cached"] == want })
		t.Logf("%d files: shown after %s", i, time.Since(began).Round(time.Millisecond))
	}
	if ds := p.get("data"); ds.Status.CacheStates["cachedPercentage"] != "100.0%" || ds.Status.UfsTotal != ds.Status.CacheStates["cached"] {
		t.Errorf("at the end: %s, %v", ds.Status.UfsTotal, ds.Status.CacheStates)
	}
	p.conditionsAreOfNow("data")
	// A second and more of a master that says the same, which it would not say
	// more often for longer: it repeats itself every 15 s, and that is no news.
	p.stays(p.settled(), 3*time.Second)
}

// A source that fails while it is listed is not being calculated: what is shown
// is nothing, and why.
func TestPain4CalculatingEndsWhenTheSourceFails(t *testing.T) {
	p := newPlace(t)
	source := newSlowSource(t, 2)
	source.fails = true
	p.httpDataset("data", source)
	p.engine("data")
	p.datasetSays("data", metav1.ConditionFalse, "SourceUnavailable", "late", "503", "tried again")
	if ds := p.get("data"); ds.Status.UfsTotal == datav1alpha1.MetadataSyncCalculating {
		t.Error("it says that it calculates")
	}
	source.mu.Lock()
	source.fails = false
	source.mu.Unlock()
	close(source.listed)
	p.becomes("data", datav1alpha1.BoundDatasetPhase)
	eventually(t, func() error {
		if ds := p.get("data"); ds.Status.UfsTotal != "585.94KiB" {
			return fmt.Errorf("ufsTotal %q", ds.Status.UfsTotal)
		}
		return nil
	})
}

// The same of a Dataset that is bound already.
func TestPain4CalculatingEndsWhenABoundSourceFails(t *testing.T) {
	p := newPlace(t)
	ds := p.bind("data", p.cacheRuntime("data"))
	if ds.Status.UfsTotal != datav1alpha1.MetadataSyncCalculating {
		t.Fatalf("ufsTotal %q", ds.Status.UfsTotal)
	}
	masters.change(p.key("data"), func(s *contract.Summary) {
		s.Mounts = []contract.MountSummary{{Path: "/", Reason: contract.MountDenied, Message: "s3://bucket: the key is refused"}}
	})
	shows := func(want string) {
		t.Helper()
		eventually(t, func() error {
			if ds := p.get("data"); ds.Status.UfsTotal != want || ds.Status.FileNum != want {
				return fmt.Errorf("ufsTotal %q, want %q", ds.Status.UfsTotal, want)
			}
			return nil
		})
	}
	shows("")
	p.serves("data", "/")
	shows(datav1alpha1.MetadataSyncCalculating)
}

// conditionsAreOfNow: every condition tells of which generation it speaks.
func (p *place) conditionsAreOfNow(name string) {
	p.Helper()
	ds := p.get(name)
	rt := &datav1alpha1.CacheRuntime{}
	p.must(world.Get(p.Context(), p.key(name), rt))
	for generation, list := range map[*int64][]metav1.Condition{&ds.Generation: ds.Status.Conditions, &rt.Generation: rt.Status.Conditions} {
		for _, c := range list {
			if c.ObservedGeneration != *generation {
				p.Errorf("condition %s is of generation %d, the object of %d", c.Type, c.ObservedGeneration, *generation)
			}
		}
	}
}
