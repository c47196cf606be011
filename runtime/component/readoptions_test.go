package component

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/fuse"
)

func TestOptionsOfAMountAreReadOrRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		client, worker map[string]string
		want           readOptions
		err            string
	}{
		"none":                      {},
		"a profile":                 {client: map[string]string{"fuse.profile": "small"}, want: readOptions{profile: fuse.ProfileSmall}},
		"the profile to be found":   {client: map[string]string{"fuse.profile": "auto"}},
		"no such profile":           {client: map[string]string{"fuse.profile": "tiny"}, err: "fuse.profile"},
		"a bandwidth and a memory":  {client: map[string]string{"read.bandwidth": "200Mi", "read.memory": "128Mi"}, want: readOptions{bandwidth: 200 << 20, memory: 128 << 20}},
		"no bandwidth at all":       {client: map[string]string{"read.bandwidth": "0"}, err: "read.bandwidth"},
		"too little memory":         {client: map[string]string{"read.memory": "1Mi"}, err: "at least 16Mi"},
		"the worker's are for all":  {worker: map[string]string{"fuse.profile": "large"}, want: readOptions{profile: fuse.ProfileLarge}},
		"the client's come first":   {client: map[string]string{"fuse.profile": "small"}, worker: map[string]string{"fuse.profile": "large"}, want: readOptions{profile: fuse.ProfileSmall}},
		"a size that is not a size": {client: map[string]string{"read.memory": "much"}, err: "read.memory"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Settings{RuntimeConfig: &contract.RuntimeConfig{
				Client: contract.ComponentConfig{Options: tc.client}, Worker: contract.ComponentConfig{Options: tc.worker},
			}}
			got, err := s.readOptions()
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error %v, want one of %s", err, tc.err)
				}
				return
			}
			if err != nil || got != tc.want {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}
