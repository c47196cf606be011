package hdfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	lib "github.com/colinmarc/hdfs/v2"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/egress"
	"github.com/millrace/millrace/runtime/source/hdfs"
	"github.com/millrace/millrace/runtime/source/sourcetest"
	"github.com/millrace/millrace/runtime/source/sourcetest/hadoop"
)

// cluster has two NameNodes and three DataNodes. The tests that stop some of
// them start them again, and none runs beside another.
var cluster *hadoop.Cluster

func TestMain(m *testing.M) {
	os.Unsetenv("HADOOP_CONF_DIR")
	dir, err := os.MkdirTemp("", "hadoop")
	if err == nil {
		cluster, err = hadoop.Start(context.Background(), dir, hadoop.Options{HighAvailability: true})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		cluster.Close()
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open opens a mount of the cluster with its configuration.
func open(t testing.TB, mountPoint string, more map[string]string) *hdfs.Store {
	t.Helper()
	c := source.Config{MountPoint: mountPoint, Egress: egress.Unrestricted(), Options: map[string]string{
		"hadoop-conf": cluster.ConfDir(), "hadoop.user.name": hadoop.Superuser, "retry-timeout": "60s",
	}}
	for name, value := range more {
		c.Options[name] = value
	}
	s, err := hdfs.Open(c)
	must(t, err)
	t.Cleanup(func() {
		s.Close()
		if idle, busy := s.Sessions(); idle+busy > 0 {
			t.Errorf("%d sessions idle and %d work after the end", idle, busy)
		}
	})
	return s
}

func pattern(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(i>>12) ^ byte(i>>8) ^ byte(i*7)
	}
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

func stat(t testing.TB, s source.Store, p string) source.Object {
	t.Helper()
	o, err := s.Stat(t.Context(), p)
	must(t, err)
	return o
}

func names(t testing.TB, s source.Store, dir string) (all []string) {
	t.Helper()
	must(t, s.List(t.Context(), dir, func(o source.Object) error {
		all = append(all, o.Path)
		return nil
	}))
	return all
}

func TestSuiteAgainstARealCluster(t *testing.T) {
	sourcetest.Run(t, sourcetest.Fixture{
		Open: func(t *testing.T) source.Store {
			return open(t, "hdfs://"+hadoop.Nameservice+"/suite/in a dir", map[string]string{"retry-timeout": "1s"})
		},
		Put:    func(t *testing.T, p string, data []byte) { must(t, cluster.Put("/suite/in a dir/"+p, data)) },
		Remove: func(t *testing.T, p string) { must(t, cluster.Remove("/suite/in a dir/"+p)) },
		Stop: func(t *testing.T) {
			cluster.KillNameNode(0)
			cluster.KillNameNode(1)
		},
		Start: func(t *testing.T) {
			must(t, errors.Join(cluster.StartNameNode(0), cluster.StartNameNode(1)))
			must(t, cluster.Activate(t.Context(), 0))
			must(t, cluster.Await(t.Context()))
		},
	})
}

func TestAReadOutlivesItsDataNode(t *testing.T) {
	data := pattern(48 << 20)
	must(t, cluster.PutBlocks("/outlive/one-block", data, 64<<20))
	s := open(t, "hdfs://"+hadoop.Nameservice+"/outlive", map[string]string{"socket-timeout": "3s"})
	for name, tc := range map[string]struct {
		stop, restore func(i int) error
	}{
		"killed": {func(i int) error { cluster.KillDataNode(i); return nil }, cluster.StartDataNode},
		"hung":   {cluster.HangDataNode, cluster.WakeDataNode},
	} {
		t.Run(name, func(t *testing.T) {
			o := stat(t, s, "one-block")
			r, err := s.Open(t.Context(), o, 5, o.Size-5)
			must(t, err)
			defer r.Close()
			head := make([]byte, 1<<20)
			_, err = io.ReadFull(r, head)
			must(t, err)
			i := dataNode(t, hdfs.DataNode(r))
			must(t, tc.stop(i))
			t.Cleanup(func() {
				must(t, tc.restore(i))
				must(t, cluster.Await(context.Background()))
			})
			began := time.Now()
			rest, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(append(head, rest...), data[5:]) {
				t.Fatalf("read %d bytes and then %d: %v", len(head), len(rest), err)
			}
			t.Logf("the rest took %s", time.Since(began))
		})
	}
}

func dataNode(t *testing.T, address string) int {
	for i := range 3 {
		if cluster.DataNodeAddress(i) == address {
			return i
		}
	}
	t.Fatalf("%q is no DataNode", address)
	return 0
}

func TestACancelledReadDoesNotWaitForAHungDataNode(t *testing.T) {
	must(t, cluster.PutBlocks("/hung/one-block", pattern(48<<20), 64<<20))
	s := open(t, "hdfs://"+hadoop.Nameservice+"/hung", map[string]string{"socket-timeout": "10m"})
	o := stat(t, s, "one-block")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := s.Open(ctx, o, 0, o.Size)
	must(t, err)
	defer r.Close()
	_, err = io.ReadFull(r, make([]byte, 1000))
	must(t, err)
	i := dataNode(t, hdfs.DataNode(r))
	must(t, cluster.HangDataNode(i))
	t.Cleanup(func() { must(t, cluster.WakeDataNode(i)) })
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestTheStandbyTakesOver(t *testing.T) {
	data := pattern(5<<20 + 17)
	must(t, cluster.Put("/standby/file", data))
	was, is := cluster.Active(), 1-cluster.Active()
	t.Cleanup(func() { must(t, cluster.StartNameNode(was)) })
	s := open(t, "hdfs://"+hadoop.Nameservice+"/standby", map[string]string{"socket-timeout": "3s"})
	o := stat(t, s, "file")
	r, err := s.Open(t.Context(), o, 0, o.Size)
	must(t, err)
	defer r.Close()
	head := make([]byte, 1<<20+1)
	_, err = io.ReadFull(r, head)
	must(t, err)

	cluster.KillNameNode(was)
	var took errgroup.Group
	took.Go(func() error { return cluster.Activate(context.Background(), is) })
	rest, err := io.ReadAll(r) // while there is none, and then another
	if err != nil || !bytes.Equal(append(head, rest...), data) {
		t.Errorf("read %d bytes and then %d: %v", len(head), len(rest), err)
	}
	if got := names(t, s, ""); !slices.Equal(got, []string{"file"}) {
		t.Errorf("list %q", got)
	}
	must(t, took.Wait())
	must(t, took.Wait())
}

func TestANameNodeThatHangsIsPassedOver(t *testing.T) {
	must(t, cluster.Put("/hanging/file", []byte("here")))
	s := open(t, "hdfs://"+cluster.Standby()+","+cluster.Address()+"/hanging", map[string]string{"hadoop-conf": "", "socket-timeout": "2s"})
	resume, err := cluster.HangStandby(t.Context())
	must(t, err)
	defer func() { must(t, resume()) }()
	if got, err := read(t.Context(), s, stat(t, s, "file"), 0, 4); err != nil || string(got) != "here" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestMountPointsFindTheirNameNode(t *testing.T) {
	must(t, cluster.Put("/found/here/file", []byte("found")))
	for name, tc := range map[string]struct {
		mountPoint string
		options    map[string]string
		env        string
	}{
		"by the name service":                     {mountPoint: "hdfs://" + hadoop.Nameservice + "/found/here"},
		"by the default file system":              {mountPoint: "hdfs:///found/here/"},
		"by the directory of the environment":     {mountPoint: "hdfs:///found/here", options: map[string]string{"hadoop-conf": ""}, env: cluster.ConfDir()},
		"by a list of files":                      {mountPoint: "hdfs:///found/here", options: map[string]string{"hadoop-conf": "", "alluxio.underfs.hdfs.configuration": cluster.ConfDir() + "/hdfs-site.xml:" + cluster.ConfDir() + "/core-site.xml"}},
		"by address":                              {mountPoint: "hdfs://" + cluster.Address() + "/found/here", options: map[string]string{"hadoop-conf": ""}},
		"by the second address, behind a dead":    {mountPoint: "hdfs://127.0.0.1:1," + cluster.Address() + "/found/here", options: map[string]string{"hadoop-conf": ""}},
		"by the second address, behind a standby": {mountPoint: "hdfs://" + cluster.Standby() + "," + cluster.Address() + "/found//here", options: map[string]string{"hadoop-conf": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.env != "" {
				t.Setenv("HADOOP_CONF_DIR", tc.env)
			}
			s := open(t, tc.mountPoint, tc.options)
			o := stat(t, s, "file")
			if got, err := read(t.Context(), s, o, 0, 5); err != nil || string(got) != "found" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestALargeDirectoryIsListedInBatches(t *testing.T) {
	const entries = 10000
	must(t, cluster.As(hadoop.Superuser, func(c *lib.Client) error { return c.MkdirAll("/large/dir", 0o755) }))
	var makers errgroup.Group
	for maker := range 8 {
		makers.Go(func() error {
			return cluster.As(hadoop.Superuser, func(c *lib.Client) error {
				for i := maker; i < entries; i += 8 {
					name, create := fmt.Sprintf("/large/dir/entry-%06d", i), c.CreateEmptyFile
					if i%10 > 0 { // a directory is made in one call
						create = func(name string) error { return c.Mkdir(name, 0o755) }
					}
					if err := create(name); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	must(t, makers.Wait())
	s := open(t, "hdfs://"+hadoop.Nameservice+"/large", nil)
	began := time.Now()
	seen := map[string]bool{}
	must(t, s.List(t.Context(), "dir", func(o source.Object) error {
		if seen[o.Path] {
			t.Errorf("%s is listed twice", o.Path)
		}
		seen[o.Path] = true
		return nil
	}))
	if len(seen) != entries {
		t.Errorf("%d entries", len(seen))
	}
	t.Logf("%.0f entries a second", entries/time.Since(began).Seconds())

	// One whose connections are lost goes on where it was.
	address, lose := relay(t, cluster.Address())
	s = open(t, "hdfs://"+address+"/large", map[string]string{"hadoop-conf": ""})
	seen, n := map[string]bool{}, 0
	must(t, s.List(t.Context(), "dir", func(o source.Object) error {
		if n++; n%1500 == 0 {
			lose()
		}
		if seen[o.Path] {
			t.Errorf("%s is listed twice", o.Path)
		}
		seen[o.Path] = true
		return nil
	}))
	if len(seen) != entries {
		t.Errorf("%d entries around lost connections", len(seen))
	}
}

// relay passes on the connections to an address, until lose ends those there are.
func relay(t *testing.T, to string) (address string, lose func()) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var mu sync.Mutex
	var conns []net.Conn
	lose = func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
		conns = nil
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			mu.Lock()
			conns = append(conns, in, out)
			mu.Unlock()
			for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
				wg.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					pair[0].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		l.Close()
		lose()
		wg.Wait()
	})
	return l.Addr().String(), lose
}

func TestAUserSeesWhatHeMay(t *testing.T) {
	must(t, cluster.Put("/mixed/private/file", []byte("secret")))
	must(t, cluster.Put("/mixed/unreadable", []byte("secret")))
	must(t, cluster.As(hadoop.Superuser, func(c *lib.Client) error {
		return errors.Join(c.Chmod("/mixed/private", 0o700), c.Chmod("/mixed/unreadable", 0o600))
	}))
	for name, mountPoint := range map[string]string{
		"as an option":          "hdfs://" + hadoop.Nameservice + "/mixed",
		"in the mount point":    "hdfs://alice@" + cluster.Address() + "/mixed",
		"as the other option":   "hdfs://" + hadoop.Nameservice + "/mixed/",
		"and what else he asks": "hdfs:///mixed",
	} {
		t.Run("the user is named "+name, func(t *testing.T) {
			options := map[string]string{"hadoop.user.name": "alice"}
			if strings.Contains(mountPoint, "@") {
				options["hadoop.user.name"] = ""
			}
			s := open(t, mountPoint, options)
			if got := names(t, s, ""); !slices.Equal(got, []string{"private", "unreadable"}) {
				t.Errorf("list %q", got)
			}
			_, err := s.Stat(t.Context(), "private/file")
			denied(t, "stat", err)
			denied(t, "list", s.List(t.Context(), "private", func(source.Object) error { return nil }))
			_, err = read(t.Context(), s, stat(t, s, "unreadable"), 0, 6)
			denied(t, "read", err)
		})
	}
}

func denied(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, source.ErrDenied) || !strings.Contains(err.Error(), "alice") {
		t.Errorf("%s: %v", what, err)
	}
}

func TestAFileThatGrowsKeepsItsOldBytes(t *testing.T) {
	data := pattern(3<<20 + 1000)
	must(t, cluster.Put("/growing/file", data))
	s := open(t, "hdfs://"+hadoop.Nameservice+"/growing", nil)
	o := stat(t, s, "file")
	must(t, cluster.As(hadoop.Superuser, func(c *lib.Client) error {
		w, err := c.Append("/growing/file")
		if err != nil {
			return err
		}
		if _, err := w.Write(pattern(2 << 20)); err != nil {
			return err
		}
		if got, err := read(t.Context(), s, o, 0, o.Size); err == nil && !bytes.Equal(got, data) || err != nil && !errors.Is(err, source.ErrChanged) {
			t.Errorf("while it grows: %d bytes, %v", len(got), err)
		}
		return hadoop.Finish(w)
	}))
	if _, err := read(t.Context(), s, o, 0, o.Size); !errors.Is(err, source.ErrChanged) {
		t.Errorf("after it grew: %v", err)
	}
	o = stat(t, s, "file")
	if got, err := read(t.Context(), s, o, 0, o.Size); err != nil || !bytes.Equal(got, append(data, pattern(2<<20)...)) {
		t.Errorf("the new version: %d bytes, %v", len(got), err)
	}
}

func TestAFileThatIsReplacedWhileItIsReadIsChanged(t *testing.T) {
	data := pattern(3 << 20)
	must(t, cluster.Put("/replaced/file", data))
	s := open(t, "hdfs://"+hadoop.Nameservice+"/replaced", nil)
	o := stat(t, s, "file")
	r, err := s.Open(t.Context(), o, 0, o.Size)
	must(t, err)
	defer r.Close()
	_, err = io.ReadFull(r, make([]byte, 100))
	must(t, err)
	must(t, cluster.Put("/replaced/file", data[1:]))
	if got, err := io.ReadAll(r); !errors.Is(err, source.ErrChanged) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	// And without a look at the file before the range.
	now := stat(t, s, "file")
	if _, err := read(t.Context(), s, now, 0, 1<<20); err != nil {
		t.Error(err)
	}
	must(t, cluster.Put("/replaced/file", data))
	if got, err := read(t.Context(), s, now, 1<<20, 1<<20); !errors.Is(err, source.ErrChanged) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestSnapshotsAreNoPartOfTheDirectory(t *testing.T) {
	must(t, cluster.Put("/snapped/file", []byte("before")))
	must(t, cluster.As(hadoop.Superuser, func(c *lib.Client) error {
		if err := c.AllowSnapshots("/snapped"); err != nil {
			return err
		}
		_, err := c.CreateSnapshot("/snapped", "monday")
		return err
	}))
	must(t, cluster.Put("/snapped/file", []byte("after")))
	s := open(t, "hdfs://"+hadoop.Nameservice+"/snapped", nil)
	if got := names(t, s, ""); !slices.Equal(got, []string{"file"}) {
		t.Errorf("list %q", got)
	}
	for _, p := range []string{".snapshot", ".snapshot/monday/file", "..", "../snapped", "a//b"} {
		if _, err := s.Stat(t.Context(), p); !errors.Is(err, source.ErrNotExist) {
			t.Errorf("stat %s: %v", p, err)
		}
	}
	old := open(t, "hdfs://"+hadoop.Nameservice+"/snapped/.snapshot/monday", nil)
	if got, err := read(t.Context(), old, stat(t, old, "file"), 0, 10); err != nil || string(got) != "before" {
		t.Errorf("the snapshot: %q, %v", got, err)
	}
}

func TestWhatBlocksDoNotShowIsRefused(t *testing.T) {
	for _, args := range [][]string{{"-enablePolicy", "-policy", "XOR-2-1-1024k"}, {"-setPolicy", "-path", "/coded", "-policy", "XOR-2-1-1024k"}} {
		must(t, cluster.As(hadoop.Superuser, func(c *lib.Client) error { return c.MkdirAll("/coded", 0o755) }))
		if out, err := cluster.Run(t.Context(), "nn0", "org.apache.hadoop.hdfs.tools.ECAdmin", args...); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	file := path.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, pattern(100), 0o600))
	if out, err := cluster.Run(t.Context(), "nn0", "org.apache.hadoop.fs.FsShell", "-put", file, "/coded/file"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := open(t, "hdfs://"+hadoop.Nameservice+"/coded", nil)
	_, err := read(t.Context(), s, stat(t, s, "file"), 0, 100)
	if !errors.Is(err, source.ErrInvalid) || !strings.Contains(err.Error(), "erasure coded") {
		t.Errorf("error %v", err)
	}
}

func TestReadersKeepTheirStreams(t *testing.T) {
	data := pattern(8 << 20)
	must(t, cluster.PutBlocks("/streams/file", data, 16<<20))
	s := open(t, "hdfs://"+hadoop.Nameservice+"/streams", nil)
	o := stat(t, s, "file")
	at := ""
	for off := int64(0); off < o.Size; off += 1 << 20 {
		r, err := s.Open(t.Context(), o, off, 1<<20)
		must(t, err)
		part := make([]byte, 1<<20)
		_, err = io.ReadFull(r, part[:1000])
		must(t, err)
		if now := hdfs.DataNode(r); at != "" && at != now {
			t.Errorf("the stream at %d is from %s, not %s", off, now, at)
		} else {
			at = now
		}
		_, err = io.ReadFull(r, part[1000:])
		must(t, err)
		r.Close()
		if !bytes.Equal(part, data[off:off+1<<20]) {
			t.Errorf("wrong bytes at %d", off)
		}
		if idle, busy := s.Sessions(); idle != 1 || busy != 0 {
			t.Errorf("%d sessions idle, %d work", idle, busy)
		}
	}
	// More readers than sessions wait for each other.
	var wg sync.WaitGroup
	for i := range int64(100) {
		wg.Go(func() {
			off := i * 70001
			if got, err := read(t.Context(), s, o, off, 100000); err != nil || !bytes.Equal(got, data[off:off+100000]) {
				t.Errorf("at %d: %d bytes, %v", off, len(got), err)
			}
		})
	}
	wg.Wait()
}

func TestANameNodeThatIsSilentIsUnavailable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	s := open(t, "hdfs://"+l.Addr().String()+"/", map[string]string{"hadoop-conf": "", "socket-timeout": "200ms", "retry-timeout": "1s"})
	began := time.Now()
	_, err = s.Stat(t.Context(), "file")
	if took := time.Since(began); !errors.Is(err, source.ErrUnavailable) || took > 30*time.Second {
		t.Errorf("after %s: %v", took, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err = s.Stat(ctx, "file"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestAddressesThatAreRefusedAreDenied(t *testing.T) {
	s, err := hdfs.Open(source.Config{MountPoint: "hdfs://" + cluster.Address() + "/"})
	must(t, err)
	defer s.Close()
	if _, err := s.Stat(t.Context(), ""); !errors.Is(err, source.ErrDenied) || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("error %v", err)
	}
}

func TestAClosedSourceSaysSo(t *testing.T) {
	s := open(t, "hdfs://"+hadoop.Nameservice+"/", nil)
	s.Close()
	if _, err := s.Stat(t.Context(), "tmp"); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("error %v", err)
	}
}
