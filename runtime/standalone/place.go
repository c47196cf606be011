package standalone

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/wire"
)

// DefaultRunDir is where the daemons of this machine have their sockets.
func DefaultRunDir() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && os.Geteuid() != 0 {
		return filepath.Join(dir, "millrace")
	}
	return contract.RunDir
}

// defaultLogFile is where a daemon in the background logs to.
func defaultLogFile(id string) string {
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" && os.Geteuid() != 0 {
		return filepath.Join(dir, "millrace", id+".log")
	}
	return filepath.Join("/var/log/millrace", id+".log")
}

// DefaultStateDir is where what is worth keeping is kept: the listings of sources.
func DefaultStateDir() string {
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" && os.Geteuid() != 0 {
		return filepath.Join(dir, "millrace")
	}
	return "/var/lib/millrace"
}

// place is the directory of the daemon of one mount point: its sockets, what it
// says of itself, and the lock that it holds as long as it lives.
type place struct{ dir string }

// idOf names a mount point: the same for all who mean the same directory.
func idOf(mountPoint string) string {
	sum := sha256.Sum256([]byte(mountPoint))
	return hex.EncodeToString(sum[:6])
}

// maxPlace leaves room for the longest name of a socket, .4194304.sock, in the
// 107 bytes that its path may have.
const maxPlace = 107 - len("/.4194304.sock")

func placeOf(runDir, mountPoint string) place {
	return place{filepath.Join(runDir, idOf(mountPoint))}
}

func (p place) file(name string) string { return filepath.Join(p.dir, name) }
func (p place) control() string         { return p.file("control.sock") }
func (p place) worker() string          { return p.file("worker.sock") }
func (p place) rpc() string             { return wire.UnixAddress(p.file("master.sock")) }
func (p place) data() string            { return wire.UnixAddress(p.file("data.sock")) }

// State is what a daemon writes down of itself for others to find.
type State struct {
	MountPoint string `json:"mountPoint"`
	Name       string `json:"name"`
	PID        int    `json:"pid"`
	// Born is when the process began, in the kernel's ticks: a pid alone may be
	// another process's by now.
	Born      uint64    `json:"born"`
	StartedAt time.Time `json:"startedAt"`
	Version   string    `json:"version"`
	// Master is where a client of a cache elsewhere finds its master.
	Master  string   `json:"master,omitempty"`
	Sources []string `json:"sources,omitempty"`
	LogFile string   `json:"logFile,omitempty"`
}

func (p place) write(s State) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	next := p.file(".state.json")
	if err := os.WriteFile(next, data, 0o644); err != nil {
		return fmt.Errorf("write down the state: %w", err)
	}
	return os.Rename(next, p.file("state.json"))
}

// read gives the state of the daemon that is there, or was there.
func (p place) read() (State, error) {
	var s State
	data, err := os.ReadFile(p.file("state.json"))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("read %s: %w", p.file("state.json"), err)
	}
	return s, nil
}

// errTaken: another process has the lock.
var errTaken = errors.New("another process has it")

// lock takes the place for as long as the file is open. Whoever looks whether
// it is taken holds it for a moment, so it is tried for a while.
func (p place) lock(ctx context.Context, patience time.Duration) (*os.File, error) {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the daemon: %w", err)
	}
	deadline := time.Now().Add(patience)
	for {
		f, err := p.tryLock(unix.LOCK_EX)
		if err == nil || !errors.Is(err, errTaken) || time.Now().After(deadline) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond): // flock cannot be waited for with a limit
		}
	}
}

func (p place) tryLock(how int) (*os.File, error) {
	f, err := os.OpenFile(p.file("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = errTaken
	}
	if err == nil && !sameFile(f) { // its owner has cleaned up meanwhile
		err = errTaken
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sameFile tells whether the path of f still leads to it.
func sameFile(f *os.File) bool {
	a, errA := f.Stat()
	b, errB := os.Stat(f.Name())
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// alive tells whether a daemon holds the place.
func (p place) alive() bool {
	if _, err := os.Stat(p.file("lock")); err != nil {
		return false
	}
	f, err := p.tryLock(unix.LOCK_SH)
	if err == nil {
		f.Close()
	}
	return errors.Is(err, errTaken)
}

// clean removes what a daemon leaves; the caller has the lock.
func (p place) clean() error { return os.RemoveAll(p.dir) }

// places are all places below the run directory, of the living and the dead.
func places(runDir string) ([]place, error) {
	found, err := os.ReadDir(runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []place
	for _, d := range found {
		p := place{filepath.Join(runDir, d.Name())}
		if _, err := os.Stat(p.file("state.json")); err == nil {
			out = append(out, p)
		}
	}
	return out, nil
}

// ErrNotMounted: no daemon serves this path.
var ErrNotMounted = errors.New("not a mount of millrace")

// find gives the daemon's place whose mount holds a path, and where the path is
// in the dataset.
func find(runDir, path string) (p place, s State, inside string, err error) {
	// The words first: a mount that hangs makes whoever looks at it hang.
	full, err := filepath.Abs(path)
	if err != nil {
		return place{}, State{}, "", err
	}
	if p, s, inside, err = findExact(runDir, full); !errors.Is(err, ErrNotMounted) {
		return p, s, inside, err
	}
	if full, err = canonical(path); err != nil {
		return place{}, State{}, "", err
	}
	return findExact(runDir, full)
}

func findExact(runDir, full string) (p place, s State, inside string, err error) {
	for at := full; ; at = filepath.Dir(at) {
		p = placeOf(runDir, at)
		s, err = p.read()
		if err == nil && s.MountPoint == at {
			return p, s, "/" + strings.TrimPrefix(strings.TrimPrefix(full, at), "/"), nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return place{}, State{}, "", err
		}
		if at == "/" {
			return place{}, State{}, "", fmt.Errorf("%s: %w", full, ErrNotMounted)
		}
	}
}

// canonical is the absolute path without links. It looks at no more of the path
// than exists and answers: at a dead mount nothing does.
func canonical(path string) (string, error) {
	full, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	var rest []string
	for at := full; ; at = filepath.Dir(at) {
		if real, err := filepath.EvalSymlinks(at); err == nil {
			slices.Reverse(rest)
			return filepath.Join(append([]string{real}, rest...)...), nil
		}
		if at == "/" {
			return full, nil
		}
		rest = append(rest, filepath.Base(at))
	}
}
