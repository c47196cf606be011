package fusetest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

const childEnv = "FUSETEST_CHILD"

// MappedSum is the digest of a file as it is seen through mmap(2), from a
// process of its own: a page fault holds a thread that the Go runtime cannot
// stop for its garbage collector, so a process that served the fault itself
// could wait for ever. The process is this test binary again; see init.
func MappedSum(name string) (sum [sha256.Size]byte, err error) {
	out, err := child("map", name)
	if err != nil {
		return sum, err
	}
	_, err = hex.Decode(sum[:], out)
	return sum, err
}

// child has another process do one of children.
func child(what string, args ...string) ([]byte, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, args...) //nolint:noctx // it ends with the mount at the latest
	cmd.Env = append(os.Environ(), childEnv+"="+what)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w: %s", what, args, err, out)
	}
	return out, nil
}

// children are what a process started by child does with its arguments.
var children = map[string]func(args []string) (string, error){
	"map":         func(args []string) (string, error) { return mapAndSum(args[0], unix.MAP_SHARED) },
	"map private": func(args []string) (string, error) { return mapAndSum(args[0], unix.MAP_PRIVATE) },
	"hold open":   holdOpen,
}

// init turns a test binary that child has started into what it wants, ahead of
// every test.
func init() {
	do := children[os.Getenv(childEnv)]
	if do == nil {
		return
	}
	out, err := do(os.Args[1:])
	if err != nil {
		fmt.Print(err)
		os.Exit(1)
	}
	fmt.Print(out)
	os.Exit(0)
}

// mapAndSum is the digest of a mapping. One that is private is also written to,
// which nobody else may see.
func mapAndSum(name string, how int) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	prot := unix.PROT_READ
	if how == unix.MAP_PRIVATE {
		prot |= unix.PROT_WRITE
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), prot, how)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Munmap(b) }()
	if how == unix.MAP_PRIVATE {
		for i := 0; i < len(b); i += 8191 {
			b[i]++
		}
	}
	return fmt.Sprintf("%x", sha256.Sum256(b)), nil
}

// holdOpen opens the first so many files of a directory, and reads each when
// all are open.
func holdOpen(args []string) (string, error) {
	entries, err := os.ReadDir(args[0])
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(args[1])
	if err != nil || n > len(entries) {
		return "", fmt.Errorf("%s of %d: %w", args[1], len(entries), err)
	}
	fds := make([]int, n)
	for i := range fds {
		if fds[i], err = unix.Open(filepath.Join(args[0], entries[i].Name()), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return "", fmt.Errorf("open file number %d: %w", i, err)
		}
	}
	all, buf := sha256.New(), make([]byte, 4096)
	for _, fd := range fds {
		n, err := unix.Pread(fd, buf, 0)
		if err != nil {
			return "", err
		}
		all.Write(buf[:n])
	}
	return fmt.Sprintf("%x", all.Sum(nil)), nil
}
