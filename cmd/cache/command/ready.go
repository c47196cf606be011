package command

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/apis/contract"
)

// probeTimeout is for how long a mount may take to answer a stat.
const probeTimeout = 2 * time.Second

func fuseReadyCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "fuse-ready",
		Short: "Succeed if a FUSE file system is mounted at a path and answers; a probe for pods with several clients",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return fuseReady(dir) },
	}
	c.Flags().StringVar(&dir, "mount-path", os.Getenv(contract.EnvRuntimeMountPath), "the mount point")
	return c
}

// fuseReady tells whether dir is a live FUSE mount. A mount whose server hangs
// makes the call hang, so it has a goroutine of its own that may be left behind.
func fuseReady(dir string) error {
	answer := make(chan error, 1)
	go func() {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil {
			answer <- fmt.Errorf("%s: %w", dir, err)
			return
		}
		if fs.Type != unix.FUSE_SUPER_MAGIC {
			answer <- fmt.Errorf("%s is not a FUSE mount", dir)
			return
		}
		answer <- nil
	}()
	select {
	case err := <-answer:
		return err
	case <-time.After(probeTimeout):
		return fmt.Errorf("%s does not answer", dir)
	}
}
