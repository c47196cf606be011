package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// formatDir holds the files of format version 1.
const formatDir = "millrace-v1"

// directory is one directory of a tier and its account.
type directory struct {
	path, data string
	medium     string
	high, low  float64
	lock       *os.File

	// used is what the files here take on the disk; it never passes quota.
	used, quota int64
}

func openDirectory(d Dir, t Tier) (*directory, error) {
	out := &directory{path: d.Path, data: filepath.Join(d.Path, formatDir), medium: t.Medium, high: t.High, low: t.Low, quota: d.QuotaBytes}
	if out.high <= 0 || out.high > 1 {
		out.high = 1
	}
	if out.low <= 0 || out.low > out.high {
		out.low = out.high
	}
	if err := os.MkdirAll(out.data, 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(d.Path, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("lock %s: another worker uses it: %w", d.Path, err)
	}
	out.lock = lock
	return out, nil
}

func (d *directory) close() error {
	if d.lock == nil {
		return nil
	}
	err := d.lock.Close()
	d.lock = nil
	return err
}

func (d *directory) free() int64 { return d.quota - d.used }

// fitDisk cuts the quota to what the file system can give, and says so.
func (d *directory) fitDisk() string {
	var st unix.Statfs_t
	if err := unix.Statfs(d.path, &st); err != nil {
		return ""
	}
	// Some file systems keep a few blocks for themselves: leave one in fifty.
	most := d.used + int64(st.Bavail)*st.Bsize/50*49
	if d.quota <= most {
		return ""
	}
	said := fmt.Sprintf("the quota of %s is %d bytes, but its disk has room for %d: using that; lower the quota or add disk", d.path, d.quota, most)
	d.quota = most
	return said
}

func (d *directory) file(key Key) string { return filepath.Join(d.data, string(key[:2]), string(key)) }

const metaSuffix = ".meta"

func trimSuffix(name, suffix string) (string, bool) {
	return strings.CutSuffix(name, suffix)
}
