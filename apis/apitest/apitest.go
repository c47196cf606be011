// Package apitest runs a real API server with Millrace's CRDs for tests of what
// only an API server can say: validation, defaulting, apply, watches.
package apitest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	apiruntime "k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	cachev1alpha1 "github.com/millrace/millrace/apis/cache/v1alpha1"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// Scheme knows Kubernetes' kinds and ours.
func Scheme() *apiruntime.Scheme {
	scheme := apiruntime.NewScheme()
	for _, add := range []func(*apiruntime.Scheme) error{clientgoscheme.AddToScheme, datav1alpha1.AddToScheme, cachev1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err) // kinds registered twice
		}
	}
	return scheme
}

var shared *rest.Config

// Main starts one API server for all tests of a binary, runs them, and stops
// it: func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }.
func Main(m *testing.M) int {
	_, here, _, _ := runtime.Caller(0)
	repository := filepath.Join(filepath.Dir(here), "..", "..")
	bin := filepath.Join(repository, "out", "bin")
	for _, name := range []string{"kube-apiserver", "etcd"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			fmt.Fprintf(os.Stderr, "apitest: %v: run `make tools`\n", err)
			return 1
		}
	}
	env := &envtest.Environment{
		BinaryAssetsDirectory: bin,
		CRDDirectoryPaths:     []string{filepath.Join(repository, "charts", "millrace", "crds")},
		ErrorIfCRDPathMissing: true,
	}
	cfg, err := env.Start()
	if err != nil {
		// It may be up all the same, with definitions that it refused.
		fmt.Fprintln(os.Stderr, "apitest: start API server:", errors.Join(err, env.Stop()))
		return 1
	}
	cfg.QPS, cfg.Burst = 500, 1000
	shared = cfg
	code := m.Run()
	if err := env.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "apitest: stop API server:", err)
		return 1
	}
	return code
}

// Config reaches the API server as its administrator.
func Config(t testing.TB) *rest.Config {
	t.Helper()
	if shared == nil {
		t.Fatal("apitest: no API server runs: TestMain must call apitest.Main")
	}
	return rest.CopyConfig(shared)
}

// Client reads and writes without a cache.
func Client(t testing.TB) client.Client {
	t.Helper()
	c, err := client.New(Config(t), client.Options{Scheme: Scheme()})
	if err != nil {
		t.Fatalf("apitest: %v", err)
	}
	return c
}
