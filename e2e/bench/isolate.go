package bench

import (
	"errors"
	"os"
	"os/exec"
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
	err = cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return max(1, ended.ExitCode()), true, nil
	}
	return 0, true, err
}
