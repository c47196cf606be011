// Command alluxio runs Alluxio 2.9 as the engine of a CacheRuntimeClass. It is
// the entry of the image whose other part are Java and Alluxio's own jars.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/alluxio"
	"github.com/millrace/millrace/runtime/component"
)

// version is set by the build.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{Use: "alluxio", Version: version, SilenceUsage: true, Args: cobra.NoArgs}
	root.AddCommand(
		verb("run", "run the processes of the component that the pod is", (*alluxio.Site).Processes),
		verb("mount-ufs", "mount the sources that are wanted, and unmount others", printed((*alluxio.Site).MountUFS)),
		verb("report-summary", "print the numbers of the cache", printed((*alluxio.Site).ReportSummary)),
		verb("load", "load what the environment of a DataLoad asks for", (*alluxio.Site).Load),
	)
	err := root.ExecuteContext(ctx)
	var hopeless component.Hopeless
	switch {
	case errors.As(err, &hopeless):
		os.Exit(contract.LoadExitHopeless)
	case err != nil:
		os.Exit(contract.LoadExitRetry)
	}
}

func verb(name, short string, do func(*alluxio.Site, context.Context) error) *cobra.Command {
	return &cobra.Command{Use: name, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		site, err := alluxio.ReadSite()
		if err != nil {
			return err
		}
		return do(site, c.Context())
	}}
}

// printed prints what a command gives as one line of JSON.
func printed[T any](do func(*alluxio.Site, context.Context) (T, error)) func(*alluxio.Site, context.Context) error {
	return func(s *alluxio.Site, ctx context.Context) error {
		out, err := do(s, ctx)
		if err != nil {
			return err
		}
		text, err := json.Marshal(out)
		if err != nil {
			return fmt.Errorf("encode answer: %w", err)
		}
		fmt.Println(string(text))
		return nil
	}
}
