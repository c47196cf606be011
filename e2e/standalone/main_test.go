// Package standalone_test proves the cache without Kubernetes by its own
// command: real processes, a real S3 server, real mounts.
package standalone_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/source/sourcetest/s3server"
	"github.com/millrace/millrace/runtime/standalone"
)

// install is the page's command.
const install = "CGO_ENABLED=0 go install ./cmd/millrace"

// binary is the millrace command, static as it is released.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "millrace")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "millrace")
	build := exec.Command("bash", "-c", install)
	build.Dir = "../.."
	build.Env = append(os.Environ(), "GOBIN="+dir)
	build.Stdout, build.Stderr = os.Stdout, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the millrace command:", err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// patience is for how long a condition may take to come true.
const patience = time.Minute

// scene is a machine of its own for one test: directories, and a run directory
// in which only its daemons are.
type scene struct {
	t   *testing.T
	dir string
	env []string
}

func newScene(t *testing.T) *scene {
	t.Helper()
	// Short: the path of a Unix socket has an end.
	dir, err := os.MkdirTemp("", "mr")
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{t: t, dir: dir, env: []string{"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null"}}
	t.Cleanup(s.end)
	return s
}

// end leaves nothing behind, also of a test that failed half-way.
func (s *scene) end() {
	for _, status := range s.statuses() {
		s.t.Logf("%s is still mounted", status.MountPoint)
		if got := s.run("unmount", "--force", status.MountPoint); got.code != 0 {
			s.t.Errorf("cannot unmount %s: %s", status.MountPoint, got.errors)
		}
	}
	for _, m := range s.mounts() {
		s.t.Errorf("left behind: %s", m)
		_ = unix.Unmount(m, unix.MNT_DETACH)
	}
	if s.t.Failed() {
		logs, _ := filepath.Glob(s.dir + "/*.log")
		for _, l := range logs {
			data, _ := os.ReadFile(l)
			s.t.Logf("%s:\n%s", l, data[max(0, len(data)-6000):])
		}
	}
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Error(err)
	}
}

// mounts are those below the directory of the scene.
func (s *scene) mounts() (out []string) {
	found, err := mountinfo.GetMounts(mountinfo.PrefixFilter(s.dir))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, m := range found {
		out = append(out, m.Mountpoint)
	}
	return out
}

func (s *scene) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// outcome is how a command ended.
type outcome struct {
	out, errors string
	code        int
}

func (s *scene) command(args ...string) *exec.Cmd {
	c := exec.Command(binary, append([]string{"--run-dir", s.path("run")}, args...)...)
	c.Env = append(os.Environ(), s.env...)
	c.Dir = s.dir
	return c
}

func (s *scene) run(args ...string) outcome {
	s.t.Helper()
	return finish(s.t, s.command(args...))
}

func finish(t *testing.T, c *exec.Cmd) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = c.Process.Kill() })
	defer stop()
	err := c.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{out.String(), errs.String(), c.ProcessState.ExitCode()}
}

// must runs a command that succeeds.
func (s *scene) must(args ...string) outcome {
	s.t.Helper()
	got := s.run(args...)
	if got.code != 0 {
		s.t.Fatalf("millrace %s: exit code %d\n%s%s", strings.Join(args, " "), got.code, got.out, got.errors)
	}
	return got
}

// mount mounts at mnt with a cache, and a log that the scene shows.
func (s *scene) mount(args ...string) outcome {
	s.t.Helper()
	return s.run(s.mountArgs(args...)...)
}

func (s *scene) mountArgs(args ...string) []string {
	return append([]string{"mount", "--log-file", s.path("mnt.log"), "--state-dir", s.path("state"), "--cache", s.path("cache") + ":1Gi"}, args...)
}

func (s *scene) mustMount(args ...string) outcome {
	s.t.Helper()
	got := s.mount(args...)
	if got.code != 0 {
		s.t.Fatalf("mount %s: exit code %d: %s", args, got.code, got.errors)
	}
	return got
}

func (s *scene) statuses(paths ...string) (all []standalone.Status) {
	s.t.Helper()
	decode(s.t, s.must(append([]string{"status", "-o", "json"}, paths...)...).out, &all)
	return all
}

// status of the one mount.
func (s *scene) status() standalone.Status {
	s.t.Helper()
	all := s.statuses()
	if len(all) != 1 {
		s.t.Fatalf("%d mounts: %+v", len(all), all)
	}
	return all[0]
}

func (s *scene) until(what string, ok func() bool) {
	s.t.Helper()
	until(s.t, what, ok)
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// files are the names of a dataset and the sums of their bytes.
type files map[string]string

// content is what a file of that name and size holds.
func content(name string, size int) []byte {
	var seed [32]byte
	copy(seed[:], name)
	data := make([]byte, size)
	_, _ = rand.NewChaCha8(seed).Read(data)
	return data
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// sizes of the files of a dataset.
func sizes(big int) map[string]int {
	out := map[string]int{"model.bin": big, "empty": 0, "train/with space/ünï": 100_000}
	for i := range 30 {
		out[fmt.Sprintf("train/%d/image-%03d", i%3, i)] = 1000*i + 1
	}
	return out
}

// directory fills a directory.
func (s *scene) directory(name string, big int) files {
	s.t.Helper()
	out := files{}
	for file, size := range sizes(big) {
		at := s.path(name, file)
		data := content(file, size)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, data, 0o644)); err != nil {
			s.t.Fatal(err)
		}
		out[file] = sum(data)
	}
	return out
}

// bucket fills a bucket of a new S3 server.
func bucket(t *testing.T, name string, big int) (*s3server.Server, files) {
	t.Helper()
	server := s3server.Start(t)
	return server, fill(t, server, name, big)
}

func fill(t *testing.T, server *s3server.Server, bucket string, big int) files {
	t.Helper()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	admin := awss3.New(awss3.Options{
		BaseEndpoint: aws.String(server.Endpoint), UsePathStyle: true, Region: "us-east-1", HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(s3server.AccessKey, s3server.SecretKey, ""),
	})
	if _, err := admin.CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: &bucket}); err != nil {
		t.Fatal(err)
	}
	out := files{}
	for file, size := range sizes(big) {
		data := content(file, size)
		if _, err := admin.PutObject(t.Context(), &awss3.PutObjectInput{Bucket: &bucket, Key: &file, Body: bytes.NewReader(data)}); err != nil {
			t.Fatal(err)
		}
		out[file] = sum(data)
	}
	return out
}

// keys are the server's, as the SDK reads them.
func keys() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + s3server.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s3server.SecretKey}
}

// check reads every file below dir and nothing else is there.
func check(t *testing.T, dir string, want files) {
	t.Helper()
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		seen++
		got, err := sumOf(path)
		if err == nil && got != want[name] {
			err = fmt.Errorf("%s: sum %s, want %q", name, got, want[name])
		}
		return err
	})
	if err != nil || seen != len(want) {
		t.Errorf("%d of %d files: %v", seen, len(want), err)
	}
}

func sumOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
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

// fetch gives a page of an address, "" while nobody serves it.
func fetch(t *testing.T, url string) string {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return ""
	}
	return string(data)
}

// arguments and environment of a process.
func proc(t *testing.T, pid int, what string) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, what))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func kill(t *testing.T, pid int, signal syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, signal); err != nil {
		t.Fatal(err)
	}
}

// gone tells that a process has ended; it may wait for its parent to notice.
func gone(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.HasPrefix(string(data[bytes.LastIndexByte(data, ')')+1:]), " Z")
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

func pidText(c *exec.Cmd) string { return strconv.Itoa(c.Process.Pid) }

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
