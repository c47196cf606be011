package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/component"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

const (
	// masterWait is for how long a master that does not answer is waited for.
	masterWait = 10 * time.Minute
	// progressEvery is how often the log tells how far the load is.
	progressEvery = 5 * time.Second
)

func loadCommand() *cobra.Command {
	var termination string
	c := &cobra.Command{
		Use:   "load",
		Short: "Bring targets into the cache, as $" + contract.EnvDataLoadPath + " says, and wait for the end",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			message, err := runLoad(cmd.Context())
			if err != nil {
				message = err.Error()
			}
			// Only a kubelet makes this file.
			if f, e := os.OpenFile(termination, os.O_WRONLY|os.O_TRUNC, 0); e == nil {
				_, _ = f.WriteString(message)
				_ = f.Close()
			}
			return err
		},
	}
	c.Flags().StringVar(&termination, "termination-log", "/dev/termination-log", "file that takes the final message, if it exists")
	return c
}

func runLoad(ctx context.Context) (message string, err error) {
	s, err := component.ReadSettings()
	if err != nil {
		return "", err
	}
	request, err := loadRequest()
	if err != nil {
		return "", err
	}
	address, err := s.MasterAt()
	if err != nil {
		return "", err
	}
	conn, err := wire.DialMaster(address)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	client := wirepb.NewMasterClient(conn)
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = 200*time.Millisecond, 10*time.Second
	for silent := time.Now(); ; {
		last, err := follow(ctx, client, request)
		switch {
		case ctx.Err() != nil:
			return "", fmt.Errorf("load %s: stopped: %w", request.GetId(), ctx.Err())
		case last != nil && last.GetPhase() == contract.LoadFailed:
			return "", hopeless{errors.New(last.GetMessage())}
		case last != nil && last.GetPhase() == contract.LoadComplete:
			return fmt.Sprintf("cached %d bytes in %d files", last.GetBytesDone(), last.GetFilesDone()), nil
		case last != nil:
			silent = time.Now() // it was there, and goes on when it is back
			retry.Reset()
		case fatal(err):
			return "", hopeless{fmt.Errorf("load %s: %w", request.GetId(), err)}
		}
		if time.Since(silent) > masterWait {
			return "", fmt.Errorf("master %s does not answer: %w", address, err)
		}
		slog.Warn("master does not answer, trying again", "master", address, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(retry.NextBackOff()):
		}
	}
}

// hopeless is an error that another try with the same load would meet again.
type hopeless struct{ error }

// exitCode is how the process ends with an error.
func exitCode(err error) int {
	if errors.As(err, &hopeless{}) {
		return contract.LoadExitHopeless
	}
	return contract.LoadExitRetry
}

// fatal tells whether asking again cannot help.
func fatal(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.Unimplemented:
		return true
	}
	return false
}

// follow starts or joins the load and logs its progress until the stream ends.
func follow(ctx context.Context, client wirepb.MasterClient, r *wirepb.LoadRequest) (last *wirepb.LoadProgress, err error) {
	stream, err := client.Load(ctx, r)
	if err != nil {
		return nil, err
	}
	var logged time.Time
	for {
		p, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return last, nil
		}
		if err != nil {
			return last, err
		}
		last = p
		if p.GetPhase() != contract.LoadRunning || time.Since(logged) >= progressEvery {
			logged = time.Now()
			slog.Info("load", "phase", p.GetPhase(), "message", p.GetMessage(), "bytesDone", p.GetBytesDone(), "bytesTotal", p.GetBytesTotal(),
				"filesDone", p.GetFilesDone(), "filesTotal", p.GetFilesTotal(), "bytesPerSecond", p.GetBytesPerSecond())
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
	return r, nil
}

func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ":")
}
