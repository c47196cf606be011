package podinject_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/yaml"

	"github.com/millrace/millrace/apis/apitest"
	cachev1alpha1 "github.com/millrace/millrace/apis/cache/v1alpha1"
	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/webhook/podinject"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }

const patience = 90 * time.Second

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

// door is the webhook before a real API server, as the chart installs it: its
// Secret, its MutatingWebhookConfiguration and the name of its Service are the
// chart's own. In the Service's place stands one that leads to this process.
type door struct {
	client.Client
	t    *testing.T
	port int
	stop func() // ends the webhook; the API server goes on asking for it
}

// open installs the chart's webhook and serves it, once in a process: the
// library that rotates its certificate has one name for its controller.
func open(t *testing.T) *door {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{Client: apitest.Client(t), t: t, port: listener.Addr().(*net.TCPAddr).Port}
	listener.Close()
	d.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: contract.SystemNamespace}})
	for _, obj := range d.render() {
		switch obj := obj.(type) {
		case *corev1.Service:
			obj.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"}
		case *admissionregistrationv1.MutatingWebhookConfiguration:
			for i := range obj.Webhooks {
				obj.Webhooks[i].ClientConfig.Service.Port = ptr.To(int32(d.port))
				obj.Webhooks[i].TimeoutSeconds = ptr.To[int32](30) // a busy machine
			}
		}
		d.create(obj)
	}
	d.serve()
	// The API server reads the configuration's authority from a watch.
	until(t, func() error {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "probe", Labels: map[string]string{contract.LabelServerlessFuse: "true"}},
			Spec: corev1.PodSpec{AutomountServiceAccountToken: ptr.To(false), Containers: []corev1.Container{{Name: "c", Image: "i"}},
				Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "no-such-dataset"}}}}}}
		if err := d.Create(t.Context(), pod, client.DryRunAll); err == nil || !strings.Contains(err.Error(), "claim no-such-dataset does not exist") {
			return fmt.Errorf("the webhook is not asked yet: %w", err)
		}
		return nil
	})
	return d
}

// render gives the objects of the chart's webhook.
func (d *door) render() (out []client.Object) {
	d.t.Helper()
	var text, errs bytes.Buffer
	cmd := exec.CommandContext(d.t.Context(), "../../out/bin/helm", "template", "millrace", "../../charts/millrace",
		"--namespace", contract.SystemNamespace, "--kube-version", "1.34.0", "--show-only", "templates/webhook.yaml")
	cmd.Stdout, cmd.Stderr = &text, &errs
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+d.t.TempDir(), "HELM_CONFIG_HOME="+d.t.TempDir(), "HELM_DATA_HOME="+d.t.TempDir())
	if err := cmd.Run(); err != nil {
		d.t.Fatalf("render the chart (make tools builds helm): %v\n%s", err, &errs)
	}
	for docs := utilyaml.NewYAMLOrJSONDecoder(&text, 4096); ; {
		raw := &unstructured.Unstructured{}
		if err := docs.Decode(raw); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			d.t.Fatal(err)
		}
		obj, err := apitest.Scheme().New(raw.GroupVersionKind())
		if err != nil {
			d.t.Fatal(err)
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(raw.Object, obj, true); err != nil {
			d.t.Fatal(err)
		}
		out = append(out, obj.(client.Object))
	}
}

// serve runs the webhook in a manager, as cmd/manager does.
func (d *door) serve() {
	d.t.Helper()
	certDir := filepath.Join(d.t.TempDir(), "certificates")
	mgr, err := ctrl.NewManager(apitest.Config(d.t), ctrl.Options{
		Scheme: apitest.Scheme(), Metrics: server.Options{BindAddress: "0"}, Logger: logr.Discard(),
		WebhookServer: webhook.NewServer(webhook.Options{Host: "127.0.0.1", Port: d.port, CertDir: certDir}),
	})
	if err != nil {
		d.t.Fatal(err)
	}
	if err := podinject.SetupWithManager(mgr, podinject.Options{
		MountRoot: contract.DefaultMountRoot, Namespace: contract.SystemNamespace, Secret: "millrace-webhook-certificate", CertDir: certDir,
	}); err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := mgr.Start(ctx); err != nil {
			d.t.Errorf("run manager: %v", err)
		}
	}()
	d.stop = sync.OnceFunc(func() { cancel(); <-done })
	d.t.Cleanup(d.stop)
}

func (d *door) create(objs ...client.Object) {
	d.t.Helper()
	for _, obj := range objs {
		status := obj.DeepCopyObject().(client.Object)
		if err := d.Create(d.t.Context(), obj); err != nil {
			d.t.Fatalf("create %T %s: %v", obj, obj.GetName(), err)
		}
		if ds, ok := status.(*datav1alpha1.Dataset); ok {
			ds.ResourceVersion, ds.UID = obj.GetResourceVersion(), obj.GetUID()
			if err := d.Status().Update(d.t.Context(), ds); err != nil {
				d.t.Fatalf("write status of Dataset %s: %v", ds.Name, err)
			}
		}
	}
}

// dataset makes what there is of a Dataset when its runtime serves: the claim,
// the FUSE pods' template, and where its bytes lie.
func (d *door) dataset(namespace, name string, t contract.RuntimeType, phase datav1alpha1.DatasetPhase) {
	d.t.Helper()
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name}
	ds := &datav1alpha1.Dataset{ObjectMeta: meta, Spec: datav1alpha1.DatasetSpec{Mounts: []datav1alpha1.Mount{{MountPoint: "s3://bucket", Name: "b"}}},
		Status: datav1alpha1.DatasetStatus{Phase: phase}}
	d.create(ds)
	if phase == datav1alpha1.NotBoundDatasetPhase {
		return
	}
	claim := claimOf(namespace, name)
	claim.Labels = map[string]string{contract.LabelDatasetID: namespace + "-" + name}
	d.create(claim)
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: contract.ClientName(t, name), Labels: map[string]string{contract.LabelCacheRuntime: name}}}
	set.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{contract.LabelCacheRuntime: name}}
	text, err := os.ReadFile("testdata/client.yaml")
	if err != nil {
		d.t.Fatal(err)
	}
	for old, now := range map[string]string{"default-training": namespace + "-training", "/default/": "/" + namespace + "/", "value: default": "value: " + namespace} {
		text = bytes.ReplaceAll(text, []byte(old), []byte(now))
	}
	text = bytes.ReplaceAll(text, []byte("training"), []byte(name))
	text = bytes.ReplaceAll(text, []byte("/runtime-mnt/cache/"), []byte("/runtime-mnt/"+t+"/"))
	text = bytes.ReplaceAll(text, []byte("cache-fuse"), []byte(t+"-fuse"))
	if err := yaml.UnmarshalStrict(text, &set.Spec.Template); err != nil {
		d.t.Fatal(err)
	}
	d.create(set, &cachev1alpha1.LocalitySlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name + "-0", Labels: map[string]string{cachev1alpha1.LabelDataset: name}},
		Dataset:    cachev1alpha1.DatasetReference{Name: name, UID: string(ds.UID)}, TotalBytes: 1000,
		Nodes: []cachev1alpha1.NodeBytes{{NodeName: "a", CachedBytes: 250}, {NodeName: "b", CachedBytes: 1000}},
	})
}

func claimOf(namespace, name string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}
}
