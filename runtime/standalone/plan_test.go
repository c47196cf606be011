package standalone

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/millrace/millrace/apis/contract"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWordsBecomeAConfiguration(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte("word"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Plan{
		Source:  "s3://bucket/a",
		Mounts:  []string{"/near/disk/=" + dir, "/x=file://" + dir},
		Options: []string{"endpoint=https://x=y", "/near/disk:colour=blue"},
		Secrets: []string{"/:aws.secretKey=" + key},
		Caches:  []string{dir + "/slow:2T,hdd", dir + "/a:b:1.5Gi,SSD", dir + "/c:100GiB,SSD", "/dev/shm/none/x:1Gi"},
		Engine:  []string{"metadata.ttl=5s"},
	}.Config()
	if err != nil {
		t.Fatal(err)
	}
	engine := map[string]string{"metadata.ttl": "5s"}
	everywhere := map[string]string{"endpoint": "https://x=y"}
	want := &contract.RuntimeConfig{
		Mounts: []contract.MountConfig{
			{MountPoint: "s3://bucket/a", Path: "/", ReadOnly: true, Options: everywhere, EncryptOptions: map[string]string{"aws.secretKey": key}},
			{MountPoint: "local://" + dir, Path: "/near/disk", Name: "near/disk", ReadOnly: true, Options: map[string]string{"endpoint": "https://x=y", "colour": "blue"}, EncryptOptions: map[string]string{}},
			{MountPoint: "local://" + dir, Path: "/x", Name: "x", ReadOnly: true, Options: everywhere, EncryptOptions: map[string]string{}},
		},
		Master: contract.ComponentConfig{Options: engine}, Client: contract.ComponentConfig{Options: engine},
		Worker: contract.ComponentConfig{Options: engine, TieredStoreLevels: []contract.TierConfig{
			{MediumType: contract.TierMEM, MountPaths: []string{"/dev/shm/none/x"}, Quotas: []string{"1073741824"}},
			{MediumType: contract.TierSSD, MountPaths: []string{dir + "/a:b", dir + "/c"}, Quotas: []string{"1610612736", "107374182400"}},
			{MediumType: contract.TierHDD, MountPaths: []string{dir + "/slow"}, Quotas: []string{"2000000000000"}},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAHostsOwnOptionsWinOverThoseOfTheMaster(t *testing.T) {
	options := func(kv ...string) contract.ComponentConfig {
		c := contract.ComponentConfig{Options: map[string]string{}}
		for i := 0; i < len(kv); i += 2 {
			c.Options[kv[i]] = kv[i+1]
		}
		return c
	}
	own := &contract.RuntimeConfig{Client: options("a", "1"), Worker: contract.ComponentConfig{TieredStoreLevels: []contract.TierConfig{{MediumType: "SSD"}}}}
	told := &contract.RuntimeConfig{
		Mounts: []contract.MountConfig{{MountPoint: "s3://b"}}, Client: options("a", "2", "b", "3"), Worker: options("c", "4"),
	}
	adopt(own, told)
	want := &contract.RuntimeConfig{Mounts: told.Mounts, Master: options(), Client: options("a", "1", "b", "3"), Worker: options("c", "4")}
	want.Worker.TieredStoreLevels = []contract.TierConfig{{MediumType: "SSD"}}
	if diff := cmp.Diff(want, own); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(options("a", "2", "b", "3"), told.Client); diff != "" {
		t.Error("what was told has changed:", diff)
	}
}

func TestOptionsThatLookLikeSecretsAreRefused(t *testing.T) {
	for _, key := range []string{
		"aws.secretKey", "secret-key", "aws.secretAccessKey", "fs.s3a.secret.key", "fs.oss.accessKeySecret", "fs.tos.secret-access-key",
		"fs.cosn.userinfo.secretKey", "aws.sessionToken", "password", "sftp_passwd", "Authorization", "account_key", "client_secret", "fs.s3a.session.token",
		"header.Cookie", "bearer_token", "sas_url", "secretKey", "pass", "private_key",
	} {
		_, err := Plan{Source: "s3://bucket", Options: []string{key + "=hush"}}.Config()
		if err == nil || !strings.Contains(err.Error(), "--secret "+key+"=FILE") || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", key, err)
		}
	}
	for _, key := range []string{"endpoint", "region", "path-style", "aws.accessKeyId", "access-key", "requester-pays", "key-file", "keytab", "passthrough", "fs.cosn.userinfo.secretId", "token-file"} {
		if _, err := (Plan{Source: "s3://bucket", Options: []string{key + "=x"}}).Config(); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestPlacesThatContainEachOtherAreRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		source, cache, mount, says string
	}{
		"all apart":                {"/src", "/cache", "/mnt", ""},
		"names that begin alike":   {"/src", "/src-cache", "/src2", ""},
		"a cache in the source":    {"/src", "/src/cache", "/mnt", "inside the source"},
		"a mount in the source":    {"/src", "/cache", "/src/mnt", "inside the source"},
		"the source is the mount":  {"/src", "/cache", "/src", "inside the source"},
		"a source below the mount": {"/mnt/src", "/cache", "/mnt", "below the mount point"},
		"a cache below the mount":  {"/src", "/mnt/cache", "/mnt", "below the mount point"},
		"everything":               {"/", "/cache", "/mnt", "inside the source"},
	} {
		c := &contract.RuntimeConfig{Mounts: []contract.MountConfig{{MountPoint: contract.SchemeLocal + tc.source}}}
		c.Worker.TieredStoreLevels = []contract.TierConfig{{MountPaths: []string{tc.cache}}}
		err := checkPlaces(c, tc.mount)
		if (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want %q", name, err, tc.says)
		}
	}
}
