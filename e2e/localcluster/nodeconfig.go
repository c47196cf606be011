package localcluster

import (
	"fmt"
)

// Paths inside a node.
const (
	nodeFiles        = "/opt/node"
	nodeBin          = "/opt/bin"
	containerdSocket = "/run/containerd/containerd.sock"
	pauseImage       = "docker.io/local/pause:dev"
)

// cniConfig gives each pod a veth of its own to the node (ptp): what pods say to
// each other always passes the node's routing, where services are translated.
func cniConfig(subnet string) []byte {
	return fmt.Appendf(nil, `{
  "cniVersion": "1.0.0", "name": "pods",
  "plugins": [
    {"type": "ptp", "ipMasq": false, "mtu": 1500,
     "ipam": {"type": "host-local", "dataDir": "/var/lib/cni/networks", "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}`, subnet)
}

// containerdConfig: restrict_oom_score_adj because a machine may lack
// CAP_SYS_RESOURCE, without which runc cannot lower a score.
func containerdConfig() []byte {
	return fmt.Appendf(nil, `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = %q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "%s/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
`, containerdSocket, pauseImage, nodeFiles)
}

func kubeletConfig(cgroup, dns string) []byte {
	return fmt.Appendf(nil, `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: %[1]s/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: %[1]s/serving.crt
tlsPrivateKeyFile: %[1]s/serving.key
cgroupDriver: cgroupfs
cgroupRoot: /%[2]s
clusterDNS: [%[3]s]
clusterDomain: cluster.local
resolvConf: %[1]s/resolv.conf
containerRuntimeEndpoint: unix://%[4]s
configMapAndSecretChangeDetectionStrategy: Watch
enforceNodeAllocatable: []
evictionHard: {memory.available: 100Mi, nodefs.available: 1%%, imagefs.available: 1%%}
failCgroupV1: false
failSwapOn: false
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
localStorageCapacityIsolation: false
maxPods: 200
nodeStatusUpdateFrequency: 5s
serializeImagePulls: false
shutdownGracePeriod: 0s
volumePluginDir: /var/lib/kubelet/volume-plugins
registryPullQPS: 0
`, nodeFiles, cgroup, dns, containerdSocket)
}
