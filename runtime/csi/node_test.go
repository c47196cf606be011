package csi_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/csi"
	"github.com/millrace/millrace/runtime/fuse/fusetest"
)

var content = fusetest.Content{
	"hello":         {Data: []byte("world")},
	"sub/inner":     {Data: []byte("inside")},
	"sub/deep/file": {Data: []byte("deeper")},
	"way-out":       {Link: "/etc"},
	"sneaky":        {Link: "../../../../../../etc"},
	"way-in":        {Link: "sub/deep"},
}

func wantCode(t *testing.T, err error, want codes.Code, mentions ...string) {
	t.Helper()
	if status.Code(err) != want {
		t.Fatalf("got %v, want code %s", err, want)
	}
	for _, m := range mentions {
		if !strings.Contains(err.Error(), m) {
			t.Errorf("the message %q does not mention %q", err, m)
		}
	}
}

func TestPublishAsksForTheFUSEAndBindsItWhenItIsThere(t *testing.T) {
	s := start(t)
	target := s.target("pod-1")
	published := make(chan error, 1)
	go func() { published <- s.publish(target, nil) }()
	s.eventually("the node is labelled", func() bool {
		node, err := admin.CoreV1().Nodes().Get(t.Context(), s.name, metav1.GetOptions{})
		return err == nil && node.Labels[label] == "true"
	})
	select {
	case err := <-published:
		t.Fatalf("published before there was a FUSE: %v", err)
	default:
	}
	s.mountFUSE(s.fusePath(), content)
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	s.wantFile(filepath.Join(target, "hello"), "world")
	if err := os.WriteFile(filepath.Join(target, "new"), nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Errorf("write: %v, want EROFS", err)
	}
	s.mustPublish(target, nil) // once more changes nothing
	s.wantFile(filepath.Join(target, "hello"), "world")
	s.mustUnpublish(target)
	s.mustUnpublish(target) // once more changes nothing
	s.wantFile(filepath.Join(s.fusePath(), "hello"), "world")
}

func TestPublishWaitsThroughADeadFUSEForALiveOne(t *testing.T) {
	s := start(t)
	s.mountDead(s.fusePath())
	target := s.target("pod-1")
	published := make(chan error, 1)
	go func() { published <- s.publish(target, nil) }()
	s.mountFUSE(s.fusePath(), content)
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	s.wantFile(filepath.Join(target, "hello"), "world")
}

func TestPublishReplacesADeadFUSEAtTheTarget(t *testing.T) {
	s := start(t)
	target := s.target("pod-1")
	s.mountDead(target)
	s.mountDead(target)
	s.mountFUSE(s.fusePath(), content)
	s.mustPublish(target, nil)
	s.wantFile(filepath.Join(target, "hello"), "world")
	s.mustUnpublish(target)
}

func TestPublishSaysWhatItWaitedFor(t *testing.T) {
	s := start(t, func(c *csi.Config) { c.PublishTimeout = 300 * time.Millisecond })
	err := s.publish(s.target("pod-1"), nil)
	wantCode(t, err, codes.DeadlineExceeded, "ns/data", s.fusePath(), s.name, label, "nothing is mounted there")
	s.mountDead(s.fusePath())
	err = s.publish(s.target("pod-1"), nil)
	wantCode(t, err, codes.DeadlineExceeded, "transport endpoint is not connected")
}

func TestPublishEndsWithItsCall(t *testing.T) {
	s := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	target := s.target("pod-1")
	_, err := s.node.NodePublishVolume(ctx, s.request(target, nil))
	wantCode(t, err, codes.DeadlineExceeded)
	s.mountFUSE(s.fusePath(), content)
	// The former call gives its target free as soon as it notices.
	s.eventually("the target can be published", func() bool { return status.Code(s.publish(target, nil)) == codes.OK })
}

func TestPublishOfASubPath(t *testing.T) {
	s := start(t)
	s.mountFUSE(s.fusePath(), content)
	for what, tc := range map[string]struct {
		sub  string
		file string
		want string
	}{
		"a directory":              {"sub", "deep/file", "deeper"},
		"a directory with slashes": {"/sub/deep/", "file", "deeper"},
		"a link that stays inside": {"way-in", "file", "deeper"},
		"a single file":            {"sub/inner", "", "inside"},
	} {
		t.Run(what, func(t *testing.T) {
			target := s.target(strings.ReplaceAll(what, " ", "-"))
			s.mustPublish(target, map[string]string{contract.AttrSubPath: tc.sub})
			s.wantFile(filepath.Join(target, tc.file), tc.want)
			s.mustUnpublish(target)
		})
	}
}

func TestPublishNeverLeadsOutOfTheVolume(t *testing.T) {
	s := start(t)
	s.mountFUSE(s.fusePath(), content)
	for _, sub := range []string{"way-out", "sneaky", "way-out/ssl"} {
		for _, method := range []string{"", contract.PublishMethodSymlink} {
			target := s.target("pod-" + strings.ReplaceAll(sub, "/", "-") + method)
			err := s.publish(target, map[string]string{contract.AttrSubPath: sub, contract.AttrNodePublishMethod: method})
			wantCode(t, err, codes.InvalidArgument, contract.AttrSubPath, sub)
		}
	}
	err := s.publish(s.target("pod-none"), map[string]string{contract.AttrSubPath: "not/there"})
	wantCode(t, err, codes.NotFound, "not/there")
}

