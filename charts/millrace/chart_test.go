// Package millrace_test renders the chart with Helm itself.
package millrace_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	"github.com/millrace/millrace/apis/apitest"
	configv1alpha1 "github.com/millrace/millrace/apis/config/v1alpha1"
	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/scheduler/profile"
)

func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	bin, err := filepath.Abs("../../out/bin/helm")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(bin); err != nil {
		t.Fatalf("%v: run `make tools`", err)
	}
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), bin, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+t.TempDir(), "HELM_CONFIG_HOME="+t.TempDir(), "HELM_DATA_HOME="+t.TempDir())
	err = cmd.Run()
	return out.String() + errs.String(), err
}

// render gives the chart's objects, typed strictly, by kind and name.
func render(t *testing.T, values ...string) map[string]runtime.Object {
	t.Helper()
	args := []string{"template", "millrace", ".", "--namespace", contract.SystemNamespace, "--kube-version", "1.34.0"}
	for _, v := range values {
		args = append(args, "--set", v)
	}
	text, err := helm(t, args...)
	if err != nil {
		t.Fatalf("render chart: %v\n%s", err, text)
	}
	out := map[string]runtime.Object{}
	for docs := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096); ; {
		raw := &unstructured.Unstructured{}
		if err := docs.Decode(raw); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		if raw.GetKind() == "" {
			continue
		}
		obj, err := apitest.Scheme().New(raw.GroupVersionKind())
		if err != nil {
			t.Fatal(err)
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(raw.Object, obj, true); err != nil {
			t.Errorf("%s %s: %v", raw.GetKind(), raw.GetName(), err)
		}
		key := raw.GetKind() + "/" + raw.GetName()
		if out[key] != nil {
			t.Errorf("%s is rendered twice", key)
		}
		out[key] = obj
	}
}

func of[T runtime.Object](t *testing.T, objs map[string]runtime.Object, key string) T {
	t.Helper()
	obj, ok := objs[key].(T)
	if !ok {
		t.Fatalf("the chart has no %s", key)
	}
	return obj
}

func TestChartLints(t *testing.T) {
	if out, err := helm(t, "lint", "--strict", "--kube-version", "1.34.0", "."); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestChartRefusesValuesThatMeanNothing(t *testing.T) {
	for name, tc := range map[string]struct{ value, words string }{
		"a typo":                    {"schedular.enabled=true", "schedular"},
		"a relative mount root":     {"runtime.mountRoot=mnt", "mountRoot"},
		"a policy that is unknown":  {"image.pullPolicy=Sometimes", "pullPolicy"},
		"a weight below one":        {"scheduler.weight=0", "weight"},
		"a timeout beyond the most": {"webhook.timeoutSeconds=31", "timeoutSeconds"},
		"an URL to be allowed":      {"runtime.egress.allow={http://host}", "allow"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := helm(t, "template", "millrace", ".", "--kube-version", "1.34.0", "--set", tc.value)
			if err == nil || !strings.Contains(out, tc.words) {
				t.Errorf("got %v with\n%s", err, out)
			}
		})
	}
}

func TestTheEnginesImageMayBeAnother(t *testing.T) {
	for want, values := range map[string][]string{
		"ghcr.io/millrace/cache:v1":  {"image.tag=v1"},
		"example.com/cache-rclone:2": {"image.tag=v1", "runtime.image=example.com/cache-rclone:2"},
	} {
		manager := of[*appsv1.Deployment](t, render(t, values...), "Deployment/millrace-manager").Spec.Template.Spec.Containers[0]
		if !slices.Contains(manager.Args, "--native-image="+want) {
			t.Errorf("want image %s in %q", want, manager.Args)
		}
	}
}

func TestTheManagerReadsWhatTheAdministratorAllows(t *testing.T) {
	for name, tc := range map[string]struct {
		values []string
		allow  []string
	}{
		"nothing by default":        {nil, nil},
		"nothing of what is no map": {[]string{"runtime.egress=null"}, nil},
		"networks and hosts":        {[]string{"runtime.egress.allow={127.0.0.0/8,fe80::/10,minio.local,*}"}, []string{"127.0.0.0/8", "fe80::/10", "minio.local", "*"}},
	} {
		t.Run(name, func(t *testing.T) {
			objs := render(t, tc.values...)
			text := of[*corev1.ConfigMap](t, objs, "ConfigMap/millrace-manager").Data["configuration.yaml"]
			c, err := configv1alpha1.DecodeManagerConfiguration([]byte(text))
			if err != nil || !slices.Equal(c.Egress.Allow, tc.allow) {
				t.Errorf("%s\nis read as %+v, %v", text, c, err)
			}
			pod := of[*appsv1.Deployment](t, objs, "Deployment/millrace-manager").Spec.Template
			if !slices.Contains(pod.Spec.Containers[0].Args, "--config=/etc/millrace/configuration.yaml") ||
				pod.Spec.Containers[0].VolumeMounts[0].MountPath != "/etc/millrace" || pod.Spec.Volumes[0].ConfigMap.Name != "millrace-manager" {
				t.Errorf("the manager does not read it: %+v", pod.Spec)
			}
			if pod.Annotations["checksum/configuration"] == "" {
				t.Error("a change of it does not restart the manager")
			}
		})
	}
}

