package csi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/millrace/millrace/apis/contract"
)

// node publishes volumes on this node.
type node struct {
	csiapi.UnimplementedNodeServer
	*Driver
}

func (n *node) NodeGetInfo(context.Context, *csiapi.NodeGetInfoRequest) (*csiapi.NodeGetInfoResponse, error) {
	return &csiapi.NodeGetInfoResponse{NodeId: n.NodeName}, nil
}

func (n *node) NodeGetCapabilities(context.Context, *csiapi.NodeGetCapabilitiesRequest) (*csiapi.NodeGetCapabilitiesResponse, error) {
	return &csiapi.NodeGetCapabilitiesResponse{Capabilities: []*csiapi.NodeServiceCapability{{
		Type: &csiapi.NodeServiceCapability_Rpc{Rpc: &csiapi.NodeServiceCapability_RPC{
			Type: csiapi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		}},
	}}}, nil
}

// NodePublishVolume asks for the FUSE pod, waits for its mount and binds it at
// the target. It may be called again at any time, after success as well.
func (n *node) NodePublishVolume(ctx context.Context, req *csiapi.NodePublishVolumeRequest) (*csiapi.NodePublishVolumeResponse, error) {
	if err := n.checkTarget(req.GetVolumeId(), req.GetTargetPath()); err != nil {
		return nil, err
	}
	if req.GetVolumeCapability() == nil {
		return nil, status.Error(codes.InvalidArgument, "volume_capability is missing")
	}
	if req.GetVolumeCapability().GetBlock() != nil {
		return nil, status.Error(codes.InvalidArgument, "volume_capability: a Dataset is a file system, not a block device")
	}
	v, err := parseVolume(req.GetVolumeContext(), n.MountRoot)
	if err != nil {
		return nil, err
	}
	unlock, ok := n.targets.try(req.GetTargetPath())
	if !ok {
		return nil, status.Errorf(codes.Aborted, "another call is working on %s", req.GetTargetPath())
	}
	defer unlock()

	if err := n.askForFUSE(ctx, v.label); err != nil {
		return nil, err
	}
	fuse, err := n.awaitFUSE(ctx, v)
	if err != nil {
		return nil, err
	}
	if v.symlink {
		err = publishLink(v, req.GetTargetPath())
	} else {
		err = n.publishBind(ctx, v, fuse, req.GetTargetPath(), readOnly(req))
	}
	switch {
	case errors.Is(err, unix.EXDEV): // what openat2 says of a path that leads out
		return nil, invalid(contract.AttrSubPath, "%q leads out of the volume", v.sub)
	case errors.Is(err, os.ErrNotExist):
		return nil, status.Errorf(codes.NotFound, "publish %s of %s: %v", v.sub, v.path, err)
	case err != nil:
		return nil, status.Errorf(codes.Internal, "publish %s: %v", v.path, err)
	}
	return &csiapi.NodePublishVolumeResponse{}, nil
}

// checkTarget keeps every mount and removal below the kubelet's directory.
func (n *node) checkTarget(volumeID, target string) error {
	if volumeID == "" {
		return status.Error(codes.InvalidArgument, "volume_id is missing")
	}
	if target == "" {
		return status.Error(codes.InvalidArgument, "target_path is missing")
	}
	if filepath.Clean(target) != target || !below(target, n.KubeletDir) {
		return status.Errorf(codes.InvalidArgument, "target_path %q is not a clean path below %s", target, n.KubeletDir)
	}
	return nil
}

func readOnly(req *csiapi.NodePublishVolumeRequest) bool {
	switch req.GetVolumeCapability().GetAccessMode().GetMode() {
	case csiapi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY,
		csiapi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:
		return true
	}
	return req.GetReadonly()
}

// askForFUSE labels the node; the DaemonSet of the Dataset's FUSE pods selects
// nodes by that label. A patch that changes nothing costs the API server little.
func (n *node) askForFUSE(ctx context.Context, label string) error {
	if label == "" {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]string{label: "true"}}})
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	if _, err := n.Client.CoreV1().Nodes().Patch(ctx, n.NodeName, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return status.Errorf(codes.Unavailable, "label node %s with %s: %v", n.NodeName, label, err)
	}
	return nil
}

