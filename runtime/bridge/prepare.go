package bridge

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/apis/contract"
)

// Install copies a program into a directory of a pod, where it has the name of
// contract.HelperBinary. It may be called again.
func Install(program, dir string) error {
	from, err := os.Open(program)
	if err != nil {
		return fmt.Errorf("install helper: %w", err)
	}
	defer from.Close()
	to, err := os.CreateTemp(dir, ".helper-*")
	if err != nil {
		return fmt.Errorf("install helper: %w", err)
	}
	defer func() { _ = os.Remove(to.Name()) }()
	_, err = io.Copy(to, from)
	err = errors.Join(err, to.Chmod(0o755), to.Close())
	if err == nil {
		err = os.Rename(to.Name(), filepath.Join(dir, filepath.Base(contract.HelperBinary)))
	}
	if err != nil {
		return fmt.Errorf("install helper: %w", err)
	}
	return nil
}

// maxLayers is more mounts upon each other than any crash loop leaves.
const maxLayers = 256

// ClearMountPoint takes away what a predecessor has left mounted at a path, also
// one whose server is dead, and makes the directory.
func ClearMountPoint(dir string) error {
	dir = filepath.Clean(dir)
	for range maxLayers {
		// The table is read and nothing is looked into: a dead FUSE may hang.
		layers, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
			return m.Mountpoint != dir && !strings.HasPrefix(m.Mountpoint, dir+"/"), false
		})
		if err != nil {
			return fmt.Errorf("read mounts: %w", err)
		}
		if len(layers) == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("make mount point: %w", err)
			}
			return nil
		}
		top := layers[len(layers)-1].Mountpoint // later entries lie upon earlier ones
		if err := unix.Unmount(top, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", top, err)
		}
	}
	return fmt.Errorf("unmount %s: too many layers", dir)
}
