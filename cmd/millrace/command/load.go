package command

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/component"
	"github.com/millrace/millrace/runtime/master"
	"github.com/millrace/millrace/runtime/standalone"
)

func loadCommand() *cobra.Command {
	var metadata, cancel, pin bool
	flags := map[string]*string{contract.LoadBandwidth: new(string), contract.LoadParallelism: new(string), contract.LoadPriority: new(string)}
	c := &cobra.Command{
		Use:   "load PATH...",
		Short: "Bring files and directories below a mount into the cache, and wait for the end",
		Long: `Bring files and directories below a mount into the cache, and wait for the end.

Ctrl-C ends the waiting, not the load; --cancel with the same paths ends the
load, and what it has cached stays. The exit code is 0 when everything is
cached, 1 when another try may succeed, 2 when the load was cancelled or the same
words would fail again (no such path, no room in the cache), 130 after Ctrl-C.`,
		Example: `  millrace load /mnt/data
  millrace load /mnt/data/train '/mnt/data/val/*.tar'
  millrace load --cancel /mnt/data`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cancel {
				if err := standalone.CancelLoad(cmd.Context(), runDir(cmd), args); err != nil {
					return err
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "cancelled; what is cached stays")
				return err
			}
			options, err := loadOptions(flags, pin)
			if err != nil {
				return component.Hopeless{Err: err}
			}
			var last contract.LoadSummary
			progress := standalone.NewProgress(os.Stderr)
			err = standalone.Load(cmd.Context(), runDir(cmd), args, metadata, options, func(l contract.LoadSummary) {
				last = l
				progress.Show(l)
			})
			progress.End()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "cached %s in %d files; took %s\n",
				master.FormatBytes(last.BytesDone), last.FilesDone, progress.Took().Round(10*time.Millisecond))
			return err
		},
	}
	c.Flags().BoolVar(&cancel, "cancel", false, "end the load that was begun with the same paths")
	c.Flags().StringVar(flags[contract.LoadBandwidth], contract.LoadBandwidth, "", "read at most so many bytes a second from the source, such as 100Mi")
	c.Flags().StringVar(flags[contract.LoadParallelism], contract.LoadParallelism, "", "read at most so many blocks at once")
	c.Flags().StringVar(flags[contract.LoadPriority], contract.LoadPriority, "", "loads of higher priority go first; 0 if not given")
	c.Flags().BoolVar(&pin, "pin", false, "pin what is loaded, as it comes")
	c.Flags().BoolVar(&metadata, "refresh", false, "list the paths at the source anew before")
	return c
}

// loadOptions are what the flags say.
func loadOptions(flags map[string]*string, pin bool) (contract.LoadOptions, error) {
	said := map[string]string{}
	for name, value := range flags {
		if *value != "" {
			said[name] = *value
		}
	}
	if pin {
		said[contract.LoadKeep] = contract.LoadKeepPin
	}
	o, _, err := contract.ParseLoadOptions(said)
	if err != nil {
		return o, fmt.Errorf("--%w", err)
	}
	return o, nil
}
