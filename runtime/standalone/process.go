package standalone

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// born is when a process began, in ticks since the machine did; 0 if it is gone.
// It is the 22nd field of proc(5)'s stat; the second, the name, may hold spaces.
func born(pid int) uint64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 {
		return 0
	}
	ticks, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0
	}
	return ticks
}

// kill ends the process of a state, and no other that has its pid by now.
func (s State) kill() error {
	p, err := os.FindProcess(s.PID) // holds on to the process by a descriptor
	if err != nil {
		return err
	}
	defer func() { _ = p.Release() }()
	if b := born(s.PID); b == 0 || b != s.Born {
		return os.ErrProcessDone
	}
	return p.Kill()
}
