package podinject_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/millrace/millrace/apis/apitest"
	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// answer is what whoever creates a pod is told, and what is there afterwards.
type answer struct {
	Refused  string      `json:"refused,omitempty"`
	Warnings []string    `json:"warnings,omitempty"`
	Pod      *corev1.Pod `json:"pod,omitempty"`
}

// heard collects warnings.
type heard struct {
	mu   sync.Mutex
	said []string
}

func (h *heard) HandleWarningHeaderWithContext(_ context.Context, _ int, _, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said = append(h.said, text)
}

// ask creates a pod, and tells what came of it.
func (d *door) ask(t *testing.T, pod *corev1.Pod, options ...client.CreateOption) answer {
	t.Helper()
	config, warnings := apitest.Config(t), &heard{}
	config.WarningHandlerWithContext = warnings
	c, err := client.New(config, client.Options{Scheme: apitest.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	pod.Spec.AutomountServiceAccountToken = ptr.To(false) // its volume has a random name
	if err := c.Create(t.Context(), pod, options...); err != nil {
		return answer{Refused: err.Error(), Warnings: warnings.said}
	}
	return answer{Warnings: warnings.said, Pod: pod}
}

// volatile parts of an answer: what differs from run to run.
var volatile = regexp.MustCompile(`/pods/[a-z0-9]{12}`)

// known makes an answer the same in every run.
func (a answer) known(t *testing.T) string {
	t.Helper()
	if a.Pod != nil {
		a.Pod = a.Pod.DeepCopy()
		a.Pod.UID, a.Pod.ResourceVersion, a.Pod.ManagedFields, a.Pod.CreationTimestamp, a.Pod.Generation = "", "", nil, metav1.Time{}, 0
		if a.Pod.GenerateName != "" {
			a.Pod.Name = a.Pod.GenerateName + "RANDOM"
		}
	}
	text, err := yaml.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	return volatile.ReplaceAllString(string(text), "/pods/RANDOM")
}

// TestPain9ThroughTheAPIServer creates pods at a real API server that asks the
// webhook as the chart's configuration says: each is changed completely or not
// there at all.
func TestPain9ThroughTheAPIServer(t *testing.T) {
	d := open(t)
	const apps = "apps"
	d.create(
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: apps}}, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: apps, Name: "default"}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "quiet", Labels: map[string]string{contract.LabelEnableInjection: "false"}}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "quiet", Name: "default"}},
		claimOf(apps, "plain"))
	d.dataset(apps, "training", contract.RuntimeCache, datav1alpha1.BoundDatasetPhase)
	d.dataset(apps, "models", contract.RuntimeAlluxio, datav1alpha1.BoundDatasetPhase)
	d.dataset(apps, "updating", contract.RuntimeCache, datav1alpha1.UpdatingDatasetPhase)
	d.dataset(apps, "broken", contract.RuntimeCache, datav1alpha1.BoundDatasetPhase)
	d.dataset(apps, "pending", contract.RuntimeCache, datav1alpha1.NotBoundDatasetPhase)
	orphan := claimOf(apps, "orphan")
	orphan.Labels = map[string]string{contract.LabelDatasetID: "apps-orphan"}
	d.create(orphan)
	set := &appsv1.DaemonSet{}
	if err := d.Get(t.Context(), client.ObjectKey{Namespace: apps, Name: "broken-client"}, set); err != nil {
		t.Fatal(err)
	}
	set.Spec.Template.Spec.Containers[0].VolumeMounts = nil
	if err := d.Update(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	d.cachesKnow(apps)

	t.Run("goldens", func(t *testing.T) { d.goldens(t, apps) })
	t.Run("a namespace that forbids injection", func(t *testing.T) { d.quietNamespace(t) })
	t.Run("another webhook adds a container later", func(t *testing.T) { d.reinvoked(t, apps) })
	t.Run("a dry run changes the pod and keeps nothing", func(t *testing.T) { d.dryRun(t, apps) })
	t.Run("only pods that are created are changed", func(t *testing.T) { d.onlyCreated(t, apps) })
	t.Run("a Dataset that was bound a moment ago", func(t *testing.T) { d.boundJustNow(t, apps) })
	t.Run("a Dataset that refers to another", func(t *testing.T) { d.references(t) })
	t.Run("nobody answers", func(t *testing.T) { d.nobodyAnswers(t, apps) }) // the last: it ends the webhook
}

