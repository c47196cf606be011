// Package scale runs the real manager against a real API server and the real
// controllers of Kubernetes, with more Datasets than one machine could serve.
// What is stood in for are kubelets, which here only say that pods run, and the
// masters of the caches, of which only the HTTP interface is there.
package scale

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	cachev1alpha1 "github.com/millrace/millrace/apis/cache/v1alpha1"
	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// Stand is a control plane with nodes that are names only.
type Stand struct {
	client.Client
	Config  *rest.Config
	Masters *Masters
	dir     string // of logs
	bin     string
	env     *envtest.Environment
	kcm     *exec.Cmd
	kubelet *kubelet
}

// Open starts a control plane from the binaries of a source tree's out/bin.
// Logs go to dir.
func Open(ctx context.Context, tree, dir string, nodes int) (_ *Stand, err error) {
	ctrl.SetLogger(klog.NewKlogr())
	s := &Stand{dir: dir, bin: filepath.Join(tree, "out", "bin"), Masters: newMasters()}
	s.env = &envtest.Environment{
		CRDDirectoryPaths: []string{filepath.Join(tree, "charts", "millrace", "crds")}, ErrorIfCRDPathMissing: true,
		BinaryAssetsDirectory: s.bin,
	}
	args := s.env.ControlPlane.GetAPIServer().Configure()
	args.Set("disable-admission-plugins", "ServiceAccount")
	if s.Config, err = s.env.Start(); err != nil {
		return nil, fmt.Errorf("start API server: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	s.Config.QPS, s.Config.Burst = -1, 0 // as fast as it goes: this is no client that should be polite
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), datav1alpha1.AddToScheme(scheme), cachev1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	if s.Client, err = client.New(s.Config, client.Options{Scheme: scheme}); err != nil {
		return nil, fmt.Errorf("open API server: %w", err)
	}
	if err := s.startControllers(); err != nil {
		return nil, err
	}
	for i := range nodes {
		if err := s.addNode(ctx, fmt.Sprintf("node-%d", i)); err != nil {
			return nil, err
		}
	}
	if s.kubelet, err = startKubelet(s.Config, s.Masters, nodes); err != nil {
		return nil, err
	}
	class := &datav1alpha1.CacheRuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: contract.NativeClass}, FileSystemType: contract.NativeClass}
	return s, s.Create(ctx, class)
}

// Close ends all of it.
func (s *Stand) Close() error {
	if s.kubelet != nil {
		s.kubelet.stop()
	}
	s.Masters.close()
	if s.kcm != nil {
		_ = s.kcm.Process.Kill()
		_ = s.kcm.Wait()
	}
	return s.env.Stop()
}

// startControllers starts Kubernetes' own for the kinds that we make.
func (s *Stand) startControllers() error {
	user, err := s.env.AddUser(envtest.User{Name: "kube-controller-manager", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		return fmt.Errorf("make a user: %w", err)
	}
	kubeconfig, err := user.KubeConfig()
	if err != nil {
		return fmt.Errorf("make a kubeconfig: %w", err)
	}
	file := filepath.Join(s.dir, "controllers.kubeconfig")
	if err := os.WriteFile(file, kubeconfig, 0o600); err != nil {
		return err
	}
	s.kcm, err = s.spawn("kube-controller-manager", nil, "--kubeconfig="+file, "--leader-elect=false", "--secure-port=0",
		"--controllers=garbagecollector,statefulset,daemonset,job,namespace,persistentvolume-binder,pv-protection,pvc-protection",
		"--kube-api-qps=1000", "--kube-api-burst=1000", "--concurrent-statefulset-syncs=10", "--pvclaimbinder-sync-period=5s",
		"--kube-api-content-type=application/vnd.kubernetes.protobuf", "--v=1")
	return err
}

func (s *Stand) addNode(ctx context.Context, name string) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	if err := s.Create(ctx, node); err != nil {
		return fmt.Errorf("make node %s: %w", name, err)
	}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}
	if err := s.Status().Update(ctx, node); err != nil {
		return fmt.Errorf("make node %s ready: %w", name, err)
	}
	return nil
}

// spawn starts a program of out/bin that ends with this process.
func (s *Stand) spawn(program string, env []string, args ...string) (*exec.Cmd, error) {
	log, err := os.OpenFile(filepath.Join(s.dir, program+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(s.bin, program), args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s (make tools build makes it): %w", program, err)
	}
	return cmd, nil
}

// Manager starts a manager that reaches the API server at address.
func (s *Stand) Manager(address string) (*exec.Cmd, error) {
	file := filepath.Join(s.dir, "manager.kubeconfig")
	if err := os.WriteFile(file, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: stand, cluster: {server: %q}}]
contexts: [{name: stand, context: {cluster: stand}}]
current-context: stand
`, address), 0o600); err != nil {
		return nil, err
	}
	return s.spawn("manager", []string{"KUBECONFIG=" + file}, "--webhook=false", "--metrics-address=0", "--health-address=0", "--native-image=cache:dev")
}
