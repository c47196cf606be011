package contract_test

import (
	"testing"

	"github.com/millrace/millrace/apis/contract"
)

func TestASourceIsAnotherWhenItsBytesMayBe(t *testing.T) {
	base := contract.MountConfig{MountPoint: "s3://b/x", Path: "/a", Options: map[string]string{"endpoint": "http://one", "timeout": "1s"}}
	for name, tc := range map[string]struct {
		edit                func(*contract.MountConfig)
		identity, different bool
	}{
		"nothing changed":   {func(*contract.MountConfig) {}, true, false},
		"another bucket":    {func(m *contract.MountConfig) { m.MountPoint = "s3://c/x" }, false, true},
		"another place":     {func(m *contract.MountConfig) { m.Path = "/b" }, false, true},
		"another endpoint":  {func(m *contract.MountConfig) { m.Options["endpoint"] = "http://two" }, false, true},
		"an unknown option": {func(m *contract.MountConfig) { m.Options["team_drive"] = "x" }, false, true},
		"another timeout":   {func(m *contract.MountConfig) { m.Options["timeout"] = "2s" }, true, true},
		"another secret":    {func(m *contract.MountConfig) { m.EncryptOptions = map[string]string{"access-key": "/f"} }, true, true},
		"a plain key":       {func(m *contract.MountConfig) { m.Options["access-key"] = "x" }, true, true},
	} {
		m := base
		m.Options = map[string]string{"endpoint": "http://one", "timeout": "1s"}
		tc.edit(&m)
		if same := m.Identity() == base.Identity(); same != tc.identity {
			t.Errorf("%s: the same source is %v", name, same)
		}
		table := func(m contract.MountConfig) string {
			return (&contract.RuntimeConfig{Mounts: []contract.MountConfig{m}}).MountTable()
		}
		if (m.Version() != base.Version()) != tc.different || (table(m) != table(base)) != tc.different {
			t.Errorf("%s: the version and the table do not tell", name)
		}
	}
}
