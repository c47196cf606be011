package component

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/store"
)

func TestLevelsBecomeTiers(t *testing.T) {
	cases := map[string]struct {
		level contract.TierConfig
		want  store.Tier
		says  string
	}{
		"directories with their quotas": {
			level: contract.TierConfig{MediumType: "MEM", MountPaths: []string{"/a", "/b"}, Quotas: []string{"2Gi", "1500M"}, High: "0.9", Low: "0.5"},
			want:  store.Tier{Medium: "MEM", Dirs: []store.Dir{{Path: "/a", QuotaBytes: 2 << 30}, {Path: "/b", QuotaBytes: 1_500_000_000}}, High: 0.9, Low: 0.5},
		},
		"marks have defaults": {
			level: contract.TierConfig{MountPaths: []string{"/dev/shm"}, Quotas: []string{"1Gi"}},
			want:  store.Tier{Dirs: []store.Dir{{Path: "/dev/shm", QuotaBytes: 1 << 30}}, High: defaultHigh, Low: defaultLow},
		},
		"a quota that is none":    {level: contract.TierConfig{MountPaths: []string{"/a"}, Quotas: []string{"plenty"}}, says: `quota "plenty" of /a`},
		"a quota too few":         {level: contract.TierConfig{MountPaths: []string{"/a", "/b"}, Quotas: []string{"1Gi"}}, says: "2 directories and 1 quotas"},
		"a mark beyond the whole": {level: contract.TierConfig{MountPaths: []string{"/a"}, Quotas: []string{"1Gi"}, High: "95"}, says: "high of level 0"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := tiersOf([]contract.TierConfig{tc.level})
			if tc.says != "" {
				if err == nil || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("got %v, want %q", err, tc.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]store.Tier{tc.want}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMissingSecretsAreNamedAndCredentialsAreNot(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "key")
	_, err := (&Settings{RuntimeConfig: &contract.RuntimeConfig{}}).openSource(t.Context(), contract.MountConfig{
		MountPoint: "s3://me:word@bucket/x", EncryptOptions: map[string]string{"aws.secretKey": missing},
	})
	if !errors.Is(err, source.ErrInvalid) || !strings.Contains(err.Error(), missing) || strings.Contains(err.Error(), "word") {
		t.Errorf("got %v", err)
	}
	for uri, want := range map[string]string{
		"s3://me:word@bucket/x": "s3://bucket/x", "s3://me:word@bucket": "s3://bucket", "pvc://claim/a@b": "pvc://claim/a@b", "local:///x": "local:///x",
	} {
		if got := WithoutUser(uri); got != want {
			t.Errorf("%s became %s, want %s", uri, got, want)
		}
	}
}

func TestSecretsLoseTheirLineFeedAndKeytabsNothing(t *testing.T) {
	dir := t.TempDir()
	options := map[string]string{}
	for name, value := range map[string]string{"word": " secret\n", "keytab": "\x05\x02\x00\n"} {
		options[name] = filepath.Join(dir, name)
		if err := os.WriteFile(options[name], []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var got source.Config
	s := &Settings{RuntimeConfig: &contract.RuntimeConfig{}, OpenSource: func(_ context.Context, c source.Config) (source.Store, error) {
		got = c
		return nil, nil
	}}
	if _, err := s.openSource(t.Context(), contract.MountConfig{MountPoint: "hdfs://host/", EncryptOptions: options}); err != nil {
		t.Fatal(err)
	}
	if got.EncryptOptions["word"] != "secret" || got.EncryptOptions["keytab"] != "\x05\x02\x00\n" {
		t.Errorf("got %q", got.EncryptOptions)
	}
}

func TestTheMasterIsWhereItsServiceIs(t *testing.T) {
	s := &Settings{RuntimeConfig: &contract.RuntimeConfig{}, Namespace: "ns"}
	if a, err := s.MasterAt(); err == nil {
		t.Errorf("found %q", a)
	}
	s.Master.Service.Name = "svc-x-master"
	if a, err := s.MasterAt(); err != nil || a != "svc-x-master.ns:7510" {
		t.Errorf("got %q, %v", a, err)
	}
	s.MasterAddress = "127.0.0.1:1"
	if a, err := s.MasterAt(); err != nil || a != "127.0.0.1:1" {
		t.Errorf("got %q, %v", a, err)
	}
}
