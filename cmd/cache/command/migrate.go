package command

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/component"
)

func migrateCommand(p *program) *cobra.Command {
	var termination, address string
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Copy files from one storage to another, as $" + contract.EnvMigration + " says, and wait for the end",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			message, err := runMigrate(cmd.Context(), p, address)
			if err != nil {
				message = err.Error()
			}
			lastWords(termination, message)
			return err
		},
	}
	c.Flags().StringVar(&termination, "termination-log", contract.TerminationMessagePath, "file that takes the final message, if it exists")
	c.Flags().StringVar(&address, "address", net.JoinHostPort("", strconv.Itoa(contract.MasterHTTPPort)), "where to serve the progress")
	return c
}

// lastWords writes the final message where a kubelet looks for it.
func lastWords(file, message string) {
	// Only a kubelet makes this file.
	if f, e := os.OpenFile(file, os.O_WRONLY|os.O_TRUNC, 0); e == nil {
		_, _ = f.WriteString(message)
		_ = f.Close()
	}
}

func runMigrate(ctx context.Context, p *program, address string) (message string, err error) {
	text := os.Getenv(contract.EnvMigration)
	if text == "" {
		return "", component.Hopeless{Err: fmt.Errorf("$%s is not set", contract.EnvMigration)}
	}
	m := &contract.Migration{}
	if err := json.Unmarshal([]byte(text), m); err != nil {
		return "", component.Hopeless{Err: fmt.Errorf("$%s: %w", contract.EnvMigration, err)}
	}
	done, err := component.Migrate(ctx, m, p.open, address)
	if err != nil {
		return "", err
	}
	said, err := json.Marshal(contract.Migrated{Files: done.FilesDone, Bytes: done.BytesDone, KeptFiles: done.Kept, Links: done.Links})
	return string(said), err
}
