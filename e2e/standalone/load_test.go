package standalone_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/apis/contract"
)

// valve is a proxy that holds back what a server says until it is opened.
type valve struct {
	address string
	open    chan struct{}
	once    sync.Once
	passed  atomic.Int64
}

// newValve lets so many bytes through before it holds the rest back.
func newValve(t *testing.T, server string, first int64) *valve {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &valve{address: l.Addr().String(), open: make(chan struct{})}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		v.opened()
		l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", server)
			if err != nil {
				in.Close()
				continue
			}
			wg.Go(func() {
				_, _ = io.Copy(out, in)
				out.Close()
			})
			wg.Go(func() {
				defer in.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := out.Read(buf)
					if v.passed.Add(int64(n)) > first {
						<-v.open
					}
					if n > 0 {
						if _, errWrite := in.Write(buf[:n]); errWrite != nil {
							out.Close()
							return
						}
					}
					if err != nil {
						return
					}
				}
			})
		}
	})
	return v
}

func (v *valve) opened() { v.once.Do(func() { close(v.open) }) }

func TestALoadThatIsLeftGoesOnAndCanBeJoined(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	server, want := bucket(t, "data", 40<<20)
	v := newValve(t, strings.TrimPrefix(server.Endpoint, "http://"), 4<<20)
	t.Cleanup(v.opened)
	s.env = append(s.env, keys()...)
	s.mustMount("s3://data", "mnt", "-o", "endpoint=http://"+v.address)
	var said bytes.Buffer
	left := s.command("load", "mnt")
	left.Stderr = &said
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	s.until("the load is under way", func() bool {
		loads := s.status().Summary.Loads
		return len(loads) == 1 && loads[0].Phase == contract.LoadRunning && loads[0].FilesTotal == int64(len(want))
	})
	if got := s.must("status", "mnt"); !strings.Contains(got.out, "Running") {
		t.Errorf("status:\n%s", got.out)
	}
	kill(t, left.Process.Pid, syscall.SIGINT)
	_ = left.Wait()
	if left.ProcessState.ExitCode() != 130 || !strings.Contains(said.String(), "the load goes on") {
		t.Errorf("Ctrl-C: exit code %d, said %q", left.ProcessState.ExitCode(), said.String())
	}
	again := make(chan outcome, 1)
	go func() { again <- finish(t, s.command("load", "mnt")) }()
	v.opened()
	if got := <-again; got.code != 0 || !strings.Contains(got.out, fmt.Sprintf("in %d files", len(want))) {
		t.Errorf("joined: %+v", got)
	}
	if loads := s.status().Summary.Loads; len(loads) != 1 {
		t.Errorf("%d loads, want the one: %+v", len(loads), loads)
	}
	check(t, s.path("mnt"), want)
	s.must("unmount", "mnt")
}

func TestALoadShowsABarOnATerminalAndLinesElsewhere(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.directory("source", 30<<20)
	s.mustMount("source", "mnt")
	mine, its := terminal(t, 100)
	c := s.command("load", "mnt")
	c.Stderr = its
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	its.Close()
	var shown bytes.Buffer
	_, _ = io.Copy(&shown, mine) // ends with EIO when the last of the other side is closed
	if err := c.Wait(); err != nil {
		t.Errorf("load: %v", err)
	}
	if text := shown.String(); !strings.Contains(text, "\r\x1b[K[====") || !strings.Contains(text, "100.0%") || !strings.HasSuffix(text, "\r\n") {
		t.Errorf("shown %q", text)
	}
	for line := range strings.SplitSeq(shown.String(), "\r\x1b[K") {
		if len(strings.TrimRight(line, "\r\n")) > 99 {
			t.Errorf("a line of %d columns: %q", len(line), line)
		}
	}
	if got := s.must("load", "mnt/train"); strings.ContainsAny(got.errors, "\r\x1b") || !strings.Contains(got.errors, "100.0%") {
		t.Errorf("lines: %q", got.errors)
	}
	s.must("unmount", "mnt")
}

// terminal is a pseudo-terminal of so many columns, with both of its ends.
func terminal(t *testing.T, columns uint16) (mine, its *os.File) {
	t.Helper()
	mine, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mine.Close() })
	if err := unix.IoctlSetPointerInt(int(mine.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(mine.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(mine.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: 25}); err != nil {
		t.Fatal(err)
	}
	its, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return mine, its
}

func TestALoadTakesPatternsAndEndsHonestly(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.directory("source", 30<<20)
	if got := s.run("mount", "source", "mnt", "--cache", s.path("cache")+":16Mi", "--log-file", s.path("mnt.log"), "--state-dir", ""); got.code != 0 {
		t.Fatal(got.errors)
	}
	if got := s.must("load", "mnt/train/*/image-00*", "mnt/empty"); !strings.Contains(got.out, "in 11 files") {
		t.Errorf("a pattern: %+v", got)
	}
	for name, tc := range map[string]struct {
		paths []string
		code  int
		says  string
	}{
		"no room":               {[]string{"mnt"}, 2, "raise the quota"},
		"no such path":          {[]string{"mnt/none"}, 2, "/none"},
		"a pattern for nothing": {[]string{"mnt/none*"}, 2, "nothing matches"},
		"outside of any mount":  {[]string{"source"}, 2, "not a mount"},
		"no path":               {nil, 2, "arg"},
	} {
		began := time.Now()
		if got := s.run(append([]string{"load"}, tc.paths...)...); got.code != tc.code || !strings.Contains(got.errors, tc.says) {
			t.Errorf("%s: exit code %d after %s, want %d and %q: %s", name, got.code, time.Since(began), tc.code, tc.says, got.errors)
		}
	}
	s.must("unmount", "mnt")
}

func TestALoadIsCancelledByItsOwnWords(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	server, want := bucket(t, "data", 40<<20)
	v := newValve(t, strings.TrimPrefix(server.Endpoint, "http://"), 4<<20)
	t.Cleanup(v.opened)
	s.env = append(s.env, keys()...)
	s.mustMount("s3://data", "mnt", "-o", "endpoint=http://"+v.address)
	waits := make(chan outcome, 1)
	go func() { waits <- finish(t, s.command("load", "mnt")) }()
	s.until("the load is under way", func() bool {
		loads := s.status().Summary.Loads
		return len(loads) == 1 && loads[0].Phase == contract.LoadRunning && loads[0].FilesTotal == int64(len(want))
	})
	if got := s.run("load", "--cancel", "mnt/train"); got.code != 2 || !strings.Contains(got.errors, "no load of these paths is running") {
		t.Errorf("other words: %+v", got)
	}
	if got := s.must("load", "--cancel", "mnt"); !strings.Contains(got.out, "cancelled") {
		t.Errorf("cancel: %+v", got)
	}
	if got := <-waits; got.code != 2 || !strings.Contains(got.errors, "cancelled: by millrace load --cancel") {
		t.Errorf("who waits is told: %+v", got)
	}
	v.opened()
	if got := s.must("load", "mnt"); !strings.Contains(got.out, fmt.Sprintf("in %d files", len(want))) {
		t.Errorf("the same load after it: %+v", got)
	}
	check(t, s.path("mnt"), want)
	s.must("unmount", "mnt")
}
