package csi_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestSanity runs the identity and node parts of csi-sanity, with a real FUSE
// to publish. The plugin has no controller service; the suite gets its volumes
// from a stub that stands for the Dataset controller, and is not itself tested.
func TestSanity(t *testing.T) {
	s := start(t)
	s.mountFUSE(s.fusePath(), content)
	controller := filepath.Join(s.kubeletDir, "c.sock")
	listener, err := net.Listen("unix", controller)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	csiapi.RegisterControllerServer(server, &stubController{attrs: s.request("", nil).VolumeContext})
	// The suite asks the controller's socket who the plugin is.
	csiapi.RegisterIdentityServer(server, &relay{plugin: csiapi.NewIdentityClient(s.conn)})
	ended := make(chan error)
	go func() { ended <- server.Serve(listener) }()
	defer func() {
		server.Stop()
		<-ended
	}()

	config := sanity.NewTestConfig()
	config.TargetPath = filepath.Join(s.kubeletDir, "sanity-target")
	config.StagingPath = filepath.Join(s.kubeletDir, "sanity-staging")
	suite := sanity.GinkgoTest(&config)
	// The suite is given connections and no addresses: its own way to connect
	// waits a minute for a change of state, in vain where the connection was
	// ready before it looked.
	suite.Conn, suite.ControllerConn = dial(t, s.socket()), dial(t, controller)
	defer suite.Finalize()
	gomega.RegisterFailHandler(ginkgo.Fail)
	run, report := ginkgo.GinkgoConfiguration()
	run.SkipStrings = []string{"Controller Service", "GroupController", "Snapshot", "ExpandVolume", "ModifyVolume"}
	report.Succinct, report.NoColor = true, true
	ginkgo.RunSpecs(t, "csi-sanity: identity and node", run, report)
}

// relay passes the suite's questions on to the plugin.
type relay struct {
	csiapi.UnimplementedIdentityServer
	plugin csiapi.IdentityClient
}

func (r *relay) GetPluginInfo(ctx context.Context, req *csiapi.GetPluginInfoRequest) (*csiapi.GetPluginInfoResponse, error) {
	return r.plugin.GetPluginInfo(ctx, req)
}

func (r *relay) GetPluginCapabilities(ctx context.Context, req *csiapi.GetPluginCapabilitiesRequest) (*csiapi.GetPluginCapabilitiesResponse, error) {
	return r.plugin.GetPluginCapabilities(ctx, req)
}

func (r *relay) Probe(ctx context.Context, req *csiapi.ProbeRequest) (*csiapi.ProbeResponse, error) {
	return r.plugin.Probe(ctx, req)
}

// stubController hands out the one volume of this node.
type stubController struct {
	csiapi.UnimplementedControllerServer
	attrs map[string]string
}

func (c *stubController) ControllerGetCapabilities(context.Context, *csiapi.ControllerGetCapabilitiesRequest) (*csiapi.ControllerGetCapabilitiesResponse, error) {
	return &csiapi.ControllerGetCapabilitiesResponse{Capabilities: []*csiapi.ControllerServiceCapability{{
		Type: &csiapi.ControllerServiceCapability_Rpc{Rpc: &csiapi.ControllerServiceCapability_RPC{
			Type: csiapi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		}},
	}}}, nil
}

func (c *stubController) CreateVolume(_ context.Context, req *csiapi.CreateVolumeRequest) (*csiapi.CreateVolumeResponse, error) {
	if req.GetName() == "" {
		return nil, status.Error(codes.InvalidArgument, "name is missing")
	}
	return &csiapi.CreateVolumeResponse{Volume: &csiapi.Volume{VolumeId: req.GetName(), VolumeContext: c.attrs}}, nil
}

func (c *stubController) DeleteVolume(context.Context, *csiapi.DeleteVolumeRequest) (*csiapi.DeleteVolumeResponse, error) {
	return &csiapi.DeleteVolumeResponse{}, nil
}
