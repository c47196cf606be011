package component

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
)

func TestSizesAreReadAsKubernetesReadsThem(t *testing.T) {
	for _, s := range []string{"0", "1", "123", "1k", "1500M", "2Gi", "1.5Gi", "0.1Ki", "100Ti", "7Ei", "1e9", "1E", "2E3", "1.5e3", "3P"} {
		want := resource.MustParse(s)
		if got, err := ParseBytes(s); err != nil || got != want.Value() {
			t.Errorf("%s: got %d, %v, want %d", s, got, err, want.Value())
		}
	}
	if got, err := ParseBytes("100GiB"); err != nil || got != 100<<30 {
		t.Errorf("100GiB: got %d, %v", got, err)
	}
	for _, s := range []string{"", "Gi", "plenty", "1Gi2", "-1", "1KiB2", "1/2", "0x10", "9Ei", "1ki", "1 Gi", "B", "1e99"} {
		if got, err := ParseBytes(s); err == nil {
			t.Errorf("%q was read as %d", s, got)
		}
	}
}