func (n *node) awaitFUSE(ctx context.Context, v volume) (*mountinfo.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, n.PublishTimeout)
	defer cancel()
	fuse, err := n.probes.awaitFUSE(ctx, v.path)
	if err == nil {
		return fuse, nil
	}
	if ctx.Err() == nil {
		return nil, status.Errorf(codes.Internal, "wait for the FUSE at %s: %v", v.path, err)
	}
	return nil, status.Errorf(codes.DeadlineExceeded,
		"no FUSE of runtime %s serves %s on node %s yet (%v); look at the FUSE pod that node label %q selects",
		v.runtime, v.path, n.NodeName, err, v.label)
}

// publishBind binds the FUSE, or a directory in it, at the target. A mount of
// the same FUSE is left alone; a dead or other one is replaced.
func (n *node) publishBind(ctx context.Context, v volume, fuse *mountinfo.Info, target string, readOnly bool) error {
	former, err := topAt(target)
	if err != nil {
		return err
	}
	if former != nil {
		if former.Major == fuse.Major && former.Minor == fuse.Minor {
			if _, err := n.probes.statfs(ctx, target); err == nil {
				return nil
			}
		}
		if err := detachAll(target); err != nil {
			return err
		}
	}
	source, err := openInside(v.path, v.sub)
	if err != nil {
		return fmt.Errorf("open the source: %w", err)
	}
	defer source.Close()
	st, err := source.Stat()
	if err != nil {
		return fmt.Errorf("stat the source: %w", err)
	}
	if err := makeTarget(target, st.IsDir()); err != nil {
		return fmt.Errorf("make the target: %w", err)
	}
	return bind(source, target, readOnly)
}

// publishLink makes the target a symbolic link to the FUSE on the host.
func publishLink(v volume, target string) error {
	at, err := openInside(v.path, v.sub)
	if err != nil {
		return fmt.Errorf("open the source: %w", err)
	}
	// The link says where the path leads to now, without links of the Dataset.
	source, err := os.Readlink(place(at))
	at.Close()
	if err != nil {
		return err
	}
	if err := detachAll(target); err != nil {
		return err
	}
	if former, err := os.Readlink(target); err == nil && former == source {
		return nil
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	return os.Symlink(source, target)
}

// NodeUnpublishVolume takes every layer off the target, dead ones as well, and
// removes it. The node label stays for as long as the runtime does, so that the
// next pod finds its FUSE warm.
func (n *node) NodeUnpublishVolume(_ context.Context, req *csiapi.NodeUnpublishVolumeRequest) (*csiapi.NodeUnpublishVolumeResponse, error) {
	target := req.GetTargetPath()
	if err := n.checkTarget(req.GetVolumeId(), target); err != nil {
		return nil, err
	}
	unlock, ok := n.targets.try(target)
	if !ok {
		return nil, status.Errorf(codes.Aborted, "another call is working on %s", target)
	}
	defer unlock()
	if err := detachAll(target); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, status.Errorf(codes.Internal, "remove the target: %v", err)
	}
	return &csiapi.NodeUnpublishVolumeResponse{}, nil
}

// NodeGetVolumeStats gives the bytes and files of the Dataset. It answers in
// bounded time, whatever the FUSE does.
func (n *node) NodeGetVolumeStats(ctx context.Context, req *csiapi.NodeGetVolumeStatsRequest) (*csiapi.NodeGetVolumeStatsResponse, error) {
	path := req.GetVolumePath()
	if req.GetVolumeId() == "" {
		return nil, status.Error(codes.InvalidArgument, "volume_id is missing")
	}
	if path == "" {
		return nil, status.Error(codes.InvalidArgument, "volume_path is missing")
	}
	st, err := n.probes.statfs(ctx, path)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return nil, status.Errorf(codes.NotFound, "no volume at %s", path)
	case err != nil:
		return nil, status.Errorf(codes.Unavailable, "statfs %s: %v", path, err)
	}
	total, free := int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
	return &csiapi.NodeGetVolumeStatsResponse{Usage: []*csiapi.VolumeUsage{
		{Unit: csiapi.VolumeUsage_BYTES, Total: total, Available: free, Used: total - free},
		{Unit: csiapi.VolumeUsage_INODES, Total: int64(st.Files), Available: int64(st.Ffree), Used: int64(st.Files - st.Ffree)},
	}}, nil
}
