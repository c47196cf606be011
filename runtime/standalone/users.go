package standalone

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// device is that of a file system, the same in every mount namespace.
type device struct{ major, minor int }

// deviceAt is the device that is mounted at a path, by the mount table alone.
func deviceAt(dir string) (d device, found bool) {
	layers, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	if err != nil || len(layers) == 0 {
		return device{}, false
	}
	top := layers[len(layers)-1]
	return device{top.Major, top.Minor}, true
}

// users are the processes that have a file or a directory of a device open, or
// mapped. A mount that is gone here may live on in another mount namespace: a
// container's, or one that was made while it stood. No file is looked at, for its
// server may hang.
func (d device) users() (pids []int) {
	found, _ := filepath.Glob("/proc/[0-9]*") // the pattern is right
	for _, dir := range found {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil && d.usedBy(dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (d device) usedBy(proc string) bool {
	f, err := os.Open(proc + "/mountinfo")
	if err != nil {
		return false // it has ended
	}
	defer f.Close()
	ids := map[string]bool{}
	mounts, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return false
	}
	for _, m := range mounts {
		if m.Major == d.major && m.Minor == d.minor {
			ids[strconv.Itoa(m.ID)] = true
		}
	}
	if len(ids) == 0 {
		return false
	}
	open, _ := filepath.Glob(proc + "/fdinfo/*")
	for _, file := range open {
		if info, err := os.ReadFile(file); err == nil && ids[fieldOf(string(info), "mnt_id:")] {
			return true
		}
	}
	for _, name := range []string{"/cwd", "/root"} {
		var st unix.Statx_t
		if unix.Statx(unix.AT_FDCWD, proc+name, unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st) == nil &&
			int(st.Dev_major) == d.major && int(st.Dev_minor) == d.minor {
			return true
		}
	}
	maps, err := os.ReadFile(proc + "/maps")
	return err == nil && strings.Contains(string(maps), fmt.Sprintf(" %02x:%02x ", d.major, d.minor))
}

// fieldOf is the word behind a name in a text of lines such as "mnt_id: 12".
func fieldOf(text, name string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