// cachesKnow waits until the webhook has seen the Datasets: what is not in its
// cache is asked for only before a pod is turned away.
func (d *door) cachesKnow(namespace string) {
	d.t.Helper()
	until(d.t, func() error {
		pod := labelled("knows", contract.LabelServerlessFuse, "broken")
		pod.Namespace = namespace
		if a := d.ask(d.t, pod, client.DryRunAll); !strings.Contains(a.Refused, "does not mount") {
			return fmt.Errorf("the webhook does not know Dataset broken yet: %+v", a)
		}
		pod = labelled("knows", contract.LabelServerfulFuse, "models")
		pod.Namespace = namespace
		if a := d.ask(d.t, pod, client.DryRunAll); a.Pod == nil || a.Pod.Spec.Affinity == nil {
			return fmt.Errorf("the webhook does not know where Dataset models is yet: %+v", a)
		}
		return nil
	})
}

// labelled is a small pod with a label that mounts a claim.
func labelled(name, label, claim string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "app", Image: "app", VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}}},
		Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}},
	}}
	if label != "" {
		pod.Labels = map[string]string{label: "true"}
	}
	return pod
}

func (d *door) goldens(t *testing.T, namespace string) {
	files, err := filepath.Glob("testdata/admission/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no manifests", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		if strings.HasSuffix(name, ".golden") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			pod := load[corev1.Pod](t, "admission/"+name+".yaml")
			pod.Namespace = namespace
			before := pod.DeepCopy()
			a := d.ask(t, pod)
			if a.Refused != "" {
				// All or nothing: what is refused is not there.
				if before.Name != "" && d.Get(t.Context(), client.ObjectKeyFromObject(before), &corev1.Pod{}) == nil {
					t.Error("the pod is there though it was refused")
				}
			} else if err := d.Delete(t.Context(), a.Pod.DeepCopy(), client.GracePeriodSeconds(0)); err != nil {
				t.Fatal(err)
			}
			golden, got := "testdata/admission/"+name+".golden.yaml", a.known(t)
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("run go test -update if this is meant: (-want +got)\n%s", diff)
			}
		})
	}
}

func (d *door) quietNamespace(t *testing.T) {
	pod := labelled("quiet", contract.LabelServerlessFuse, "no-such-dataset")
	pod.Namespace = "quiet"
	if a := d.ask(t, pod, client.DryRunAll); a.Pod == nil || a.Pod.Labels[contract.LabelInjectDone] != "" || len(a.Warnings) > 0 {
		t.Errorf("%+v", a)
	}
}

// reinvoked: a webhook that comes after ours adds a container that reads, and
// one that comes before adds a volume.
func (d *door) reinvoked(t *testing.T, namespace string) {
	calls := d.alsoAsk(t, "z-late.example.org", func(pod *corev1.Pod) string {
		for _, c := range pod.Spec.Containers {
			if c.Name == "late" {
				return ""
			}
		}
		return `[{"op": "add", "path": "/spec/containers/-", "value": {"name": "late", "image": "late", "volumeMounts": [{"name": "data", "mountPath": "/late", "subPath": "x"}]}}]`
	})
	pod := labelled("reinvoked", contract.LabelServerlessFuse, "training")
	pod.Namespace = namespace
	pod.Labels["late"] = "true"
	a := d.ask(t, pod, client.DryRunAll)
	if a.Pod == nil {
		t.Fatal(a.Refused)
	}
	if calls() == 0 {
		t.Fatal("the other webhook was not asked")
	}
	if n := len(a.Pod.Spec.InitContainers); n != 1 {
		t.Errorf("%d sidecars", n)
	}
	late := a.Pod.Spec.Containers[1]
	if p := late.VolumeMounts[0].MountPropagation; late.Name != "late" || p == nil || *p != corev1.MountPropagationHostToContainer {
		t.Errorf("the container that came later does not see the mount: %+v", late)
	}
}

