package v1alpha1_test

import (
	"slices"
	"strings"
	"testing"

	configv1alpha1 "github.com/millrace/millrace/apis/config/v1alpha1"
)

func TestTheManagersConfigurationIsReadStrictly(t *testing.T) {
	const head = "apiVersion: config.millrace.io/v1alpha1\nkind: ManagerConfiguration\n"
	for name, tc := range map[string]struct {
		text  string
		allow []string
		want  string // in the error
	}{
		"nothing but the kind":   {head, nil, ""},
		"networks and names":     {head + "egress: {allow: [127.0.0.0/8, minio.local, 169.254.170.23, \"*\"]}", []string{"127.0.0.0/8", "minio.local", "169.254.170.23", "*"}, ""},
		"an empty file":          {"", nil, "ManagerConfiguration"},
		"another version":        {"apiVersion: config.millrace.io/v2\nkind: ManagerConfiguration\n", nil, "v2"},
		"another kind":           {"apiVersion: config.millrace.io/v1alpha1\nkind: SchedulerConfiguration\n", nil, "SchedulerConfiguration"},
		"a typo":                 {head + "egres: {}", nil, "egres"},
		"a field twice":          {head + "egress: {}\negress: {}", nil, "egress"},
		"a network that is none": {head + "egress: {allow: [127.0.0.0/33]}", nil, "127.0.0.0/33"},
		"too many":               {head + "egress: {allow: [" + strings.Repeat("a,", 257) + "]}", nil, "at most 256"},
		"no YAML":                {"{", nil, "decode"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := configv1alpha1.DecodeManagerConfiguration([]byte(tc.text))
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("error %v, want %q", err, tc.want)
				}
				return
			}
			if err != nil || !slices.Equal(c.Egress.Allow, tc.allow) {
				t.Errorf("got %+v, %v", c, err)
			}
		})
	}
}
