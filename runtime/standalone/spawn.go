package standalone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/millrace/millrace/runtime/component"
)

// envReport holds the descriptor on which a daemon tells its parent how its
// start went.
const envReport = "MILLRACE_REPORT_FD"

// report is what travels there, once.
type report struct {
	Error string `json:"error,omitempty"`
	Code  int    `json:"code"`
}

// ChildError is the error of a daemon that did not start, and how it ended.
type ChildError struct {
	Message string
	Code    int
}

func (e *ChildError) Error() string { return e.Message }

// Spawn starts this very command again as a daemon, in a session of its own and
// with its output in the log file, and returns when it is ready. If it ends
// before, its error is a ChildError. The end of ctx ends a daemon that is not
// ready yet.
func Spawn(ctx context.Context, logFile string) (pid int, err error) {
	if err := os.MkdirAll(filepath.Dir(logFile), 0o755); err != nil {
		return 0, fmt.Errorf("make the directory of the log: %w", err)
	}
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return 0, fmt.Errorf("open the log: %w", err)
	}
	defer log.Close()
	hear, tell, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer hear.Close()
	child := exec.Command("/proc/self/exe", os.Args[1:]...)
	child.Args[0] = os.Args[0]
	child.Env = append(os.Environ(), envReport+"=3")
	child.Stdout, child.Stderr, child.ExtraFiles = log, log, []*os.File{tell}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = child.Start()
	tell.Close()
	if err != nil {
		return 0, fmt.Errorf("start the daemon: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = child.Process.Signal(syscall.SIGTERM) })
	defer stop()
	var r report
	if err := json.NewDecoder(hear).Decode(&r); err == nil && r.Code == 0 && r.Error == "" {
		if !stop() {
			return 0, ctx.Err() // told to end just when it was ready
		}
		pid := child.Process.Pid
		return pid, child.Process.Release()
	}
	err = child.Wait()
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case r.Error != "":
		return 0, &ChildError{r.Error, r.Code}
	default:
		return 0, &ChildError{fmt.Sprintf("the daemon ended before it was ready (%v); its log is %s", err, logFile), max(1, child.ProcessState.ExitCode())}
	}
}

// Parent is who waits for the start of this process; nil without one.
type Parent struct{ pipe *os.File }

// FindParent looks for the parent that Spawn left word of.
func FindParent() *Parent {
	fd, err := strconv.Atoi(os.Getenv(envReport))
	_ = os.Unsetenv(envReport) // it fails for malformed names only
	if err != nil {
		return nil
	}
	syscall.CloseOnExec(fd)
	return &Parent{os.NewFile(uintptr(fd), "report")}
}

// Ready tells the parent, or systemd, that the daemon serves.
func (p *Parent) Ready() {
	if p == nil {
		_ = notify("READY=1")
		return
	}
	p.tell(report{})
}

// Failed tells the parent why the daemon ends, and its exit code.
func (p *Parent) Failed(err error, code int) {
	if p != nil {
		p.tell(report{Error: err.Error(), Code: code})
	}
}

func (p *Parent) tell(r report) {
	if p.pipe == nil {
		return
	}
	_ = json.NewEncoder(p.pipe).Encode(r)
	p.pipe.Close()
	p.pipe = nil
}

// notify is sd_notify(3).
func notify(words string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.WriteString(conn, words)
	return err
}

// Exit codes of the command; 0 is success.
const (
	// ExitFailed: another try may succeed.
	ExitFailed = 1
	// ExitHopeless: the same words would fail again.
	ExitHopeless = 2
	// ExitInterrupted: Ctrl-C, as shells have it.
	ExitInterrupted = 130
)

// ExitCode is how the process ends with an error.
func ExitCode(err error) int {
	var child *ChildError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &child):
		return child.Code
	case errors.As(err, &component.Hopeless{}):
		return ExitHopeless
	case errors.Is(err, context.Canceled):
		return ExitInterrupted
	default:
		return ExitFailed
	}
}
