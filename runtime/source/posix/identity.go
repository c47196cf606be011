package posix

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// identity is what tells two versions of a file apart.
type identity int

const (
	// byMtime: size and modification time, which a writer can set back.
	byMtime identity = iota
	// byCtime: also the time of the last change, which nobody can set.
	byCtime
	// byInode: also the inode number, should the server's clock go back.
	byInode
)

// tag is the entity tag of a file: 32 hex digits in quotes, as object stores
// have them, or nothing where size and modification time are all there is.
func (i identity) tag(st *unix.Statx_t) string {
	if i == byMtime {
		return ""
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], uint64(when(st.Ctime).UnixNano()))
	if i == byInode {
		binary.BigEndian.PutUint64(b[8:], st.Ino)
	}
	return `"` + hex.EncodeToString(b[:]) + `"`
}

// fileSystem is what matters of a file system's kind.
type fileSystem struct {
	// local: no other process or machine has to answer.
	local bool
	// sharedTimes: all who mount it see one change time of a file.
	sharedTimes bool
	// stableInodes: all who mount it see one inode number of a file, always.
	stableInodes bool
	// from is the kind and what is mounted.
	from string
}

var (
	disk   = fileSystem{local: true, sharedTimes: true, stableInodes: true}
	server = fileSystem{sharedTimes: true, stableInodes: true}
)

// fileSystems by the kernel's name. Of others, and of all in user space, nothing
// is taken for granted: sshfs counts inodes as it meets them, s3fs and others
// make up change times.
var fileSystems = map[string]fileSystem{
	"ext2": disk, "ext3": disk, "ext4": disk, "xfs": disk, "btrfs": disk, "zfs": disk, "f2fs": disk, "tmpfs": disk,
	"overlay": {local: true, sharedTimes: true},
	"nfs":     server, "nfs4": server, "ceph": server, "lustre": server,
	"cifs": {sharedTimes: true}, "smb3": {sharedTimes: true},
}

// identity that is safe without being told: a host path on a disk may be another
// copy on every node, with equal modification times at best.
func (f fileSystem) identity(hostPath bool) identity {
	switch {
	case !f.sharedTimes, hostPath && f.local:
		return byMtime
	case f.stableInodes:
		return byInode
	default:
		return byCtime
	}
}

// fileSystemOf finds the kind of the file system of root without asking it:
// statfs would wait for a server that is gone.
func fileSystemOf(root *handle) fileSystem {
	if root == nil || root.fd < 0 {
		return fileSystem{}
	}
	var st unix.Statx_t
	if err := unix.Statx(root.fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return fileSystem{}
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fileSystem{}
	}
	defer f.Close()
	id := strconv.FormatUint(st.Mnt_id, 10) + " "
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if !strings.HasPrefix(lines.Text(), id) {
			continue
		}
		_, after, _ := strings.Cut(lines.Text(), " - ")
		kind, rest, _ := strings.Cut(after, " ")
		device, _, _ := strings.Cut(rest, " ")
		f := fileSystems[kind]
		f.from = kind + " " + device
		return f
	}
	return fileSystem{}
}
