package localcluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// state is what has to be undone. It is on disk before each thing it names is
// made, so that a crash at any point leaves a record to clean up from.
type state struct {
	Name string `json:"name"`
	// Index chooses the cluster's addresses and interface names; -1 before it is claimed.
	Index     int       `json:"index"`
	Processes []process `json:"processes,omitempty"`
	Nodes     []string  `json:"nodes,omitempty"`

	path string
}

// process is one that the cluster started. StartTicks guards against a pid that
// somebody else has been given since.
type process struct {
	Role       string `json:"role"`
	PID        int    `json:"pid"`
	StartTicks uint64 `json:"startTicks"`
}

func loadState(dir string) (*state, error) {
	s := &state{Index: -1, path: filepath.Join(dir, "state.json")}
	data, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	if err != nil {
		return s, fmt.Errorf("read cluster state: %w", err)
	}
	if err := json.Unmarshal(data, s); err != nil {
		return s, fmt.Errorf("decode cluster state %s: %w", s.path, err)
	}
	return s, nil
}

func (s *state) save() error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(s.path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(s.path+".tmp", data, 0o644); err != nil {
		return fmt.Errorf("write cluster state: %w", err)
	}
	return os.Rename(s.path+".tmp", s.path)
}

// add records a started process, in place of an earlier one of the same role.
func (s *state) add(role string, pid int) error {
	ticks, err := startTicks(pid)
	if err != nil {
		return fmt.Errorf("find start of %s: %w", role, err)
	}
	s.drop(role)
	s.Processes = append(s.Processes, process{Role: role, PID: pid, StartTicks: ticks})
	return s.save()
}

func (s *state) drop(role string) {
	kept := s.Processes[:0]
	for _, p := range s.Processes {
		if p.Role != role {
			kept = append(kept, p)
		}
	}
	s.Processes = kept
}

func (s *state) process(role string) (process, bool) {
	for _, p := range s.Processes {
		if p.Role == role {
			return p, true
		}
	}
	return process{}, false
}

// alive tells whether p still is the process that was started.
func (p process) alive() bool {
	ticks, err := startTicks(p.PID)
	return err == nil && ticks == p.StartTicks
}

// kill ends p at once and waits until it is gone.
func (p process) kill(limit time.Duration) error {
	if !p.alive() {
		return nil
	}
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill %s (pid %d): %w", p.Role, p.PID, err)
	}
	for deadline := time.Now().Add(limit); p.alive(); time.Sleep(10 * time.Millisecond) {
		// A child of ours stays a zombie until it is waited for.
		_, _ = syscall.Wait4(p.PID, nil, syscall.WNOHANG, nil)
		if time.Now().After(deadline) {
			return fmt.Errorf("%s (pid %d) is still there %s after SIGKILL", p.Role, p.PID, limit)
		}
	}
	return nil
}

// startTicks is the start time of a live process, field 22 of proc_pid_stat(5).
func startTicks(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	text := string(data)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
