package standalone_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestInAContainerTheHostSeesTheMount runs the static binary as process 1 of an
// image that holds nothing else, with the capabilities that Docker gives to
// --cap-add SYS_ADMIN --device /dev/fuse, and a directory shared with the host
// as by -v DIR:/mnt/data:rshared.
func TestInAContainerTheHostSeesTheMount(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	want := s.directory("root/source", 5<<20)
	for _, dir := range []string{"root/bin", "root/dev", "root/proc", "root/tmp", "root/cache", "root/mnt/data"} {
		if err := os.MkdirAll(s.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path("root/bin/millrace"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(s.path("root/dev/fuse"), unix.S_IFCHR|0o666, int(unix.Mkdev(10, 229))); err != nil {
		t.Fatal(err)
	}
	shared := s.path("root/mnt/data")
	if err := errors.Join(unix.Mount(shared, shared, "", unix.MS_BIND, ""), unix.Mount("", shared, "", unix.MS_SHARED, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(shared, unix.MNT_DETACH) })
	docker := "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+sys_chroot,+mknod,+audit_write,+setfcap,+sys_admin"
	c := exec.Command("setpriv", "--bounding-set="+docker,
		"unshare", "--mount", "--propagation=unchanged", "--pid", "--fork", "--kill-child", "--root="+s.path("root"), "--mount-proc",
		"/bin/millrace", "mount", "/source", "/mnt/data", "--cache", "/cache:64Mi", "--foreground", "--name", "train", "--state-dir", "/cache-state")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(s.path("container.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	t.Cleanup(func() { _ = c.Process.Kill() })
	s.until("the host sees the mount", func() bool {
		select {
		case err := <-ended:
			t.Fatalf("ended: %v", err)
		default:
		}
		var fs unix.Statfs_t
		return unix.Statfs(shared, &fs) == nil && fs.Type == unix.FUSE_SUPER_MAGIC
	})
	check(t, shared, want)
	s.until("unmounted at the end of the container", func() bool {
		// The children of unshare: process 1 of the container.
		children, err := os.ReadFile("/proc/" + pidText(c) + "/task/" + pidText(c) + "/children")
		if err == nil {
			for child := range strings.FieldsSeq(string(children)) {
				_ = syscall.Kill(atoi(t, child), syscall.SIGTERM) // it may have ended since
			}
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("ended with %v", err)
			}
			return true
		default:
			return false
		}
	})
	var fs unix.Statfs_t
	if err := unix.Statfs(shared, &fs); err != nil || fs.Type == unix.FUSE_SUPER_MAGIC {
		t.Errorf("still mounted: %v", err)
	}
}
