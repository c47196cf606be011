package command

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

func TestTheEnvironmentOfADataLoadBecomesARequest(t *testing.T) {
	t.Setenv(contract.EnvLoadID, "uid")
	t.Setenv(contract.EnvDataLoadMetadata, "true")
	t.Setenv(contract.EnvDataLoadPath, "/a b:/c")
	t.Setenv(contract.EnvDataLoadReplicas, "2:1")
	t.Setenv(contract.EnvLoadOptions, `{"bandwidth":"1Gi","keep":"pin","parallelism":"3","priority":"-1","threads":"4"}`)
	got, err := loadRequest()
	if err != nil {
		t.Fatal(err)
	}
	want := &wirepb.LoadRequest{Id: "uid", LoadMetadata: true, Targets: []*wirepb.LoadTarget{{Path: "/a b", Replicas: 2}, {Path: "/c", Replicas: 1}},
		BytesPerSecond: 1 << 30, Parallelism: 3, Priority: -1, Keep: wirepb.KeepAction_KEEP_ACTION_PIN}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	t.Setenv(contract.EnvLoadOptions, `{"keep":"it"}`)
	if _, err := loadRequest(); err == nil || !strings.Contains(err.Error(), "spec.options.keep") {
		t.Errorf("an option that is none: %v", err)
	}
}

func TestOnlyALiveMountIsReady(t *testing.T) {
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		if fuseReady(dir) == nil {
			t.Errorf("%s is ready", dir)
		}
	}
}
