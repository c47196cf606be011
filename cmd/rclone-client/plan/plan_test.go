package plan_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/cmd/rclone-client/plan"
)

func bucket() contract.MountConfig {
	return contract.MountConfig{
		MountPoint: "s3://bucket/prefix", Name: "bucket", Path: "/",
		Options:        map[string]string{"alluxio.underfs.s3.endpoint": "http://s3:9000", "alluxio.underfs.s3.disable.dns.buckets": "true"},
		EncryptOptions: map[string]string{"aws.secretKey": "/etc/fluid/secrets/keys/secret"},
	}
}

func read(string) ([]byte, error) { return []byte("hunter2\n"), nil }

func TestABucketIsMountedAndItsSecretIsInNoArgument(t *testing.T) {
	c := &contract.RuntimeConfig{Mounts: []contract.MountConfig{bucket()}}
	c.Client.TieredStoreLevels = []contract.TierConfig{{MountPaths: []string{"/cache"}, Quotas: []string{"2Gi"}}}
	c.Client.Options = map[string]string{"dir-cache-time": "1m"}
	got, err := plan.Of(c, "/mnt", read)
	if err != nil {
		t.Fatal(err)
	}
	want := &plan.Plan{
		Args: []string{"mount", "m0:bucket/prefix", "/mnt", "--config=", "--read-only", "--allow-other", "--default-permissions", "--umask=022",
			"--vfs-cache-mode=full", "--cache-dir=/cache", "--vfs-cache-max-size=2GiB", "--dir-cache-time=1m"},
		Env: []string{"RCLONE_CONFIG_M0_ENDPOINT=http://s3:9000", "RCLONE_CONFIG_M0_FORCE_PATH_STYLE=true", "RCLONE_CONFIG_M0_PROVIDER=Other",
			"RCLONE_CONFIG_M0_SECRET_ACCESS_KEY=hunter2", "RCLONE_CONFIG_M0_TYPE=s3"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSeveralMountsAreDirectories(t *testing.T) {
	a, b := bucket(), bucket()
	a.Path, b.Path, b.Name = "", "/other", "b"
	got, err := plan.Of(&contract.RuntimeConfig{Mounts: []contract.MountConfig{a, b}}, "/mnt", read)
	if err != nil {
		t.Fatal(err)
	}
	if want := `RCLONE_CONFIG_ALL_UPSTREAMS="bucket=m0:bucket/prefix" "other=m1:bucket/prefix"`; got.Args[1] != "all:" || got.Env[len(got.Env)-1] != want {
		t.Errorf("%s, %s", got.Args[1], got.Env[len(got.Env)-1])
	}
}

func TestWhatRcloneShallNotDoIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		edit  func(*contract.RuntimeConfig)
		words string
	}{
		"a directory of the pod":          {func(c *contract.RuntimeConfig) { c.Mounts[0].MountPoint = "local:///etc" }, "of the backends"},
		"an option that starts a program": {func(c *contract.RuntimeConfig) { c.Mounts[0].Options["bearer_token_command"] = "id" }, "is refused"},
		"the identity of the node":        {func(c *contract.RuntimeConfig) { c.Mounts[0].Options["env_auth"] = "true" }, "is refused"},
		"an option with an odd name":      {func(c *contract.RuntimeConfig) { c.Mounts[0].Options["a=b"] = "c" }, "none of rclone's"},
		"a flag that nobody may set":      {func(c *contract.RuntimeConfig) { c.Client.Options = map[string]string{"rc": "true"} }, "may be set"},
		"a directory below another":       {func(c *contract.RuntimeConfig) { c.Mounts[0].Path = "/a/b" }, "directory of its own"},
		"a cache of several directories":  {func(c *contract.RuntimeConfig) { c.Client.TieredStoreLevels = make([]contract.TierConfig, 2) }, "one directory"},
		"no mount at all":                 {func(c *contract.RuntimeConfig) { c.Mounts = nil }, "no mounts"},
	} {
		c := &contract.RuntimeConfig{Mounts: []contract.MountConfig{bucket()}}
		tc.edit(c)
		if _, err := plan.Of(c, "/mnt", read); err == nil || !strings.Contains(err.Error(), tc.words) {
			t.Errorf("%s: %v, want %q", name, err, tc.words)
		}
	}
	gone := errors.New("gone")
	if _, err := plan.Of(&contract.RuntimeConfig{Mounts: []contract.MountConfig{bucket()}}, "/mnt", func(string) ([]byte, error) { return nil, gone }); !errors.Is(err, gone) {
		t.Errorf("a secret that is gone: %v", err)
	}
}
