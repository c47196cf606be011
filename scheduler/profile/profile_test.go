package profile_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"

	"github.com/millrace/millrace/scheduler/profile"
)

const full = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection:
  kubeconfig: "/a b/kubeconfig"
leaderElection:
  leaderElect: true
  resourceName: millrace-scheduler
  resourceNamespace: fluid-system
profiles:
  - schedulerName: millrace-scheduler
    plugins:
      multiPoint:
        enabled:
          - name: CacheLocality
            weight: 25
          - name: Coscheduling
      queueSort:
        disabled:
          - name: "*"
        enabled:
          - name: Coscheduling
`

const stock = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection:
  leaderElect: false
profiles:
  - schedulerName: default-scheduler
`

func TestConfigurationSaysWhatWasAskedFor(t *testing.T) {
	for name, tc := range map[string]struct {
		options profile.Options
		want    string
	}{
		"everything":          {profile.Options{Kubeconfig: "/a b/kubeconfig", SchedulerName: "millrace-scheduler", Weight: 25, LeaseNamespace: "fluid-system", Gangs: true}, full},
		"the stock scheduler": {profile.Options{Weight: -1}, stock},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, string(profile.Configuration(tc.options))); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestSchedulerReadsTheConfigurationStrictly(t *testing.T) {
	for _, o := range []profile.Options{{}, {Weight: -1}, {Gangs: true, LeaseNamespace: "ns", Kubeconfig: "/k"}} {
		text := profile.Configuration(o)
		obj, err := runtime.Decode(scheme.Codecs.UniversalDecoder(), text)
		if err != nil {
			t.Fatalf("decode: %v\n%s", err, text)
		}
		cfg, ok := obj.(*config.KubeSchedulerConfiguration)
		if !ok || len(cfg.Profiles) != 1 {
			t.Errorf("got %T %+v", obj, obj)
		}
	}
}
