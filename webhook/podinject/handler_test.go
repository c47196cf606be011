package podinject_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/millrace/millrace/apis/apitest"
	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/webhook/podinject"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }

const (
	patience   = 30 * time.Second
	namespace  = "default"
	secretName = "millrace-webhook-certificate"
)

func create(t *testing.T, objs ...client.Object) {
	t.Helper()
	for _, obj := range objs {
		if err := apitest.Client(t).Create(t.Context(), obj); err != nil {
			t.Fatalf("create %T %s: %v", obj, obj.GetName(), err)
		}
	}
}

func until(t *testing.T, missing func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := missing()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %v", patience, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// serve runs the webhook in a manager and gives a call to it as the API server
// makes one: with the authority that the webhook's configuration names.
func serve(t *testing.T) func(*corev1.Pod) *admissionv1.AdmissionResponse {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	certDir := filepath.Join(t.TempDir(), "certificates")
	mgr, err := ctrl.NewManager(apitest.Config(t), ctrl.Options{
		Scheme: apitest.Scheme(), Metrics: server.Options{BindAddress: "0"},
		WebhookServer: webhook.NewServer(webhook.Options{Host: "127.0.0.1", Port: port, CertDir: certDir}),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := podinject.SetupWithManager(mgr, podinject.Options{
		MountRoot: contract.DefaultMountRoot, Namespace: namespace, Secret: secretName, CertDir: certDir,
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := mgr.Start(ctx); err != nil {
			t.Errorf("run manager: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })

	return func(pod *corev1.Pod) *admissionv1.AdmissionResponse {
		t.Helper()
		raw, err := json.Marshal(pod)
		if err != nil {
			t.Fatal(err)
		}
		review, err := json.Marshal(admissionv1.AdmissionReview{
			TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
			Request: &admissionv1.AdmissionRequest{
				UID: "1", Namespace: namespace, Operation: admissionv1.Create, Kind: metav1.GroupVersionKind{Version: "v1", Kind: "Pod"},
				Object: runtime.RawExtension{Raw: raw},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		answer := &admissionv1.AdmissionReview{}
		until(t, func() error { return post(t, port, review, answer) })
		return answer.Response
	}
}

func post(t *testing.T, port int, review []byte, answer *admissionv1.AdmissionReview) error {
	config := &admissionregistrationv1.MutatingWebhookConfiguration{}
	if err := apitest.Client(t).Get(t.Context(), client.ObjectKey{Name: contract.WebhookConfig}, config); err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(config.Webhooks[0].ClientConfig.CABundle) {
		return fmt.Errorf("the webhook's configuration names no authority yet")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: contract.WebhookConfig + "." + namespace + ".svc"}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Post(
		fmt.Sprintf("https://127.0.0.1:%d%s", port, contract.WebhookPath), "application/json", bytes.NewReader(review))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, body)
	}
	return json.Unmarshal(body, answer)
}

func TestWebhookServesPodsWithARotatedCertificate(t *testing.T) {
	sideEffects := admissionregistrationv1.SideEffectClassNone
	create(t,
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: secretName}},
		&admissionregistrationv1.MutatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: contract.WebhookConfig},
			Webhooks: []admissionregistrationv1.MutatingWebhook{{
				Name: "sidecar.webhook.fluid.io", AdmissionReviewVersions: []string{"v1"}, SideEffects: &sideEffects,
				ClientConfig: admissionregistrationv1.WebhookClientConfig{Service: &admissionregistrationv1.ServiceReference{
					Namespace: namespace, Name: contract.WebhookConfig, Path: ptr.To(contract.WebhookPath),
				}},
			}},
		})
	ask := serve(t)
	pod := load[corev1.Pod](t, "pod.yaml")
	pod.Name, pod.GenerateName, pod.Namespace = "train", "", ""

	// No Dataset yet.
	answer := ask(pod)
	if answer.Allowed || !strings.Contains(answer.Result.Message, "claim training does not exist") {
		t.Fatalf("without a Dataset: %+v", answer)
	}

	ds := &datav1alpha1.Dataset{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "training"},
		Spec: datav1alpha1.DatasetSpec{Mounts: []datav1alpha1.Mount{{MountPoint: "s3://bucket", Name: "b"}}}}
	create(t, ds)
	answer = ask(pod)
	if answer.Allowed || !strings.Contains(answer.Result.Message, "Dataset training is not bound") {
		t.Fatalf("with an unbound Dataset: %+v", answer)
	}

	// Bound. Handle asks the API server before it refuses: no wait for caches.
	ds.Status.Phase = datav1alpha1.BoundDatasetPhase
	if err := apitest.Client(t).Status().Update(t.Context(), ds); err != nil {
		t.Fatal(err)
	}
	template := *load[corev1.PodTemplateSpec](t, "client.yaml")
	template.Spec.NodeSelector = nil
	create(t,
		&corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "training", Labels: map[string]string{contract.LabelDatasetID: "default-training"}},
			Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
			},
		},
		&appsv1.DaemonSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "training-client", Labels: map[string]string{contract.LabelCacheRuntime: "training"}},
			Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{contract.LabelCacheRuntime: "training"}}, Template: template},
		})
	// The other claim of the pod is an ordinary one.
	create(t, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "plain"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	})
	answer = ask(pod)
	if !answer.Allowed {
		t.Fatalf("with a bound Dataset: %+v", answer.Result)
	}
	mutated := patched(t, pod, answer.Patch)
	if mutated.Labels[contract.LabelInjectDone] != "true" || mutated.Spec.InitContainers[0].Name != "fluid-fuse-0" {
		t.Errorf("no sidecar in %+v", mutated)
	}
	// A second pod of the same template has its own directory.
	if a, b := mutated.Spec.Volumes[0].HostPath.Path, patched(t, pod, ask(pod).Patch).Spec.Volumes[0].HostPath.Path; a == b {
		t.Errorf("two pods share %s", a)
	}
	// The API server takes the pod as it is now.
	mutated.Namespace = namespace
	create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "default"}})
	if err := client.NewDryRunClient(apitest.Client(t)).Create(t.Context(), mutated); err != nil {
		t.Errorf("the API server refuses the pod: %v", err)
	}
}

func patched(t *testing.T, pod *corev1.Pod, patch []byte) *corev1.Pod {
	t.Helper()
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	ops, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = ops.Apply(raw); err != nil {
		t.Fatal(err)
	}
	out := &corev1.Pod{}
	if err := json.Unmarshal(raw, out); err != nil {
		t.Fatal(err)
	}
	return out
}
