package standalone_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/source/sourcetest/s3server"
)

func TestABucketIsMountedReadLoadedAndUnmounted(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	server, want := bucket(t, "data", 20<<20)
	s.env = append(s.env, keys()...)
	metrics := freeAddress(t)
	got := s.mustMount("s3://data", "mnt", "-o", "endpoint="+server.Endpoint, "--metrics-address", metrics)
	if !strings.Contains(got.out, "mounted at "+s.path("mnt")) {
		t.Errorf("mount said %q", got.out)
	}
	s.until("the source is listed", func() bool { return s.status().Summary.MetadataComplete })
	if got := s.run("status"); got.code != 0 || !strings.Contains(got.out, "s3://data") || !strings.Contains(got.out, "Ready") {
		t.Errorf("status: %+v", got)
	}
	if got := s.must("load", "mnt"); !strings.Contains(got.out, fmt.Sprintf("in %d files", len(want))) || !strings.Contains(got.errors, "100.0%") {
		t.Errorf("load said %q, %q", got.out, got.errors)
	}
	server.Down(t)
	check(t, s.path("mnt"), want)
	s.until("all reads are hits", func() bool { st := s.status(); return st.HitRatio == 1 })
	st := s.status()
	if st.Summary.CachedBytes != st.Summary.UFSTotalBytes || len(st.Tiers) != 1 || st.Tiers[0].UsedBytes < 20<<20 || st.Tiers[0].CapacityBytes != 1<<30 {
		t.Errorf("status %+v, summary %+v", st, st.Summary)
	}
	page := fetch(t, "http://"+metrics+contract.PathMetrics)
	for _, want := range []string{"millrace_dataset_bytes{", "millrace_worker_tier_used_bytes{", "millrace_fuse_opens_total{", `dataset="` + s.path("mnt") + `"`} {
		if !strings.Contains(page, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	if strings.Contains(proc(t, st.PID, "cmdline"), s3server.SecretKey) {
		t.Error("the secret is among the arguments")
	}
	s.must("unmount", "mnt")
	if !gone(st.PID) {
		t.Error("the daemon is still there")
	}
	if left, err := os.ReadDir(s.path("run")); err != nil || len(left) > 0 {
		t.Errorf("left in the run directory: %v, %v", left, err)
	}
	if got := s.run("unmount", "mnt"); got.code == 0 || !strings.Contains(got.errors, "not a mount") {
		t.Errorf("a second unmount: %+v", got)
	}
}

func TestSecretsComeFromFilesAndNeverFromArguments(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	server, want := bucket(t, "data", 1<<20)
	for name, value := range map[string]string{"id": s3server.AccessKey, "key": s3server.SecretKey + "\n"} {
		if err := os.WriteFile(s.path(name), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"s3://data", "mnt", "-o", "endpoint=" + server.Endpoint, "--secret", "aws.accessKeyId=id"}
	if got := s.mount(append(args, "-o", "aws.secretKey="+s3server.SecretKey)...); got.code != 2 || !strings.Contains(got.errors, "--secret") || strings.Contains(got.errors, s3server.SecretKey) {
		t.Errorf("a secret among the arguments: %+v", got)
	}
	s.mustMount(append(args, "--secret", "aws.secretKey=key")...)
	check(t, s.path("mnt"), want)
	st := s.status()
	state, err := filepath.Glob(s.path("run", "*", "state.json"))
	if err != nil || len(state) != 1 {
		t.Fatal(state, err)
	}
	for _, file := range []string{state[0], s.path("mnt.log"), fmt.Sprintf("/proc/%d/cmdline", st.PID)} {
		data, err := os.ReadFile(file)
		if err != nil || strings.Contains(string(data), s3server.SecretKey) {
			t.Errorf("%s holds the secret, or %v", file, err)
		}
	}
	s.must("unmount", "mnt")
}

func TestWhatCannotBeMountedIsToldByTheCommandItself(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	server, _ := bucket(t, "data", 1000)
	s.directory("source", 1000)
	endpoint := "endpoint=" + server.Endpoint
	cache := []string{"--cache", s.path("cache") + ":1Gi"}
	for name, tc := range map[string]struct {
		args []string
		env  []string
		code int
		says string
	}{
		"no cache":                      {[]string{"source", "mnt"}, nil, 2, "--cache DIR:SIZE"},
		"no source":                     {append([]string{"mnt"}, cache...), nil, 2, "name a source"},
		"a cache without a size":        {[]string{"source", "mnt", "--cache", "here"}, nil, 2, "DIR:SIZE"},
		"a medium that is none":         {[]string{"source", "mnt", "--cache", "here:1Gi,TAPE"}, nil, 2, "MEM, SSD, HDD"},
		"a claim":                       {append([]string{"pvc://claim", "mnt"}, cache...), nil, 2, "directory where it is mounted"},
		"a directory that is not":       {append([]string{s.path("nowhere"), "mnt"}, cache...), nil, 2, "no such file"},
		"a scheme that is not":          {append([]string{"gopher://x/y", "mnt"}, cache...), nil, 1, "gopher"},
		"a mount point in the source":   {append([]string{"source", "source/mnt"}, cache...), nil, 2, "inside the source"},
		"a cache in the source":         {[]string{"source", "mnt", "--cache", "source/cache:1Gi"}, nil, 2, "inside the source"},
		"a cache below the mount":       {[]string{"source", "mnt", "--cache", "mnt/cache:1Gi"}, nil, 2, "below the mount point"},
		"a password in the URL":         {append([]string{"https://me:word@host/x", "mnt"}, cache...), nil, 2, "--secret"},
		"two sources at one path":       {append([]string{"source", "mnt", "--mount", "/=source"}, cache...), nil, 2, "two sources at /"},
		"an option of no source":        {append([]string{"source", "mnt", "-o", "/x:a=b"}, cache...), nil, 2, "no source at /x"},
		"a flag that is none":           {[]string{"source", "mnt", "--fast"}, nil, 2, "--fast"},
		"a bucket that is not there":    {append([]string{"s3://none", "mnt", "-o", endpoint}, cache...), keys(), 1, "s3://none"},
		"keys that are wrong":           {append([]string{"s3://data", "mnt", "-o", endpoint}, cache...), []string{"AWS_ACCESS_KEY_ID=" + s3server.AccessKey, "AWS_SECRET_ACCESS_KEY=y"}, 1, "denied"},
		"a server that does not answer": {append([]string{"s3://data", "mnt", "-o", "endpoint=http://" + freeAddress(t)}, cache...), keys(), 1, "--lazy"},
		"a run directory too deep":      {append([]string{"source", "mnt", "--run-dir", s.path(strings.Repeat("deep/", 16))}, cache...), nil, 2, "--run-dir"},
		"a metrics address in use":      {append([]string{"source", "mnt", "--metrics-address", strings.TrimPrefix(server.Endpoint, "http://")}, cache...), nil, 1, "address already in use"},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.command(append([]string{"mount", "--log-file", s.path("err.log"), "--state-dir", ""}, tc.args...)...)
			c.Env = append(c.Env, tc.env...)
			if got := finish(t, c); got.code != tc.code || !strings.Contains(got.errors, tc.says) || strings.Contains(got.errors, "me:word") {
				t.Errorf("exit code %d, want %d and %q: %s", got.code, tc.code, tc.says, got.errors)
			}
			if len(s.statuses()) > 0 || len(s.mounts()) > 0 {
				t.Error("something is mounted")
			}
		})
	}
}

func TestWithoutTheRightToMountItSaysWhatIsNeeded(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.directory("source", 1000)
	c := s.command(s.mountArgs("source", "mnt")...)
	c.Args = append([]string{"setpriv", "--bounding-set=-sys_admin"}, c.Args...)
	var err error
	if c.Path, err = exec.LookPath("setpriv"); err != nil {
		t.Fatal(err)
	}
	if got := finish(t, c); got.code != 1 || !strings.Contains(got.errors, "CAP_SYS_ADMIN") {
		t.Errorf("exit code %d: %s", got.code, got.errors)
	}
}

func TestASourceThatIsDownIsMountedLazily(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	server, want := bucket(t, "data", 1<<20)
	s.env = append(s.env, keys()...)
	server.Down(t)
	s.mustMount("s3://data", "mnt", "-o", "endpoint="+server.Endpoint, "--lazy")
	if got := s.must("status", "mnt"); !strings.Contains(got.out, "Degraded") || !strings.Contains(got.out, "s3://data") {
		t.Errorf("status %s", got.out)
	}
	server.Up(t)
	s.until("the source is back", func() bool { return s.status().Summary.MetadataComplete })
	check(t, s.path("mnt"), want)
	s.must("unmount", "mnt")
}

func TestSeveralSourcesStandUnderOneMount(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	server, inBucket := bucket(t, "data", 1<<20)
	inDir := s.directory("source", 3<<20)
	s.env = append(s.env, keys()...)
	s.mustMount("mnt", "--mount", "/far/s3=s3://data", "--mount", "/near=file://"+s.path("source"), "-o", "/far/s3:endpoint="+server.Endpoint,
		"--cache", "/dev/shm/"+filepath.Base(s.dir)+":64Mi", "--set", "metadata.ttl=5s")
	t.Cleanup(func() { os.RemoveAll("/dev/shm/" + filepath.Base(s.dir)) })
	check(t, s.path("mnt", "far", "s3"), inBucket)
	check(t, s.path("mnt", "near"), inDir)
	s.must("load", "mnt/near/train", "mnt/far")
	st := s.status()
	media := make([]string, len(st.Tiers))
	for i, tier := range st.Tiers {
		media[i] = tier.Medium
	}
	slices.Sort(media)
	if len(st.Sources) != 2 || !slices.Equal(media, []string{contract.TierMEM, contract.TierSSD}) {
		t.Errorf("status %+v", st)
	}
	if got := s.run("mount", "source", "mnt", "--cache", s.path("other")+":1Gi"); got.code != 1 || !strings.Contains(got.errors, "mounted already") {
		t.Errorf("a second mount: %+v", got)
	}
	s.directory("second", 1000)
	s.must("mount", "second", "mnt2", "--cache", s.path("cache2")+":1Gi", "--log-file", s.path("mnt2.log"), "--state-dir", "")
	if got := s.run("load", "mnt/near", "mnt2"); got.code != 2 || !strings.Contains(got.errors, "one after the other") {
		t.Errorf("a load in two mounts: %+v", got)
	}
	if got := s.must("status"); strings.Count(got.out, "Ready") != 2 {
		t.Errorf("status of two:\n%s", got.out)
	}
	s.must("unmount", "mnt2")
	s.must("unmount", "mnt")
}

func TestAKilledDaemonIsFollowedByAnother(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	want := s.directory("source", 20<<20)
	s.mustMount("source", "mnt")
	check(t, s.path("mnt"), want)
	s.must("load", "mnt")
	dead := s.status()
	kill(t, dead.PID, syscall.SIGKILL)
	s.until("the mount is dead", func() bool { return errors.Is(unix.Access(s.path("mnt"), unix.F_OK), unix.ENOTCONN) })
	s.until("the daemon is dead", func() bool { return !s.status().Alive })
	if got := s.must("status"); !strings.Contains(got.out, "Dead") || !strings.Contains(got.out, "mount it again") {
		t.Errorf("status of the dead:\n%s", got.out)
	}
	if got := s.run("load", "mnt/train"); got.code != 1 || !strings.Contains(got.errors, "ended without a word") {
		t.Errorf("a load of the dead: %+v", got)
	}
	s.mustMount("source", "mnt")
	s.until("what was cached is known", func() bool {
		sum := s.status().Summary
		return sum.MetadataComplete && sum.CachedBytes == sum.UFSTotalBytes
	})
	check(t, s.path("mnt"), want)
	if reads := s.status().Summary.Reads; reads.SourceBytes != 0 {
		t.Errorf("read from the source again: %+v", reads)
	}
	if n := len(s.mounts()); n != 1 {
		t.Errorf("%d layers of mounts", n)
	}
	kill(t, s.status().PID, syscall.SIGKILL)
	s.until("the daemon is dead", func() bool { return !s.status().Alive })
	s.must("unmount", "mnt")
	if left := s.mounts(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	s.mustMount("source", "mnt")
	kill(t, s.status().PID, syscall.SIGKILL)
	if err := os.RemoveAll(s.path("run")); err != nil { // as after a reboot's tmpfs, or a careless hand
		t.Fatal(err)
	}
	s.until("the mount is dead", func() bool { return errors.Is(unix.Access(s.path("mnt"), unix.F_OK), unix.ENOTCONN) })
	s.must("unmount", "mnt")
}

func TestAMountInUseIsLeftAloneUnlessForced(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.directory("source", 1<<20)
	s.mustMount("source", "mnt")
	f, err := os.Open(s.path("mnt", "model.bin"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := s.run("unmount", "mnt"); got.code != 1 || !strings.Contains(got.errors, "in use") {
		t.Errorf("unmount while in use: %+v", got)
	}
	if st := s.status(); !st.Alive || st.Summary == nil {
		t.Errorf("status %+v", st)
	}
	if got := s.run("unmount", "mnt/train"); got.code != 1 || !strings.Contains(got.errors, "inside the mount") {
		t.Errorf("unmount of a directory inside: %+v", got)
	}
	s.must("unmount", "--force", "mnt")
	if left := s.mounts(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestADaemonThatHangsIsKilledByForce(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.directory("source", 1<<20)
	s.mustMount("source", "mnt")
	pid := s.status().PID
	kill(t, pid, syscall.SIGSTOP)
	s.must("unmount", "--force", "mnt")
	if !gone(pid) {
		t.Error("the daemon is still there")
	}
	if left := s.mounts(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestInTheForegroundItTellsSystemdAndObeysSignals(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	want := s.directory("source", 1<<20)
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.path("notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	profiles := freeAddress(t)
	c := s.command(s.mountArgs("source", "mnt", "--foreground", "--pprof", profiles)...)
	log, err := os.Create(s.path("foreground.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c.Stdout, c.Stderr = log, log
	c.Env = append(c.Env, "NOTIFY_SOCKET="+s.path("notify"))
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	said := make([]byte, 100)
	if err := socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	n, err := socket.Read(said)
	if err != nil || string(said[:n]) != "READY=1" {
		t.Fatalf("told systemd %q, %v", said[:n], err)
	}
	check(t, s.path("mnt"), want)
	if page := fetch(t, "http://"+profiles+"/debug/pprof/goroutine?debug=1"); !strings.Contains(page, "goroutine profile") {
		t.Error("no profiles")
	}
	kill(t, c.Process.Pid, syscall.SIGTERM)
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(patience):
		_ = c.Process.Kill()
		t.Fatal("does not end")
	}
	if left := s.mounts(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestAPlainUmountEndsTheDaemon(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.directory("source", 1000)
	s.mustMount("source", "mnt")
	if out, err := exec.Command("umount", s.path("mnt")).CombinedOutput(); err != nil {
		t.Fatalf("umount: %v: %s", err, out)
	}
	s.until("the daemon has ended", func() bool { return len(s.statuses()) == 0 })
}

func TestAWebServersListingIsMounted(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	want := s.directory("source", 3<<20)
	c := exec.Command("python3", "-m", "http.server", "--bind", "127.0.0.1", "0")
	c.Dir = s.path("source")
	c.Env = append(os.Environ(), "PYTHONUNBUFFERED=1")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	said := make([]byte, 200) // Serving HTTP on 127.0.0.1 port 43215 (http://127.0.0.1:43215/) ...
	n, err := out.Read(said)
	if err != nil {
		t.Fatal(err)
	}
	_, url, _ := strings.Cut(string(said[:n]), "(")
	url, _, _ = strings.Cut(url, ")")
	s.mustMount(strings.TrimSuffix(url, "/"), "mnt")
	s.must("load", "mnt")
	check(t, s.path("mnt"), want)
	s.must("unmount", "mnt")
}

// copyOf holds a copy of every mount in a mount namespace of its own, and what a
// script opens there, until it is ended.
func copyOf(t *testing.T, script string) (end func()) {
	t.Helper()
	c := exec.Command("unshare", "--mount", "--propagation=private", "bash", "-c", script+"; echo ready; exec cat")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		in.Close()
		_ = c.Wait()
	})
	t.Cleanup(end)
	if _, err := out.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	return end
}

func TestACopyInAnotherMountNamespaceCountsOnlyWhereItIsUsed(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.directory("source", 1<<20)
	s.mustMount("source", "mnt")
	copyOf(t, "true")
	s.must("unmount", "mnt")
	for what, script := range map[string]string{
		"an open file": "exec 3< " + s.path("mnt/model.bin"), "a working directory": "cd " + s.path("mnt/train"),
	} {
		s.mustMount("source", "mnt")
		end := copyOf(t, script)
		if got := s.run("unmount", "mnt"); got.code != 1 || !strings.Contains(got.errors, "another mount namespace, by process") {
			t.Errorf("%s: %+v", what, got)
		}
		if what == "an open file" {
			s.must("unmount", "--force", "mnt")
			end()
			continue
		}
		end()
		s.run("unmount", "mnt") // in vain if the daemon has ended by itself: nobody else had a copy
		s.until("the daemon ends with the last user", func() bool { return len(s.statuses()) == 0 })
	}
}

func TestWhatIsCachedCanBeReadWithoutItsSourceAfterARestart(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	server, want := bucket(t, "data", 20<<20)
	s.env = append(s.env, keys()...)
	args := []string{"s3://data", "mnt", "-o", "endpoint=" + server.Endpoint}
	s.mustMount(args...)
	s.must("load", "mnt")
	s.must("unmount", "mnt")
	server.Down(t)
	s.mustMount(append(args, "--lazy")...)
	check(t, s.path("mnt"), want)
	s.must("unmount", "mnt")
}
