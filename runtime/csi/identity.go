package csi

import (
	"context"
	"log/slog"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/millrace/millrace/apis/contract"
)

// identity says who the plugin is. It has no controller service: volumes are
// made by the Dataset controller as static PersistentVolumes.
type identity struct {
	csiapi.UnimplementedIdentityServer
	driver *Driver
}

func (i *identity) GetPluginInfo(context.Context, *csiapi.GetPluginInfoRequest) (*csiapi.GetPluginInfoResponse, error) {
	version := i.driver.Version
	if version == "" {
		version = "dev"
	}
	return &csiapi.GetPluginInfoResponse{Name: contract.CSIDriver, VendorVersion: version}, nil
}

func (i *identity) GetPluginCapabilities(context.Context, *csiapi.GetPluginCapabilitiesRequest) (*csiapi.GetPluginCapabilitiesResponse, error) {
	return &csiapi.GetPluginCapabilitiesResponse{}, nil
}

func (i *identity) Probe(context.Context, *csiapi.ProbeRequest) (*csiapi.ProbeResponse, error) {
	return &csiapi.ProbeResponse{Ready: wrapperspb.Bool(i.driver.serving.Load())}, nil
}

// registrar introduces the plugin to the kubelet's plugin watcher.
type registrar struct {
	registerapi.UnimplementedRegistrationServer
	endpoint string
	log      *slog.Logger
}

func (r *registrar) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{
		Type:              registerapi.CSIPlugin,
		Name:              contract.CSIDriver,
		Endpoint:          r.endpoint,
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (r *registrar) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	if s.PluginRegistered {
		r.log.Info("registered with the kubelet")
	} else {
		r.log.Error("the kubelet refused the plugin", "err", s.Error)
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}
