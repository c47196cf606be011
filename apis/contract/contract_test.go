package contract_test

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/apis/contract"
)

// What users' manifests, scripts and dashboards see of Fluid, byte by byte.
func TestStringsThatFluidsUsersDependOn(t *testing.T) {
	const uid = "0b5e5ad2-2f6c-4a38-9d6b-6f4f4b3f0c11"
	long := strings.Repeat("x", 50)
	for want, got := range map[string]string{
		"fluid.io/s-default-hbase":               contract.DatasetLabel("default", "hbase", uid),
		"fluid.io/s-" + uid:                      contract.DatasetLabel("default", long, uid),
		"fluid.io/s-alluxio-default-hbase":       contract.RuntimeNodeLabel(contract.RuntimeAlluxio, "default", "hbase", uid),
		"fluid.io/s-h-alluxio-m-default-hbase":   contract.CapacityNodeLabel(contract.RuntimeAlluxio, contract.MediumMemory, "default", "hbase", uid),
		"fluid.io/s-h-cache-t-default-hbase":     contract.CapacityNodeLabel(contract.RuntimeCache, contract.MediumTotal, "default", "hbase", uid),
		"fluid.io/f-default-hbase":               contract.FuseNodeLabel("default", "hbase", uid),
		"default-hbase":                          contract.PVName("default", "hbase"),
		"default_hbase":                          contract.ExclusiveValue("default", "hbase"),
		"/runtime-mnt/cache/ns/n/cache-fuse":     contract.FuseMountPath(contract.DefaultMountRoot, contract.RuntimeCache, "ns", "n"),
		"/runtime-mnt/alluxio/ns/n/alluxio-fuse": contract.FuseMountPath(contract.DefaultMountRoot, contract.RuntimeAlluxio, "ns", "n"),
		"n-client":                               contract.ClientName(contract.RuntimeCache, "n"),
		"n-fuse":                                 contract.ClientName(contract.RuntimeAlluxio, "n"),
		"svc-n-master":                           contract.ServiceName(contract.MasterName("n")),
		"fluid-runtime-config-n":                 contract.ConfigMapName("n"),
		"l-loader-job":                           contract.LoaderJobName("l"),
		"fluid.io/dataset.d.sched":               contract.DatasetSchedLabel("d"),
		"alluxio-runtime-controller-finalizer":   contract.RuntimeFinalizer(contract.RuntimeAlluxio),
		"/etc/fluid/secrets/s/k":                 contract.SecretPath("s", "k"),
		"/etc/fluid/hadoop/site":                 contract.HadoopConfigPath("site"),
		"/etc/fluid/mount/tiered-store/level-0-index-1-hostpath": contract.HostPathTierDir(0, 1),
		"/etc/fluid/mount/tiered-store/level-2-index-0-emptydir": contract.EmptyDirTierDir(2),
		"/etc/fluid/config/runtime.json":                         contract.RuntimeConfigPath,
		"fuse.csi.fluid.io":                                      contract.CSIDriver,
		"/mutate-fluid-io-v1alpha1-schedulepod":                  contract.WebhookPath,
		"serverless.fluid.io/inject":                             contract.LabelServerlessFuse,
		"done.sidecar.fluid.io/inject":                           contract.LabelInjectDone,
		"fluid.io/datasets-in-use":                               contract.AnnotationDatasetsInUse,
		"unprivileged.sidecar.fluid.io/inject":                   contract.LabelUnprivilegedSidecar,
		"cachedir.sidecar.fluid.io/inject":                       contract.LabelCacheDirSidecar,
		"app.poststart.fluid.io/inject":                          contract.LabelAppPostStart,
		"fuse.sidecar.poststart.fluid.io/inject":                 contract.LabelFusePostStart,
		"file-prefetcher.fluid.io/inject":                        contract.AnnotationPrefetch,
	} {
		if got != want {
			t.Errorf("%q must be %q", got, want)
		}
	}
}

