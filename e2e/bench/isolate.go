package bench

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// inside is set in the process that Isolate starts.
const inside = "MILLRACE_BENCH_INSIDE"

// Isolate runs this program again in mount and process namespaces of its own,
// so that no mount and no process outlives it, however it ends. In that second
// process it returns false; in the first it returns the second's exit code.
func Isolate() (code int, outside bool, err error) {
	if os.Getenv(inside) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return 0, false, err
		}
		return 0, false, unix.Mount("proc", "/proc", "proc", 0, "")
	}
	self, err := os.Executable()
	if err != nil {
		return 1, true, err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 1, true, err
	}
	// What ends this process is for the other, which cleans up.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	over := make(chan struct{})
	defer close(over)
	go func() {
		for {
			select {
			case <-signals:
				_ = cmd.Process.Signal(syscall.SIGTERM)
			case <-over:
				return
			}
		}
	}()
	err = cmd.Wait()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return max(1, ended.ExitCode()), true, nil
	}
	return 0, true, err
}