func TestChartShipsTheSchedulerProfile(t *testing.T) {
	for name, tc := range map[string]struct {
		values  []string
		options profile.Options
	}{
		"by default": {nil, profile.Options{SchedulerName: "millrace-scheduler"}},
		"with gangs, another name and weight": {
			[]string{"scheduler.gangs=true", "scheduler.name=other", "scheduler.weight=33"},
			profile.Options{Gangs: true, SchedulerName: "other", Weight: 33},
		},
	} {
		t.Run(name, func(t *testing.T) {
			tc.options.LeaseNamespace = contract.SystemNamespace
			got := of[*corev1.ConfigMap](t, render(t, tc.values...), "ConfigMap/millrace-scheduler").Data["configuration.yaml"]
			if diff := cmp.Diff(string(profile.Configuration(tc.options)), got); diff != "" {
				t.Errorf("(-profile +chart)\n%s", diff)
			}
		})
	}
}

func TestFluidsStringsAreInTheChart(t *testing.T) {
	objs := render(t)
	driver := of[*storagev1.CSIDriver](t, objs, "CSIDriver/"+contract.CSIDriver)
	if *driver.Spec.AttachRequired || !*driver.Spec.PodInfoOnMount {
		t.Errorf("driver %+v", driver.Spec)
	}
	hooks := of[*admissionregistrationv1.MutatingWebhookConfiguration](t, objs, "MutatingWebhookConfiguration/"+contract.WebhookConfig)
	service := of[*corev1.Service](t, objs, "Service/"+contract.WebhookConfig)
	labels := map[string]bool{}
	for _, h := range hooks.Webhooks {
		if *h.ClientConfig.Service.Path != contract.WebhookPath || h.ClientConfig.Service.Name != service.Name || *h.FailurePolicy != admissionregistrationv1.Fail ||
			h.ObjectSelector == nil || len(h.ObjectSelector.MatchLabels) != 1 {
			t.Fatalf("webhook %s: %+v", h.Name, h)
		}
		for label := range h.ObjectSelector.MatchLabels {
			labels[label] = true
		}
	}
	if diff := cmp.Diff(map[string]bool{contract.LabelServerlessFuse: true, contract.LabelServerfulFuse: true}, labels); diff != "" {
		t.Errorf("labels that the webhook sees: (-want +got)\n%s", diff)
	}
	if objs["CacheRuntimeClass/"+contract.NativeClass] == nil {
		t.Errorf("no class %s", contract.NativeClass)
	}
}

func TestOnlyTheNodePluginIsPrivileged(t *testing.T) {
	objs := render(t)
	for _, name := range []string{"millrace-manager", "millrace-scheduler"} {
		pod := of[*appsv1.Deployment](t, objs, "Deployment/"+name).Spec.Template.Spec
		if !*pod.SecurityContext.RunAsNonRoot || pod.HostNetwork || pod.HostPID {
			t.Errorf("%s runs with more than it needs: %+v", name, pod.SecurityContext)
		}
		for _, c := range pod.Containers {
			s := c.SecurityContext
			if !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
				t.Errorf("%s runs with more than it needs: %+v", name, s)
			}
		}
		for _, v := range pod.Volumes {
			if v.HostPath != nil {
				t.Errorf("%s mounts %s of the host", name, v.HostPath.Path)
			}
		}
	}
}

func TestNobodyMayDoEverything(t *testing.T) {
	for key, obj := range render(t, "scheduler.gangs=true") {
		var rules []rbacv1.PolicyRule
		switch role := obj.(type) {
		case *rbacv1.ClusterRole:
			rules = role.Rules
		case *rbacv1.Role:
			rules = role.Rules
		}
		for _, rule := range rules {
			for _, list := range [][]string{rule.Verbs, rule.Resources, rule.APIGroups} {
				if slices.Contains(list, "*") {
					t.Errorf("%s has a wildcard: %+v", key, rule)
				}
			}
			if strings.HasPrefix(key, "ClusterRole/") && slices.Contains(rule.Resources, "secrets") && !slices.Equal(rule.Verbs, []string{"get"}) {
				t.Errorf("%s may do more with Secrets than read one by its name: %+v", key, rule)
			}
			for _, exec := range []string{"pods/exec", "pods/attach", "serviceaccounts/token"} {
				if slices.Contains(rule.Resources, exec) {
					t.Errorf("%s may use %s", key, exec)
				}
			}
		}
	}
}

func TestSwitchesLeaveTheirPartsOut(t *testing.T) {
	objs := render(t, "scheduler.enabled=false", "webhook.enabled=false", "csi.enabled=false")
	for key := range objs {
		for _, part := range []string{"Deployment/millrace-scheduler", "DaemonSet/", "MutatingWebhook", "Secret/", "Service/"} {
			if strings.HasPrefix(key, part) {
				t.Errorf("%s is rendered", key)
			}
		}
	}
	// A cluster whose own scheduler is Millrace's still has to let it read.
	binding := of[*rbacv1.ClusterRoleBinding](t, objs, "ClusterRoleBinding/millrace-locality-reader")
	if len(binding.Subjects) != 1 || binding.Subjects[0].Name != "system:kube-scheduler" {
		t.Errorf("subjects %+v", binding.Subjects)
	}
}

func TestClassesOfOtherEnginesAreSwitchedByValues(t *testing.T) {
	if render(t)["CacheRuntimeClass/rclone"] == nil {
		t.Error("class rclone is missing")
	}
	if render(t, "classes.rclone.enabled=false")["CacheRuntimeClass/rclone"] != nil {
		t.Error("class rclone is there although it is switched off")
	}
	if text, err := helm(t, "template", "millrace", ".", "--set", "classes.rclone.enabled=maybe"); err == nil || !strings.Contains(text, "enabled") {
		t.Errorf("a value that is neither true nor false: %v\n%s", err, text)
	}
}
