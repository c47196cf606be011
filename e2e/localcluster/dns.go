package localcluster

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/millrace/millrace/e2e/localcluster/image"
)

//go:embed coredns.yaml
var dnsManifest string

const busyboxImage = "docker.io/local/busybox:dev"

func (c *Cluster) imageFile(name string) string {
	return filepath.Join(c.cfg.OutDir, "images", name+".tar")
}

// systemImages are what every cluster's nodes have.
func (c *Cluster) systemImages() []string {
	return []string{c.imageFile("pause"), c.imageFile("coredns"), c.imageFile("busybox")}
}

// packSystemImages makes the images that every cluster needs, if their binaries
// are newer than what is there.
func (c *Cluster) packSystemImages(context.Context) error {
	busybox, err := image.Busybox("/usr/bin/busybox", busyboxImage)
	if err != nil {
		return err
	}
	for file, spec := range map[string]image.Spec{
		"pause":   {Name: pauseImage, Files: map[string]string{c.bin("pause"): "/bin/pause"}, Entrypoint: []string{"/bin/pause"}},
		"coredns": {Name: "docker.io/local/coredns:dev", Files: map[string]string{c.bin("coredns"): "/bin/coredns"}, Entrypoint: []string{"/bin/coredns"}},
		"busybox": busybox,
	} {
		if fresh(c.imageFile(file), spec) {
			continue
		}
		if err := image.Write(c.imageFile(file), spec); err != nil {
			return err
		}
	}
	return nil
}

func fresh(archive string, spec image.Spec) bool {
	made, err := os.Stat(archive)
	if err != nil {
		return false
	}
	for file := range spec.Files {
		if st, err := os.Stat(file); err != nil || st.ModTime().After(made.ModTime()) {
			return false
		}
	}
	return true
}

func (c *Cluster) startDNS(ctx context.Context) error {
	cfg, err := clientcmd.BuildConfigFromFlags("", filepath.Join(c.dir, "kubeconfig"))
	if err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return err
	}
	api, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return err
	}
	manifest := strings.NewReplacer("$CLUSTER_IP", c.plan.serviceIP(10), "$FIRST_NODE", c.state.Nodes[0]).Replace(dnsManifest)
	docs := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096)
	for {
		obj := &unstructured.Unstructured{}
		if err := docs.Decode(obj); err != nil {
			break
		}
		if err := api.Apply(ctx, client.ApplyConfigurationFromUnstructured(obj), client.FieldOwner("localcluster"), client.ForceOwnership); err != nil {
			return fmt.Errorf("apply %s %s: %w", obj.GetKind(), obj.GetName(), err)
		}
	}
	return eventually(ctx, 90*time.Second, "CoreDNS is available", func() error {
		dep := &appsv1.Deployment{}
		if err := api.Get(ctx, types.NamespacedName{Namespace: "kube-system", Name: "coredns"}, dep); err != nil {
			return err
		}
		if dep.Status.AvailableReplicas == 0 {
			return fmt.Errorf("no replica is available")
		}
		return nil
	})
}
