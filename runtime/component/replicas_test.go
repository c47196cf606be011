package component

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/posix"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// TestTheNumberOfOwnersIsThatOfTheRuntime follows data.replicas from runtime.json
// to those who place stripes.
func TestTheNumberOfOwnersIsThatOfTheRuntime(t *testing.T) {
	config, err := contract.DecodeRuntimeConfig([]byte(`{"mounts":[{"mountPoint":"local:///x","path":"/"}],"worker":{"options":{"data.replicas":"3"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	dir, at := t.TempDir(), freeAddress(t)
	s := &Settings{RuntimeConfig: config, Name: "master", OpenSource: func(context.Context, source.Config) (source.Store, error) {
		return posix.Open(dir, "local:///x")
	}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- RunMaster(ctx, s, NewRegistry(s), MasterPlace{RPC: at}) }()
	defer func() {
		cancel()
		<-done
	}()
	conn, err := wire.DialMaster(at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	deadline, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	stream, err := wirepb.NewMasterClient(conn).Watch(deadline, &wirepb.WatchRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	for {
		event, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m := event.GetMembers(); m != nil {
			if m.GetReplicas() != 3 {
				t.Errorf("%d owners of each stripe", m.GetReplicas())
			}
			return
		}
	}
}
