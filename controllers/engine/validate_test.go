package engine

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/millrace/millrace/apis/contract"
)

func TestWhatPodsWouldFailOfIsNamed(t *testing.T) {
	memory := Tier{Medium: contract.TierMEM, Dirs: []TierDir{{ProcessMemory: true, QuotaBytes: 1 << 30}}}
	for sentence, tc := range map[string]struct {
		change func(d *Description)
		want   string // "" when all is well
	}{
		"all is well":                    {func(*Description) {}, ""},
		"no tier for a worker":           {func(d *Description) { d.Worker.Tiers = nil }, "no tier"},
		"no tier, but no worker either":  {func(d *Description) { d.Worker.Tiers, d.Worker.Replicas = nil, 0 }, ""},
		"a quota of nothing":             {func(d *Description) { d.Worker.Tiers[0].Dirs[0].QuotaBytes = 0 }, "quota of 0 bytes"},
		"two tiers in /dev/shm":          {func(d *Description) { d.Worker.Tiers = []Tier{memory, memory} }, "more than one level"},
		"a limit below the memory tier":  {func(d *Description) { d.Worker.Resources.Limits = limit("512Mi") }, "memory limit 512Mi is below the 1Gi"},
		"a limit above the memory tier":  {func(d *Description) { d.Worker.Resources.Limits = limit("2Gi") }, ""},
		"a name too long for pod labels": {func(d *Description) { d.Name = strings.Repeat("n", 46) }, "at most 45"},
		"a source on loopback":           {at("http://127.0.0.1/x", "", ""), "mountPoint of mount m: address refused: 127.0.0.1"},
		"a name node at the link":        {at("hdfs://169.254.1.1:8020/x", "", ""), "link-local"},
		"an endpoint of the machine":     {at("s3://b", "alluxio.underfs.s3.endpoint", "http://localhost:9000"), "option alluxio.underfs.s3.endpoint of mount m"},
		"an endpoint without scheme":     {at("s3://b", "endpoint", "[::1]:9000"), "runtime.egress.allow"},
		"a bucket of that name":          {at("s3://localhost/x", "endpoint", "https://s3.example.com"), ""},
		"an endpoint in the cluster":     {at("s3://b", "endpoint", "http://10.244.1.7:9000"), ""},
		"an endpoint that is allowed": {func(d *Description) {
			d.Egress = []string{"127.0.0.0/8"}
			at("s3://b", "endpoint", "http://127.0.0.1:9000")(d)
		}, ""},
		"no mounts": {func(d *Description) { d.Sources.Mounts = nil }, "spec.mounts"},
	} {
		t.Run(sentence, func(t *testing.T) {
			d := &Description{Name: "data", Sources: Sources{Mounts: []contract.MountConfig{{MountPoint: "s3://b"}}}}
			d.Worker = Component{Replicas: 1, Tiers: []Tier{{Medium: contract.TierMEM, Dirs: []TierDir{{ProcessMemory: true, QuotaBytes: 1 << 30}}}}}
			tc.change(d)
			got := d.validate()
			if (got == nil) != (tc.want == "") || got != nil && !strings.Contains(got.Message, tc.want) {
				t.Errorf("got %v, want %q", got, tc.want)
			}
		})
	}
}

func at(mountPoint, option, value string) func(d *Description) {
	return func(d *Description) {
		d.Sources.Mounts = []contract.MountConfig{{Name: "m", MountPoint: mountPoint, Options: map[string]string{option: value}}}
	}
}

func limit(memory string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memory)}
}
