package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// formatDir holds the files of format version 1: the journal, and each cached
// file at <first two digits of its key>/<key>.
const (
	formatDir   = "millrace-v1"
	journalName = "journal"
)

// directory is one directory of a tier and its account, which the Store's mu
// guards.
type directory struct {
	path, data string
	level      int
	medium     string
	high, low  float64
	lock       *os.File
	journal    *journal

	// used is what the files here take on the disk; it never passes quota.
	used, quota int64
	// promised is what leased files may still take. It guides placement only.
	promised int64
	// guests that nobody leases, the longest unused first, and their bytes.
	guests     queue
	guestBytes int64
	// coming is how many files are being copied here from another tier.
	coming int
	// draining: it was above its high mark, and is not down at the low one yet.
	draining bool
	// number is where it stands in Store.dirs.
	number uint8
	// marker is the file that says that the journal can be trusted; "" if not.
	marker string
	// choose ranks the owners' files; nil under PolicyUniform.
	choose *chooser
	// failed says why the directory takes nothing now: its disk fails.
	failed string
	// cut says that the quota is larger than the disk.
	cut string
	// full says that the disk had no room although the quota had.
	full string
}

func openDirectory(ctx context.Context, d Dir, t Tier, level int, wait time.Duration) (_ *directory, err error) {
	out := &directory{path: d.Path, data: filepath.Join(d.Path, formatDir), level: level, medium: t.Medium, quota: d.QuotaBytes}
	out.setMarks(t)
	if err := os.MkdirAll(out.data, 0o755); err != nil {
		return nil, err
	}
	if out.lock, err = os.OpenFile(filepath.Join(d.Path, "lock"), os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		return nil, err
	}
	if err := lock(ctx, out.lock, wait); err != nil {
		out.lock.Close()
		return nil, fmt.Errorf("lock %s: another worker uses it: %w", d.Path, err)
	}
	return out, nil
}

func (d *directory) setMarks(t Tier) {
	d.high, d.low = t.High, t.Low
	if d.high <= 0 || d.high > 1 {
		d.high = 1
	}
	if d.low <= 0 || d.low > d.high {
		d.low = d.high
	}
}

// lock waits for whoever holds the lock of a directory to end: a worker may
// start before its predecessor is gone.
func lock(ctx context.Context, f *os.File, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(lockEvery):
		}
	}
}

// lockEvery is how often a lock that another holds is asked for.
const lockEvery = 50 * time.Millisecond

func (d *directory) close() (err error) {
	if d.journal != nil {
		err = d.journal.close()
	}
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
		d.lock = nil
	}
	return err
}

// limit is how much may be used: guests stay below high, so that owners find room.
func (d *directory) limit(guest bool) int64 {
	if guest {
		return int64(float64(d.quota) * d.high)
	}
	return d.quota
}

// room is what a new file may hope for.
func (d *directory) room(guest bool) int64 {
	room := d.limit(guest) - d.used - d.promised
	if !guest {
		room += d.guestBytes + d.choose.bytes()
	}
	return room
}

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

func (d *directory) shard(key Key) string { return filepath.Join(d.data, string(key[:2])) }

func (d *directory) file(key Key) string { return filepath.Join(d.shard(key), string(key)) }

// create names a new file in the journal and makes it, in this order.
func (d *directory) create(key rawKey, size, blockBytes int64, flags byte) (*os.File, error) {
	if err := d.journal.append(recordFile, flags, key, uint64(size), uint64(blockBytes)); err != nil {
		return nil, err
	}
	// If it cannot be made: a file without a block is looked for at the next start.
	return d.createData(key.key(), size)
}

// createData makes the sparse file of a new entry.
func (d *directory) createData(key Key, size int64) (*os.File, error) {
	const flags = os.O_CREATE | os.O_TRUNC | os.O_RDWR
	f, err := os.OpenFile(d.file(key), flags, 0o644)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(d.shard(key), 0o755); err == nil {
			f, err = os.OpenFile(d.file(key), flags, 0o644)
		}
	}
	if err != nil {
		return nil, err
	}
	// Its size first: the file stays sparse, and tmpfs can choose huge pages.
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(d.file(key)))
	}
	return f, nil
}
