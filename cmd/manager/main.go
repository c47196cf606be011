// Command manager runs every controller of Millrace and its webhook.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	configv1alpha1 "github.com/millrace/millrace/apis/config/v1alpha1"
	"github.com/millrace/millrace/apis/contract"
)

// flags of the manager.
type flags struct {
	config         string
	mountRoot      string
	nativeImage    string
	pullPolicy     string
	namespace      string
	healthAddress  string
	metricsAddress string
	pprof          string
	leaderElect    bool
	webhook        bool
	webhookSecret  string
	certificateDir string
}

func main() {
	if err := command().ExecuteContext(ctrl.SetupSignalHandler()); err != nil {
		fmt.Fprintln(os.Stderr, "manager:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	f := &flags{}
	c := &cobra.Command{
		Use:           "manager",
		Short:         "Run Millrace's controllers and webhook",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), f) },
	}
	fs := c.Flags()
	fs.StringVar(&f.config, "config", "", "file with a ManagerConfiguration of "+configv1alpha1.APIVersion+"; all defaults if empty")
	fs.StringVar(&f.mountRoot, "mount-root", contract.DefaultMountRoot, "host directory below which FUSE file systems are mounted")
	fs.StringVar(&f.nativeImage, "native-image", "ghcr.io/millrace/cache:latest", "image of the native engine")
	fs.StringVar(&f.pullPolicy, "image-pull-policy", string(corev1.PullIfNotPresent), "pull policy of the native engine's image")
	fs.StringVar(&f.namespace, "namespace", contract.SystemNamespace, "namespace that the manager runs in")
	fs.StringVar(&f.healthAddress, "health-address", ":8081", "address of /healthz and /readyz")
	fs.StringVar(&f.metricsAddress, "metrics-address", ":8080", "address of /metrics; 0 for none")
	fs.StringVar(&f.pprof, "pprof", os.Getenv(contract.EnvPprof), "where to serve profiles, such as 127.0.0.1:6060; empty for nowhere")
	fs.BoolVar(&f.leaderElect, "leader-elect", false, "let one of several managers lead")
	fs.BoolVar(&f.webhook, "webhook", true, "serve the pod webhook")
	fs.StringVar(&f.webhookSecret, "webhook-secret", "millrace-webhook-certificate", "Secret that holds the webhook's certificate")
	fs.StringVar(&f.certificateDir, "certificate-dir", "/run/millrace/certificates", "directory of the webhook's certificate")
	logging := flag.NewFlagSet("logging", flag.ExitOnError)
	klog.InitFlags(logging)
	fs.AddGoFlag(logging.Lookup("v"))
	return c
}

func run(ctx context.Context, f *flags) error {
	ctrl.SetLogger(klog.NewKlogr())
	decided, err := readConfiguration(f.config)
	if err != nil {
		return err
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("read cluster configuration: %w", err)
	}
	// The API server's priority and fairness bounds clients better than they do
	// themselves; what this one asks at once is bounded by its workers.
	config.QPS = -1
	mgr, err := newManager(config, f)
	if err != nil {
		return err
	}
	// Streams of summaries stay open; each has its own watch over silence.
	if err := addControllers(ctx, mgr, f, decided, &http.Client{}); err != nil {
		return err
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("run manager: %w", err)
	}
	return nil
}

// readConfiguration reads what the administrator decided.
func readConfiguration(file string) (*configv1alpha1.ManagerConfiguration, error) {
	if file == "" {
		return &configv1alpha1.ManagerConfiguration{}, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read --config: %w", err)
	}
	c, err := configv1alpha1.DecodeManagerConfiguration(data)
	if err != nil {
		return nil, fmt.Errorf("--config %s: %w", file, err)
	}
	return c, nil
}
