package main_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/source/sourcetest/s3server"
)

// binary is the cache command, built once for all tests.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "cache")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "cache")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Stdout, build.Stderr = os.Stdout, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the cache command:", err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// patience is for how long a condition may take to come true.
const patience = 2 * time.Minute

// engine is a whole cache of real processes over a real directory.
type engine struct {
	t         *testing.T
	dir       string
	source    string // the directory of the mount at /
	mount     string
	config    contract.RuntimeConfig
	rpc, http string
	procs     map[string]*process
}

type process struct {
	cmd   *exec.Cmd
	log   *logFile
	ended chan struct{}
	err   error
}

// logFile keeps what a process says, for a failure.
type logFile struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logFile) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.buf.String()
	if len(s) > 6000 {
		s = s[len(s)-6000:]
	}
	return s
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// newEngine makes an engine that shall have so many workers.
func newEngine(t *testing.T, workers int32) *engine {
	t.Helper()
	dir := t.TempDir()
	e := &engine{
		t: t, dir: dir, source: filepath.Join(dir, "source"), mount: filepath.Join(dir, "mnt"),
		rpc: freeAddress(t), http: freeAddress(t), procs: map[string]*process{},
	}
	if err := os.Mkdir(e.source, 0o755); err != nil {
		t.Fatal(err)
	}
	// The directory of a local:// source is where pods mount it.
	place := contract.LocalDir(e.source)
	if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(e.source, place); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.Remove(place)
		for p := filepath.Dir(place); p != "/" && os.Remove(p) == nil; p = filepath.Dir(p) {
		}
	})
	e.config = contract.RuntimeConfig{Mounts: []contract.MountConfig{{MountPoint: contract.SchemeLocal + e.source[1:], Name: "data", Path: "/"}}}
	e.config.Worker.Replicas = workers
	t.Cleanup(e.end)
	return e
}

// end stops what runs, and shows what it said if the test failed.
func (e *engine) end() {
	for _, name := range []string{"client", "worker-0", "worker-1", "master"} {
		p := e.procs[name]
		if p == nil {
			continue
		}
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.ended:
		case <-time.After(patience):
			e.t.Errorf("%s does not end", name)
			_ = p.cmd.Process.Kill()
			<-p.ended
		}
	}
	if e.t.Failed() {
		for name, p := range e.procs {
			e.t.Logf("%s said:\n%s", name, p.log.tail())
		}
	}
	if isMount(e.mount) {
		e.t.Errorf("%s is still mounted", e.mount)
		_ = unix.Unmount(e.mount, unix.MNT_DETACH)
	}
}

func isMount(dir string) bool {
	var fs unix.Statfs_t
	err := unix.Statfs(dir, &fs)
	return errors.Is(err, unix.ENOTCONN) || err == nil && fs.Type == unix.FUSE_SUPER_MAGIC
}

// start runs a subcommand with the configuration of a component of its own.
func (e *engine) start(name string, tune func(*contract.RuntimeConfig), args ...string) *process {
	e.t.Helper()
	p := e.command(name, tune, args...)
	if err := p.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	e.procs[name] = p
	return p
}

