package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/component"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// progressEvery is how often the log tells how far the load is.
const progressEvery = 5 * time.Second

func loadCommand(p *program) *cobra.Command {
	var termination string
	c := &cobra.Command{
		Use:   "load",
		Short: "Bring targets into the cache, as $" + contract.EnvDataLoadPath + " says, and wait for the end",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			message, err := runLoad(cmd.Context(), *p.files)
			if err != nil {
				message = err.Error()
			}
			lastWords(termination, message)
			return err
		},
	}
	c.Flags().StringVar(&termination, "termination-log", "/dev/termination-log", "file that takes the final message, if it exists")
	return c
}

func runLoad(ctx context.Context, files wire.TLSFiles) (message string, err error) {
	s, err := component.ReadSettings()
	if err != nil {
		return "", err
	}
	request, err := loadRequest()
	if err != nil {
		return "", component.Hopeless{Err: err}
	}
	address, err := s.MasterAt()
	if err != nil {
		return "", err
	}
	secure, err := s.TLS(files)
	if err != nil {
		return "", component.Hopeless{Err: err}
	}
	conn, err := wire.DialMasterTLS(address, secure)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	last, err := component.Load(ctx, wirepb.NewMasterClient(conn), request, logProgress())
	if err != nil {
		return "", err
	}
	if keeps := request.GetKeep(); keeps == wirepb.KeepAction_KEEP_ACTION_FREE || keeps == wirepb.KeepAction_KEEP_ACTION_UNPIN {
		return last.GetMessage(), nil
	}
	return fmt.Sprintf("cached %d bytes in %d files", last.GetBytesDone(), last.GetFilesDone()), nil
}

// exitCode is how the process ends with an error.
func exitCode(err error) int {
	if errors.As(err, &component.Hopeless{}) {
		return contract.LoadExitHopeless
	}
	return contract.LoadExitRetry
}

// logProgress logs how far the load is, now and then.
func logProgress() func(*wirepb.LoadProgress) {
	var logged time.Time
	return func(p *wirepb.LoadProgress) {
		if p.GetPhase() != contract.LoadRunning || time.Since(logged) >= progressEvery {
			logged = time.Now()
			slog.Info("load", "phase", p.GetPhase(), "message", p.GetMessage(), "bytesDone", p.GetBytesDone(), "bytesTotal", p.GetBytesTotal(),
				"filesDone", p.GetFilesDone(), "filesTotal", p.GetFilesTotal(), "filesFailed", p.GetFilesFailed(), "bytesPerSecond", p.GetBytesPerSecond())
		}
	}
}

// loadRequest reads the environment of a DataLoad: paths and their replicas are
// lists with colons.
func loadRequest() (*wirepb.LoadRequest, error) {
	r := &wirepb.LoadRequest{Id: os.Getenv(contract.EnvLoadID)}
	if r.GetId() == "" {
		return nil, fmt.Errorf("$%s is not set", contract.EnvLoadID)
	}
	if v := os.Getenv(contract.EnvDataLoadMetadata); v != "" {
		again, err := strconv.ParseBool(v)
		if err != nil {
			return nil, fmt.Errorf("$%s is %q, want true or false", contract.EnvDataLoadMetadata, v)
		}
		r.LoadMetadata = again
	}
	replicas := split(os.Getenv(contract.EnvDataLoadReplicas))
	for i, path := range split(os.Getenv(contract.EnvDataLoadPath)) {
		target := &wirepb.LoadTarget{Path: path}
		if i < len(replicas) {
			n, err := strconv.ParseInt(replicas[i], 10, 32)
			if err != nil {
				return nil, fmt.Errorf("$%s has %q, want a number", contract.EnvDataLoadReplicas, replicas[i])
			}
			target.Replicas = int32(n)
		}
		r.Targets = append(r.Targets, target)
	}
	return r, setOptions(r, os.Getenv(contract.EnvLoadOptions))
}

// setOptions reads spec.options of the DataLoad. What the engine does not know
// was told to its owner by the controller.
func setOptions(r *wirepb.LoadRequest, text string) error {
	if text == "" {
		return nil
	}
	var options map[string]string
	if err := json.Unmarshal([]byte(text), &options); err != nil {
		return fmt.Errorf("read $%s: %w", contract.EnvLoadOptions, err)
	}
	o, _, err := contract.ParseLoadOptions(options)
	if err != nil {
		return fmt.Errorf("spec.options.%w", err)
	}
	component.SetLoadOptions(r, o)
	return nil
}

func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ":")
}
