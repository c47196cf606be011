package component

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/store"
)

func TestStoreOptions(t *testing.T) {
	for what, tc := range map[string]struct {
		options map[string]string
		want    store.Options
		refused string // names what is refused
	}{
		"none":                      {want: store.Options{ScrubBytes: 4 << 20, MoveBytes: 64 << 20}},
		"all":                       {options: map[string]string{"store.policy": "tinylfu", "store.ttl": "24h", "store.scrub": "0", "store.move": "1Mi"}, want: store.Options{Policy: store.PolicyTinyLFU, TTL: 24 * time.Hour, MoveBytes: 1 << 20}},
		"a policy that is none":     {options: map[string]string{"store.policy": "lru"}, refused: "store.policy"},
		"a time that is none":       {options: map[string]string{"store.ttl": "soon"}, refused: "store.ttl"},
		"a time before":             {options: map[string]string{"store.ttl": "-1s"}, refused: "store.ttl"},
		"a rate that is none":       {options: map[string]string{"store.scrub": "fast"}, refused: "store.scrub"},
		"a rate that is below zero": {options: map[string]string{"store.move": "-1"}, refused: "store.move"},
	} {
		t.Run(what, func(t *testing.T) {
			s := &Settings{RuntimeConfig: &contract.RuntimeConfig{Worker: contract.ComponentConfig{Options: tc.options}}}
			got, err := s.storeOptions()
			if tc.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tc.refused) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
