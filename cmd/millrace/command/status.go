package command

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/runtime/component"
	"github.com/millrace/millrace/runtime/standalone"
)

func statusCommand() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "status [MOUNTPOINT...]",
		Short: "Show what is mounted and how much of it is cached",
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "table" && format != "json" {
				return component.Hopeless{Err: fmt.Errorf("-o %q: want table or json", format)}
			}
			all, err := standalone.Look(cmd.Context(), runDir(cmd), args)
			if err != nil {
				return err
			}
			if format == "json" {
				out := json.NewEncoder(cmd.OutOrStdout())
				out.SetIndent("", "  ")
				return out.Encode(all)
			}
			return standalone.Write(cmd.OutOrStdout(), all)
		},
	}
	c.Flags().StringVarP(&format, "output", "o", "table", "table or json")
	return c
}

func unmountCommand() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:     "unmount MOUNTPOINT",
		Aliases: []string{"umount"},
		Short:   "Take a mount away and wait until its daemon has ended",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return standalone.Unmount(cmd.Context(), runDir(cmd), args[0], force)
		},
	}
	c.Flags().BoolVar(&force, "force", false, "also while it is in use, and kill a daemon that hangs")
	return c
}
