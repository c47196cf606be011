package standalone

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestAPlaceHasOneOwner(t *testing.T) {
	p := placeOf(t.TempDir(), "/mnt/data")
	if p.alive() {
		t.Error("alive before anybody came")
	}
	lock, err := p.lock(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if !p.alive() {
		t.Error("not alive")
	}
	if _, err := p.lock(t.Context(), 50*time.Millisecond); !errors.Is(err, errTaken) {
		t.Errorf("a second owner: %v", err)
	}
	time.AfterFunc(50*time.Millisecond, func() { lock.Close() })
	next, err := p.lock(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	// The owner cleans up while somebody holds the old file: that is no lock any more.
	old, err := os.OpenFile(p.file("lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := p.clean(); err != nil {
		t.Fatal(err)
	}
	if sameFile(old) || p.alive() {
		t.Error("a lock that was removed counts")
	}
	next.Close()
}

func TestAMountIsFoundFromAnyPathInsideIt(t *testing.T) {
	run := t.TempDir()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	mount := filepath.Join(root, "mnt")
	if err := errors.Join(os.MkdirAll(filepath.Join(mount, "deep"), 0o755), os.Symlink(mount, filepath.Join(root, "link"))); err != nil {
		t.Fatal(err)
	}
	p := placeOf(run, mount)
	if err := errors.Join(os.MkdirAll(p.dir, 0o700), p.write(State{MountPoint: mount})); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		mount: "/", mount + "/": "/", mount + "/deep": "/deep", mount + "/no/such": "/no/such", mount + "/deep/../x": "/x", root + "/link/deep": "/deep",
	} {
		got, s, inside, err := find(run, path)
		if err != nil || got != p || inside != want || s.MountPoint != mount {
			t.Errorf("%s: %v, %q, want %q, %v", path, got, inside, want, err)
		}
	}
	for _, path := range []string{root, mount + "2", "/"} {
		if _, _, _, err := find(run, path); !errors.Is(err, ErrNotMounted) {
			t.Errorf("%s: %v", path, err)
		}
	}
	all, err := places(run)
	if err != nil || len(all) != 1 || all[0] != p {
		t.Errorf("places %v, %v", all, err)
	}
}

func TestOnlyTheProcessThatWasMeantIsKilled(t *testing.T) {
	c := exec.Command("sleep", "60")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	s := State{PID: c.Process.Pid, Born: born(c.Process.Pid) + 1}
	if err := s.kill(); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("another process with the same number: %v", err)
	}
	s.Born--
	if err := s.kill(); err != nil {
		t.Error(err)
	}
	_ = c.Wait()
	if err := s.kill(); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a process that is gone: %v", err)
	}
}
