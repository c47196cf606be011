package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/apis/contract"
)

// sub is a mount of a directory of the source.
func (e *engine) sub(dir, path string) contract.MountConfig {
	return contract.MountConfig{MountPoint: contract.SchemeLocal + filepath.Join(e.source, dir)[1:], Name: dir, Path: path}
}

// remount gives other mounts to every process that runs, as a kubelet does, and
// returns what their table is called.
func (e *engine) remount(mounts ...contract.MountConfig) (table string) {
	e.t.Helper()
	for name := range e.procs {
		file := filepath.Join(e.dir, name+".json")
		data, err := os.ReadFile(file)
		if err != nil {
			e.t.Fatal(err)
		}
		config, err := contract.DecodeRuntimeConfig(data)
		if err != nil {
			e.t.Fatal(err)
		}
		config.Mounts = mounts
		table = config.MountTable()
		if data, err = config.Encode(); err != nil {
			e.t.Fatal(err)
		}
		if err := os.WriteFile(file+".new", data, 0o600); err != nil {
			e.t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			e.t.Fatal(err)
		}
	}
	return table
}

// put writes a file of the source with a time that says nothing.
func (e *engine) put(name, text string) {
	e.t.Helper()
	path := filepath.Join(e.source, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		e.t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
		e.t.Fatal(err)
	}
}

// eventually waits until a file of the mount reads as wanted; "" is that it is
// not there. What it says meanwhile must be one of the others.
func (e *engine) eventually(name, want string, meanwhile ...string) {
	e.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		got, err := os.ReadFile(filepath.Join(e.mount, name))
		if errors.Is(err, fs.ErrNotExist) {
			got, err = nil, nil
		}
		if err == nil && string(got) == want {
			return
		}
		ok := err != nil
		for _, other := range append(meanwhile, "") {
			ok = ok || string(got) == other
		}
		if !ok {
			e.t.Fatalf("%s says %q", name, got)
		}
		if time.Now().After(deadline) {
			e.t.Fatalf("%s says %q, %v; never %q", name, got, err, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestMountsChangeWhileFilesAreRead(t *testing.T) {
	e := newEngine(t, 2)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<19) // 8 MiB
	for i := range 4 {
		e.put(fmt.Sprintf("a/f%d", i), string(big))
	}
	e.put("b/x", "of b")
	e.put("c/x", "of c")
	e.put("d/x", "of d")
	a := e.sub("a", "/a")
	a.Options = map[string]string{"identity": "mtime"}
	plain := func(m contract.MountConfig) contract.MountConfig {
		m.Options = map[string]string{"identity": "mtime"} // else inode numbers would tell the files apart
		return m
	}
	e.config.Mounts = []contract.MountConfig{a, plain(e.sub("b", "/b"))}
	e.startMaster()
	e.startWorker(0, "64Mi")
	e.startWorker(1, "64Mi")
	e.startClient()
	e.eventually("b/x", "of b")

	// One reads all the time, and never fails.
	ctx, cancel := context.WithCancel(t.Context())
	var rounds atomic.Int64
	failed := make(chan error, 1)
	go func() {
		defer close(failed)
		for i := 0; ctx.Err() == nil; i++ {
			got, err := os.ReadFile(filepath.Join(e.mount, "a", fmt.Sprintf("f%d", i%4)))
			if err == nil && !bytes.Equal(got, big) {
				err = errors.New("wrong bytes")
			}
			if err != nil {
				failed <- err
				return
			}
			rounds.Add(1)
		}
	}()
	served := func(table string) *contract.Summary {
		t.Helper()
		return e.until("the table is served", func(s *contract.Summary) bool { return s.MountTable == table })
	}
	open, err := os.Open(filepath.Join(e.mount, "b/x"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	held := make([]byte, 4)
	if _, err := open.ReadAt(held, 0); err != nil {
		t.Fatal(err)
	}

	t.Log("one comes, one goes")
	began := time.Now()
	served(e.remount(a, plain(e.sub("c", "/c"))))
	e.eventually("c/x", "of c")
	e.eventually("b/x", "", "of b")
	t.Logf("after %s", time.Since(began).Round(time.Millisecond))
	if _, err := open.ReadAt(held, 0); err != nil || string(held) != "of b" {
		t.Errorf("a file that was open and read says %q, %v", held, err)
	}

	t.Log("another source at the same path, of the same names, sizes and times")
	served(e.remount(a, plain(e.sub("d", "/c"))))
	e.eventually("c/x", "of d", "of c")

	t.Log("one that does not answer leaves the former one")
	table := e.remount(a, plain(e.sub("missing", "/c")))
	s := e.until("it is refused", func(s *contract.Summary) bool {
		return s.MountTable == table && len(s.Mounts) == 2 && !s.Mounts[1].Ready && s.Mounts[0].Ready
	})
	if s.Mounts[1].Reason != contract.MountNotFound {
		t.Errorf("refused with %+v", s.Mounts[1])
	}
	e.eventually("c/x", "of d")

	t.Log("until it does")
	e.put("missing/x", "of m")
	e.eventually("c/x", "of m", "of d")
	e.until("all is well", func(s *contract.Summary) bool { return s.Mounts[1].Ready })

	t.Log("other options of what is read")
	a.Options = map[string]string{"identity": "mtime", "timeout": "40s"}
	served(e.remount(a, plain(e.sub("missing", "/c"))))

	was := rounds.Load()
	for deadline := time.Now().Add(patience); rounds.Load() < was+8 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if err := <-failed; err != nil {
		t.Errorf("the reader: %v", err)
	}
	if rounds.Load() < was+8 {
		t.Error("the reader stands still")
	}
}
