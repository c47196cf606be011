package fusetest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

const mappedEnv = "FUSETEST_MAPPED_FILE"

// MappedSum is the digest of a file as it is seen through mmap(2), from a
// process of its own: a page fault holds a thread that the Go runtime cannot
// stop for its garbage collector, so a process that served the fault itself
// could wait for ever. The process is this test binary again; see init.
func MappedSum(name string) (sum [sha256.Size]byte, err error) {
	self, err := os.Executable()
	if err != nil {
		return sum, err
	}
	cmd := exec.Command(self) //nolint:noctx // it ends with the mount at the latest
	cmd.Env = append(os.Environ(), mappedEnv+"="+name)
	out, err := cmd.Output()
	if err != nil {
		return sum, fmt.Errorf("map %s: %w: %s", name, err, out)
	}
	_, err = hex.Decode(sum[:], out)
	return sum, err
}

// init turns a test binary that MappedSum has started into what it wants, ahead
// of every test.
func init() {
	name := os.Getenv(mappedEnv)
	if name == "" {
		return
	}
	sum, err := mapAndSum(name)
	if err != nil {
		fmt.Print(err)
		os.Exit(1)
	}
	fmt.Printf("%x", sum)
	os.Exit(0)
}

func mapAndSum(name string) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return sum, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return sum, err
	}
	defer func() { _ = unix.Munmap(b) }()
	return sha256.Sum256(b), nil
}
