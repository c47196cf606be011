package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/runtime/master"
	"github.com/millrace/millrace/runtime/standalone"
)

// keepCommands are pin, unpin and free.
func keepCommands() []*cobra.Command {
	return []*cobra.Command{
		keepCommand(standalone.Pin, "Keep what is cached of files and directories from every eviction", "pinned",
			`What is cached of the paths now is not evicted until it is unpinned, also after a
restart. What comes into the cache later is not pinned: load first.`),
		keepCommand(standalone.Unpin, "Let what was pinned be evicted again", "unpinned", ""),
		keepCommand(standalone.Free, "Drop what is cached of files and directories", "freed",
			"What is pinned stays. Programs that have a file open read on."),
	}
}

func keepCommand(action standalone.Action, short, done, long string) *cobra.Command {
	if long != "" {
		long = short + ".\n\n" + long
	}
	return &cobra.Command{
		Use:     string(action) + " PATH...",
		Short:   short,
		Long:    long,
		Example: fmt.Sprintf("  millrace %[1]s /mnt/data/train\n  millrace %[1]s '/mnt/data/val/*.tar'", action),
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			sum, err := standalone.Keep(cmd.Context(), runDir(cmd), action, args)
			if err != nil {
				return err
			}
			rest := ""
			if sum.PinnedFiles > 0 {
				rest = fmt.Sprintf("; %d are pinned and stay", sum.PinnedFiles)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %d of %d files, %s in the cache%s\n",
				done, sum.CachedFiles, sum.Files, master.FormatBytes(sum.CachedBytes), rest)
			return err
		},
	}
}