func TestRuntimeJSONIsCompactAndKeepsFluidsNames(t *testing.T) {
	c := contract.RuntimeConfig{
		Mounts:      []contract.MountConfig{{MountPoint: "s3://b", Options: map[string]string{"o": "v"}, EncryptOptions: map[string]string{"k": "/etc/fluid/secrets/s/k"}, Name: "b", Path: "/"}},
		AccessModes: []string{"ReadOnlyMany"},
		TargetPath:  "/runtime-mnt/cache/ns/n/cache-fuse",
		Worker: contract.ComponentConfig{Enabled: true, Name: "n-worker", Replicas: 2, Service: contract.ServiceConfig{Name: "svc-n-worker"},
			TieredStoreLevels: []contract.TierConfig{{MountPaths: []string{"/dev/shm"}, MediumType: contract.TierMEM, Quotas: []string{"2Gi"}, High: "0.95", Low: "0.7"}}},
	}
	c.Egress = &contract.EgressConfig{Allow: []string{"127.0.0.0/8"}}
	got, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"mounts":[{"mountPoint":"s3://b","options":{"o":"v"},"encryptOptions":{"k":"/etc/fluid/secrets/s/k"},"name":"b","path":"/"}],"accessModes":["ReadOnlyMany"],"targetPath":"/runtime-mnt/cache/ns/n/cache-fuse","master":{"enabled":false,"service":{}},"worker":{"enabled":true,"name":"n-worker","replicas":2,"service":{"name":"svc-n-worker"},"tieredStoreLevels":[{"mountPaths":["/dev/shm"],"mediumType":"MEM","quotas":["2Gi"],"high":"0.95","low":"0.7"}]},"client":{"enabled":false,"service":{}},"egress":{"allow":["127.0.0.0/8"]}}`
	if string(got) != want {
		t.Errorf("encoded\n%s\nwant\n%s", got, want)
	}
}

func TestSourcesThatAreDirectoriesInThePods(t *testing.T) {
	for mountPoint, want := range map[string]string{
		"pvc://claim":           "/underFSStorage/pvc/claim",
		"pvc://claim/sub/dir/":  "/underFSStorage/pvc/claim/sub/dir",
		"pvc://claim/../escape": "/underFSStorage/pvc/claim/escape",
		"local:///data/x":       "/underFSStorage/local/data/x",
		"local://data/../x":     "/underFSStorage/local/x",
		"s3://bucket":           "",
		"pvc://":                "",
	} {
		if got, ok := contract.SourceDir(mountPoint); got != want || ok != (want != "") {
			t.Errorf("%s is %q, %v", mountPoint, got, ok)
		}
	}
	for in, want := range map[[2]string]string{{"/", "n"}: "/", {"", "n"}: "/n", {"rel", "n"}: "/n", {"/a/b/", "n"}: "/a/b"} {
		if got := contract.MountPath(in[0], in[1]); got != want {
			t.Errorf("path %q and name %q appear at %s", in[0], in[1], got)
		}
	}
}

func TestReferencesToDatasets(t *testing.T) {
	for mountPoint, want := range map[string]contract.Reference{
		"dataset://ns/name":              {Namespace: "ns", Name: "name"},
		"dataset://ns/name/":             {Namespace: "ns", Name: "name"},
		"dataset://ns/name/a/b/":         {Namespace: "ns", Name: "name", Sub: "a/b"},
		"dataset://ns/name/../../x":      {Namespace: "ns", Name: "name", Sub: "x"},
		"dataset://ns/name//a/./b/../c/": {Namespace: "ns", Name: "name", Sub: "a/c"},
	} {
		if got, ok := contract.ParseReference(mountPoint); !ok || got != want {
			t.Errorf("%s is %+v, want %+v", mountPoint, got, want)
		}
	}
	if _, ok := contract.ParseReference("s3://ns/name"); ok {
		t.Error("a bucket was taken for a Dataset")
	}
}