// alsoAsk adds a webhook for pods with the label late. patch gives a JSON patch
// or nothing.
func (d *door) alsoAsk(t *testing.T, name string, patch func(*corev1.Pod) string) (calls func() int) {
	t.Helper()
	var mu sync.Mutex
	n := 0
	hook := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		review, pod := &admissionv1.AdmissionReview{}, &corev1.Pod{}
		if json.NewDecoder(r.Body).Decode(review) != nil || json.Unmarshal(review.Request.Object.Raw, pod) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		mu.Lock()
		n++
		mu.Unlock()
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		if p := patch(pod); p != "" {
			review.Response.Patch, review.Response.PatchType = []byte(p), ptr.To(admissionv1.PatchTypeJSONPatch)
		}
		_ = json.NewEncoder(w).Encode(review)
	}))
	hook.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	hook.StartTLS()
	t.Cleanup(hook.Close)
	sideEffects := admissionregistrationv1.SideEffectClassNone
	config := &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: name, AdmissionReviewVersions: []string{"v1"}, SideEffects: &sideEffects,
			ObjectSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"late": "true"}},
			Rules: []admissionregistrationv1.RuleWithOperations{{Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}},
			ClientConfig: admissionregistrationv1.WebhookClientConfig{
				URL:      ptr.To(hook.URL),
				CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw}),
			},
		}},
	}
	d.create(config)
	calls = func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
	until(t, func() error {
		pod := labelled("probe", "late", "plain")
		pod.Namespace = "apps"
		if d.ask(t, pod, client.DryRunAll); calls() == 0 {
			return fmt.Errorf("webhook %s is not asked yet", name)
		}
		return nil
	})
	return calls
}

func (d *door) dryRun(t *testing.T, namespace string) {
	pod := labelled("dry", contract.LabelServerlessFuse, "training")
	pod.Namespace = namespace
	if a := d.ask(t, pod, client.DryRunAll); a.Pod == nil || a.Pod.Labels[contract.LabelInjectDone] != "true" {
		t.Errorf("%+v", a)
	}
	if err := d.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: "dry"}, &corev1.Pod{}); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("the pod is there: %v", err)
	}
}

// onlyCreated: a label that comes later changes no pod, and two pods of one
// template have directories of their own.
func (d *door) onlyCreated(t *testing.T, namespace string) {
	pod := labelled("later", "", "training")
	pod.Namespace = namespace
	d.create(pod)
	pod.Labels = map[string]string{contract.LabelServerlessFuse: "true"}
	if err := d.Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if len(pod.Spec.InitContainers) > 0 || pod.Labels[contract.LabelInjectDone] != "" {
		t.Errorf("a pod that runs was changed: %+v", pod)
	}
	var dirs []string
	for range 2 {
		twin := labelled("twin", contract.LabelServerlessFuse, "training")
		twin.Namespace = namespace
		a := d.ask(t, twin, client.DryRunAll)
		if a.Pod == nil {
			t.Fatal(a.Refused)
		}
		dirs = append(dirs, a.Pod.Spec.Volumes[0].HostPath.Path)
	}
	if dirs[0] == dirs[1] {
		t.Errorf("two pods share %s", dirs[0])
	}
}

// boundJustNow: before a pod is turned away the API server itself is asked, so
// that a script which waited for its Dataset never meets a cache that is behind.
func (d *door) boundJustNow(t *testing.T, namespace string) {
	for i := range 10 {
		name := fmt.Sprintf("fresh-%d", i)
		d.dataset(namespace, name, contract.RuntimeCache, datav1alpha1.BoundDatasetPhase)
		pod := labelled(name, contract.LabelServerlessFuse, name)
		pod.Namespace = namespace
		if a := d.ask(t, pod, client.DryRunAll); a.Pod == nil || a.Pod.Labels[contract.LabelInjectDone] != "true" {
			t.Errorf("%+v", a)
		}
	}
}

// nobodyAnswers: a pod that asks for something does not start without it, and
// one that does not never waits for a webhook.
func (d *door) nobodyAnswers(t *testing.T, namespace string) {
	d.stop()
	for _, label := range []string{contract.LabelServerlessFuse, contract.LabelServerfulFuse} {
		pod := labelled("nobody", label, "training")
		pod.Namespace = namespace
		if a := d.ask(t, pod); !strings.Contains(a.Refused, contract.WebhookConfig+"."+contract.SystemNamespace) {
			t.Errorf("label %s: %+v", label, a)
		}
	}
	for sentence, labels := range map[string]map[string]string{
		"no label":          nil,
		"injection is off":  {contract.LabelServerlessFuse: "true", contract.LabelEnableInjection: "false"},
		"a value of no use": {contract.LabelServerlessFuse: "no"},
	} {
		pod := labelled("nobody", "", "training")
		pod.Namespace, pod.Labels = namespace, labels
		if a := d.ask(t, pod, client.DryRunAll); a.Pod == nil {
			t.Errorf("%s: %s", sentence, a.Refused)
		}
	}
}