func (e *engine) command(name string, tune func(*contract.RuntimeConfig), args ...string) *process {
	e.t.Helper()
	config := e.config
	if tune != nil {
		tune(&config)
	}
	data, err := config.Encode()
	if err != nil {
		e.t.Fatal(err)
	}
	file := filepath.Join(e.dir, name+".json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		e.t.Fatal(err)
	}
	p := &process{cmd: exec.Command(binary, args...), log: &logFile{}, ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Env = append(os.Environ(), "AWS_EC2_METADATA_DISABLED=true",
		contract.EnvRuntimeConfig+"="+file, contract.EnvMasterAddress+"="+e.rpc, contract.EnvPodName+"="+name,
		contract.EnvNodeName+"=node-of-"+name, contract.EnvPodIP+"=127.0.0.1", contract.EnvRuntimeMountPath+"="+e.mount)
	return p
}

func (e *engine) startMaster() {
	e.t.Helper()
	e.start("master", nil, "master", "--rpc-address="+e.rpc, "--http-address="+e.http)
}

// startWorker runs a worker; number 0 is on the node of the client.
func (e *engine) startWorker(i int, quota string) {
	e.t.Helper()
	name := fmt.Sprintf("worker-%d", i)
	tier := filepath.Join(e.dir, name)
	if err := os.MkdirAll(tier, 0o755); err != nil {
		e.t.Fatal(err)
	}
	e.start(name, func(c *contract.RuntimeConfig) {
		c.Worker.TieredStoreLevels = []contract.TierConfig{{MountPaths: []string{tier}, MediumType: contract.TierSSD, Quotas: []string{quota}}}
	}, "worker", "--data-address="+freeAddress(e.t), "--http-address=", "--socket="+e.socket(i))
	e.until(name+" is a member", func(s *contract.Summary) bool {
		return slices.ContainsFunc(s.Workers, func(w contract.WorkerSummary) bool { return w.Name == name })
	})
}

func (e *engine) socket(i int) string { return filepath.Join(e.dir, fmt.Sprintf("w%d.sock", i)) }

func (e *engine) startClient() {
	e.t.Helper()
	e.start("client", nil, "fuse", "--mount-path="+e.mount, "--http-address=", "--socket="+e.socket(0))
	deadline := time.Now().Add(patience)
	for exec.Command(binary, "fuse-ready", "--mount-path="+e.mount).Run() != nil {
		if time.Now().After(deadline) {
			e.t.Fatal("the file system was not mounted")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// kill ends a process as a crash does.
func (e *engine) kill(name string) {
	e.t.Helper()
	p := e.procs[name]
	if err := p.cmd.Process.Kill(); err != nil {
		e.t.Fatal(err)
	}
	<-p.ended
}

func (e *engine) summary() (*contract.Summary, error) {
	client := &http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + e.http + contract.PathSummary)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	s := &contract.Summary{}
	return s, json.NewDecoder(resp.Body).Decode(s)
}

func (e *engine) until(what string, ok func(*contract.Summary) bool) *contract.Summary {
	e.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		s, err := e.summary()
		if err == nil && ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			e.t.Fatalf("never: %s; last summary %+v, error %v", what, s, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// load runs the loader to its end and gives its final message and its error.
func (e *engine) load(id string, env ...string) (string, error) {
	e.t.Helper()
	message := filepath.Join(e.dir, id+".message")
	if err := os.WriteFile(message, nil, 0o600); err != nil {
		e.t.Fatal(err)
	}
	p := e.command("load-"+id, nil, "load", "--termination-log="+message)
	p.cmd.Env = append(p.cmd.Env, contract.EnvLoadID+"="+id)
	p.cmd.Env = append(p.cmd.Env, env...)
	ctx, cancel := context.WithTimeout(e.t.Context(), 2*patience)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() })
	defer stop()
	err := p.cmd.Run()
	said, readErr := os.ReadFile(message)
	if readErr != nil {
		e.t.Fatal(readErr)
	}
	if err != nil {
		e.t.Logf("load said:\n%s", p.log.tail())
	}
	return string(said), err
}

// write puts random bytes at the source and gives their sum.
func (e *engine) write(name string, size int) string {
	e.t.Helper()
	path := filepath.Join(e.source, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		e.t.Fatal(err)
	}
	data := make([]byte, size)
	seed := [32]byte{}
	copy(seed[:], name)
	_, _ = rand.NewChaCha8(seed).Read(data)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		e.t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// sums are the files of a dataset and their right bytes.
type sums map[string]string

func (e *engine) fill(big int) sums {
	e.t.Helper()
	s := sums{}
	add := func(name string, size int) { s[name] = e.write(name, size) }
	add("model.bin", big)
	add("empty", 0)
	add(".hidden/with space/ünï", 100_000)
	for i := range 50 {
		add(fmt.Sprintf("train/%02d/image-%03d", i%5, i), 1000*i+1)
	}
	return s
}

// check reads every file through the mount.
func (e *engine) check(want sums) {
	e.t.Helper()
	for name, sum := range want {
		if got, err := e.sum(name, nil); err != nil || got != sum {
			e.t.Errorf("%s: sum %s, want %s, error %v", name, got, sum, err)
		}
	}
}

// sum reads one file through the mount; middle is called once, after 8 MiB.
func (e *engine) sum(name string, middle func()) (string, error) {
	f, err := os.Open(filepath.Join(e.mount, name))
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if middle != nil {
		if _, err := io.CopyN(h, f, 8<<20); err != nil {
			return "", err
		}
		middle()
	}
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

func TestTheWholePath(t *testing.T) {
	e := newEngine(t, 2)
	want := e.fill(100 << 20)
	e.startMaster()
	e.startWorker(0, "1Gi")
	e.startWorker(1, "1Gi")
	e.startClient()
	if got, err := e.sum("model.bin", nil); err != nil || got != want["model.bin"] {
		t.Errorf("before the load: %s, %v", got, err)
	}
	began := time.Now()
	if message, err := e.load("first"); err != nil || !strings.HasPrefix(message, "cached ") {
		t.Fatalf("load: %v, %q", err, message)
	}
	t.Logf("loaded in %s", time.Since(began).Round(time.Millisecond))
	s := e.until("everything is cached", func(s *contract.Summary) bool { return s.CachedBytes == s.UFSTotalBytes })
	if s.FileNum != int64(len(want)) || !s.MetadataComplete || len(s.Loads) != 1 || s.Loads[0].Phase != contract.LoadComplete {
		t.Errorf("summary %+v", s)
	}
	e.check(want)
}

func TestPain7ALoadWithoutRoomFailsAndSaysSo(t *testing.T) {
	e := newEngine(t, 1)
	e.fill(64 << 20)
	e.startMaster()
	e.startWorker(0, "20Mi")
	message, err := e.load("small")
	if err == nil || !strings.Contains(message, "raise the quota") {
		t.Errorf("ended with %v, %q", err, message)
	}
	message, err = e.load("nowhere", contract.EnvDataLoadPath+"=/train:/not/here")
	if err == nil || !strings.Contains(message, "/not/here") {
		t.Errorf("ended with %v, %q", err, message)
	}
	if message, err := e.load("part", contract.EnvDataLoadPath+"=/train:/empty", contract.EnvDataLoadReplicas+"=1:1", contract.EnvDataLoadMetadata+"=true"); err != nil {
		t.Errorf("a part that has room: %v, %q", err, message)
	}
}

func TestReadsGoOnWhenWorkersAndTheMasterDie(t *testing.T) {
	e := newEngine(t, 2)
	want := e.fill(100 << 20)
	e.startMaster()
	e.startWorker(0, "1Gi")
	e.startWorker(1, "1Gi")
	e.startClient()
	for _, victims := range [][]string{{"worker-1"}, {"worker-0"}, {"master"}} {
		got, err := e.sum("model.bin", func() {
			for _, v := range victims {
				e.kill(v)
			}
		})
		if err != nil || got != want["model.bin"] {
			t.Errorf("while %v died: %s, %v", victims, got, err)
		}
	}
	e.startMaster()
	e.startWorker(0, "1Gi")
	e.startWorker(1, "1Gi")
	e.check(want)
	if message, err := e.load("after"); err != nil {
		t.Errorf("load: %v, %q", err, message)
	}
	e.until("everything is cached", func(s *contract.Summary) bool { return s.CachedBytes == s.UFSTotalBytes && len(s.Workers) == 2 })
}

func TestPain7ALoadCompletesAlthoughAWorkerAndTheMasterDie(t *testing.T) {
	e := newEngine(t, 2)
	e.fill(250 << 20)
	e.startMaster()
	e.startWorker(0, "1Gi")
	e.startWorker(1, "1Gi")
	type end struct {
		err     error
		message string
	}
	ended := make(chan end, 1)
	go func() {
		message, err := e.load("killed")
		ended <- end{err, message}
	}()
	e.until("the load is under way", func(s *contract.Summary) bool { return s.CachedBytes > 0 })
	e.kill("worker-1")
	e.kill("master")
	e.startMaster()
	e.startWorker(1, "1Gi")
	if got := <-ended; got.err != nil {
		t.Errorf("ended with %v, %q", got.err, got.message)
	}
	e.until("everything is cached", func(s *contract.Summary) bool { return s.CachedBytes == s.UFSTotalBytes })
}

func TestPain6AFileThatChangesIsReadAnew(t *testing.T) {
	e := newEngine(t, 1)
	want := sums{"a": e.write("a", 9<<20), "b": e.write("b", 1000)}
	e.startMaster()
	e.startWorker(0, "1Gi")
	e.startClient()
	if message, err := e.load("first"); err != nil {
		t.Fatal(err, message)
	}
	e.check(want)
	if err := os.Remove(filepath.Join(e.source, "a")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(e.source, "b"), []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	if message, err := e.load("second", contract.EnvDataLoadMetadata+"=true"); err != nil {
		t.Fatal(err, message)
	}
	s := e.until("the new version is all there is", func(s *contract.Summary) bool { return s.UFSTotalBytes == 5 && s.CachedBytes == 5 })
	if s.FileNum != 1 {
		t.Errorf("summary %+v", s)
	}
	deadline := time.Now().Add(patience)
	for {
		data, err := os.ReadFile(filepath.Join(e.mount, "b"))
		_, gone := os.Stat(filepath.Join(e.mount, "a"))
		if err == nil && string(data) == "other" && errors.Is(gone, os.ErrNotExist) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("b is %d bytes, %v; a: %v", len(data), err, gone)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestTheClientComesBackAfterACrash(t *testing.T) {
	e := newEngine(t, 1)
	want := e.fill(20 << 20)
	e.startMaster()
	e.startWorker(0, "1Gi")
	e.startClient()
	e.check(want)
	inode := func() uint64 {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(e.mount, "train/00/image-000"), &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	before := inode()
	e.kill("client")
	if exec.Command(binary, "fuse-ready", "--mount-path="+e.mount).Run() == nil {
		t.Error("a dead mount is ready")
	}
	e.startClient()
	e.check(want)
	if after := inode(); after != before {
		t.Errorf("inode %d, before the crash %d", after, before)
	}
}

func TestAMountThatIsBrokenDoesNotTouchTheOthers(t *testing.T) {
	e := newEngine(t, 1)
	want := e.fill(1 << 20)
	e.config.Mounts = append(e.config.Mounts,
		contract.MountConfig{MountPoint: "s3://bucket", Name: "down", Path: "/deep/down", Options: map[string]string{
			"alluxio.underfs.s3.endpoint": "http://" + freeAddress(t), "aws.accessKeyId": "nobody", "aws.secretKey": "nothing",
		}},
		contract.MountConfig{MountPoint: "http://169.254.169.254/latest", Name: "metadata"},
		contract.MountConfig{MountPoint: "ftpx://host/x", Name: "unknown"},
		contract.MountConfig{MountPoint: "s3://other", Name: "nosecret", EncryptOptions: map[string]string{"aws.accessKeyId": e.dir + "/none"}})
	e.config.Egress = &contract.EgressConfig{Allow: []string{"127.0.0.0/8"}}
	e.startMaster()
	e.startWorker(0, "1Gi")
	e.startClient()
	e.check(want)
	s := e.until("the states are told", func(s *contract.Summary) bool {
		return len(s.Mounts) == 5 && !slices.ContainsFunc(s.Mounts, func(m contract.MountSummary) bool {
			return strings.HasPrefix(m.Message, "connecting")
		})
	})
	for i, want := range []struct{ path, reason, says string }{
		{"/", contract.MountReady, ""},
		{"/deep/down", contract.MountUnavailable, "s3://bucket"},
		{"/metadata", contract.MountDenied, "runtime.egress.allow"},
		{"/nosecret", contract.MountInvalid, e.dir + "/none"},
		{"/unknown", contract.MountInvalid, "ftpx"},
	} {
		if m := s.Mounts[i]; m.Path != want.path || m.Reason != want.reason || !strings.Contains(m.Message, want.says) || m.Ready != (want.reason == contract.MountReady) {
			t.Errorf("got %+v, want %+v", m, want)
		}
	}
	if s.MetadataComplete {
		t.Error("the metadata is complete")
	}
	names, err := os.ReadDir(e.mount)
	if err != nil || len(names) != 8 {
		t.Errorf("the root has %v, %v", names, err)
	}
	if message, err := e.load("some", contract.EnvDataLoadPath+"=/train"); err != nil {
		t.Errorf("a load of what is there: %v, %q", err, message)
	}
	if message, err := e.load("all"); err == nil || !strings.Contains(message, "mount /") {
		t.Errorf("a load of all: %v, %q", err, message)
	}
}

func TestASourceThatGoesDownAndComesBack(t *testing.T) {
	server := s3server.Start(t)
	admin := awss3.New(awss3.Options{
		BaseEndpoint: aws.String(server.Endpoint), UsePathStyle: true, Region: "us-east-1",
		Credentials: credentials.NewStaticCredentialsProvider(s3server.AccessKey, s3server.SecretKey, ""),
	})
	if _, err := admin.CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: aws.String("data")}); err != nil {
		t.Fatal(err)
	}
	want := sums{}
	for name, size := range map[string]int{"one": 100_000, "deep/er/two": 3 << 20, "empty": 0} {
		data := bytes.Repeat([]byte(name), size/len(name))
		_, err := admin.PutObject(t.Context(), &awss3.PutObjectInput{Bucket: aws.String("data"), Key: aws.String(name), Body: bytes.NewReader(data)})
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		want[name] = hex.EncodeToString(sum[:])
	}
	server.Down(t)
	e := newEngine(t, 1)
	keys := filepath.Join(e.dir, "keys")
	if err := os.WriteFile(keys, []byte("not the key"), 0o600); err != nil {
		t.Fatal(err)
	}
	id := filepath.Join(e.dir, "id")
	if err := os.WriteFile(id, []byte(s3server.AccessKey), 0o600); err != nil {
		t.Fatal(err)
	}
	e.config.Mounts = []contract.MountConfig{{
		MountPoint: "s3://data", Path: "/", Options: map[string]string{"endpoint": server.Endpoint, "region": "us-east-1"},
		EncryptOptions: map[string]string{"aws.accessKeyId": id, "aws.secretKey": keys},
	}}
	e.config.Egress = &contract.EgressConfig{Allow: []string{"127.0.0.0/8"}}
	e.startMaster()
	e.startWorker(0, "1Gi")
	e.startClient()
	reason := func(want string) {
		t.Helper()
		e.until("the mount is "+want, func(s *contract.Summary) bool {
			return strings.Contains(s.Mounts[0].Message, "s3://data") && s.Mounts[0].Reason == want || s.Mounts[0].Ready && want == contract.MountReady
		})
	}
	reason(contract.MountUnavailable)
	server.Up(t)
	reason(contract.MountDenied)
	if err := os.WriteFile(keys, []byte(s3server.SecretKey), 0o600); err != nil {
		t.Fatal(err)
	}
	reason(contract.MountReady)
	if message, err := e.load("all"); err != nil {
		t.Fatalf("load: %v, %q", err, message)
	}
	server.Down(t)
	e.check(want)
}