func TestPublishAsALink(t *testing.T) {
	s := start(t)
	s.mountFUSE(s.fusePath(), content)
	target := s.target("pod-1")
	if err := os.Mkdir(target, 0o750); err != nil { // the kubelet may have made it
		t.Fatal(err)
	}
	attrs := map[string]string{contract.AttrNodePublishMethod: contract.PublishMethodSymlink, contract.AttrSubPath: "sub"}
	s.mustPublish(target, attrs)
	s.mustPublish(target, attrs)
	if to, err := os.Readlink(target); err != nil || to != filepath.Join(s.fusePath(), "sub") {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	s.wantFile(filepath.Join(target, "inner"), "inside")
	s.mustUnpublish(target)
	s.wantFile(filepath.Join(s.fusePath(), "hello"), "world")
}

func TestBadVolumeAttributesAreNamed(t *testing.T) {
	s := start(t)
	for what, tc := range map[string]struct {
		attrs map[string]string
		names string
	}{
		"no path":               {map[string]string{contract.AttrFluidPath: ""}, contract.AttrFluidPath},
		"a path elsewhere":      {map[string]string{contract.AttrFluidPath: "/etc"}, contract.AttrFluidPath},
		"the mount root itself": {map[string]string{contract.AttrFluidPath: s.root}, contract.AttrFluidPath},
		"a path with dots":      {map[string]string{contract.AttrFluidPath: s.root + "/x/../../etc"}, contract.AttrFluidPath},
		"a sub path with dots":  {map[string]string{contract.AttrSubPath: "a/../../b"}, contract.AttrSubPath},
		"a label of others":     {map[string]string{contract.AttrFuseNodeLabel: "node-role.kubernetes.io/control-plane"}, contract.AttrFuseNodeLabel},
		"no label at all":       {map[string]string{contract.AttrFuseNodeLabel: "fluid.io/f-a b"}, contract.AttrFuseNodeLabel},
		"an unknown method":     {map[string]string{contract.AttrNodePublishMethod: "teleport"}, contract.AttrNodePublishMethod},
	} {
		t.Run(what, func(t *testing.T) {
			wantCode(t, s.publish(s.target("pod-1"), tc.attrs), codes.InvalidArgument, tc.names)
		})
	}
	wantCode(t, s.publish("/etc/target", nil), codes.InvalidArgument, "target_path")
	wantCode(t, s.unpublish("/etc"), codes.InvalidArgument, "target_path")
	wantCode(t, s.unpublish(s.kubeletDir+"/../../etc"), codes.InvalidArgument, "target_path")
}

func TestUnpublishTakesAwayEveryLayerOfADeadFUSE(t *testing.T) {
	s := start(t)
	target := s.target("pod-1")
	s.mountDead(target)
	s.mountDead(target)
	s.mountSilent(target) // the topmost hangs
	s.mustUnpublish(target)
}

func TestUnpublishWorksWhileTheVolumeIsInUse(t *testing.T) {
	s := start(t)
	s.mountFUSE(s.fusePath(), content)
	target := s.target("pod-1")
	s.mustPublish(target, nil)
	f, err := os.Open(filepath.Join(target, "hello"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s.mustUnpublish(target)
}

func TestStatsTellTheSizeOfTheDataset(t *testing.T) {
	s := start(t)
	s.mountFUSE(s.fusePath(), fusetest.Content{"f": {Data: make([]byte, 8192)}})
	target := s.target("pod-1")
	s.mustPublish(target, nil)
	stats, err := s.node.NodeGetVolumeStats(t.Context(), &csiapi.NodeGetVolumeStatsRequest{VolumeId: "ns-data", VolumePath: target})
	if err != nil {
		t.Fatal(err)
	}
	if got := stats.Usage[0]; got.Unit != csiapi.VolumeUsage_BYTES || got.Total != 8192 || got.Used != 8192 {
		t.Errorf("usage %v, want 8192 bytes", got)
	}
	if got := stats.Usage[1]; got.Unit != csiapi.VolumeUsage_INODES || got.Total != 1 {
		t.Errorf("usage %v, want 1 file", got)
	}
}

func TestStatsOfAHungFUSEEndInTime(t *testing.T) {
	s := start(t, func(c *csi.Config) { c.ProbeTimeout = 100 * time.Millisecond })
	target := s.target("pod-1")
	kill := s.mountSilent(target)
	for range 3 { // asking again does not pile up threads
		_, err := s.node.NodeGetVolumeStats(t.Context(), &csiapi.NodeGetVolumeStatsRequest{VolumeId: "ns-data", VolumePath: target})
		wantCode(t, err, codes.Unavailable, "does not answer")
	}
	kill()
	s.eventually("the FUSE is dead", func() bool {
		_, err := s.node.NodeGetVolumeStats(t.Context(), &csiapi.NodeGetVolumeStatsRequest{VolumeId: "ns-data", VolumePath: target})
		return err != nil && strings.Contains(err.Error(), unix.ENOTCONN.Error())
	})
}

func TestThePluginIntroducesItselfToTheKubelet(t *testing.T) {
	s := start(t)
	conn := dial(t, filepath.Join(s.kubeletDir, "plugins_registry", contract.CSIDriver+"-reg.sock"))
	registration := registerapi.NewRegistrationClient(conn)
	info, err := registration.GetInfo(t.Context(), &registerapi.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if info.Type != registerapi.CSIPlugin || info.Name != "fuse.csi.fluid.io" || info.Endpoint != s.socket() {
		t.Errorf("info %v", info)
	}
	if _, err := registration.NotifyRegistrationStatus(t.Context(), &registerapi.RegistrationStatus{PluginRegistered: true}); err != nil {
		t.Error(err)
	}
}
