package csi_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/csi"
	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/fuse/fusetest"
)

// admin may do everything in the API server of the tests; plugin only what the
// node plugin's ClusterRole allows.
var admin, plugin kubernetes.Interface

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	// The leak check covers this package: what the API server's clients keep
	// running is started first.
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		os.Setenv("KUBEBUILDER_ASSETS", filepath.Join("..", "..", "out", "bin"))
	}
	env := &envtest.Environment{}
	config, err := env.Start()
	if err != nil {
		fmt.Fprintln(os.Stderr, "these tests need kube-apiserver and etcd in $KUBEBUILDER_ASSETS (make tools):", err)
		return 1
	}
	defer env.Stop()
	admin = kubernetes.NewForConfigOrDie(config)
	ctx := context.Background()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "csi-node"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"patch"}},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list", "watch"}},
	}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "csi-node"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "csi-node"},
		Subjects:   []rbacv1.Subject{{Kind: "Group", APIGroup: rbacv1.GroupName, Name: "csi-node"}},
	}
	if _, err = admin.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err == nil {
		_, err = admin.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{})
	}
	if err == nil {
		var user *envtest.AuthenticatedUser
		if user, err = env.AddUser(envtest.User{Name: "csi-node", Groups: []string{"csi-node"}}, nil); err == nil {
			plugin = kubernetes.NewForConfigOrDie(user.Config())
			_, err = plugin.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "prepare the API server:", err)
		return 1
	}
	before := goleak.IgnoreCurrent()
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(before,
			goleak.IgnoreAnyFunction("github.com/onsi/ginkgo/v2/internal/interrupt_handler.(*InterruptHandler).registerForInterrupts.func2"),
			goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"), // of the API clients
			goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
			goleak.IgnoreAnyFunction("net/http.(*http2clientConnReadLoop).run"),
			goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*clientConnReadLoop).run"),
		); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// station is one node with the plugin running on it.
type station struct {
	t          *testing.T
	driver     *csi.Driver
	name       string
	kubeletDir string
	root       string
	node       csiapi.NodeClient
	conn       *grpc.ClientConn
}

// start runs the plugin on a node of its own, below a temporary directory.
func start(t *testing.T, change ...func(*csi.Config)) *station {
	t.Helper()
	// Socket paths have 107 bytes at most: t.TempDir is too long.
	dir, err := os.MkdirTemp("", "csi")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &station{
		t: t, name: filepath.Base(dir),
		kubeletDir: filepath.Join(dir, "kubelet"), root: filepath.Join(dir, "runtime-mnt"),
	}
	s.name = strings.ToLower(s.name)
	for _, d := range []string{s.kubeletDir, s.root} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: s.name}}
	if _, err := admin.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	config := csi.Config{
		NodeName: s.name, KubeletDir: s.kubeletDir, MountRoot: s.root,
		PublishTimeout: 20 * time.Second, ProbeTimeout: 2 * time.Second, Client: plugin,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	for _, c := range change {
		c(&config)
	}
	if s.driver, err = csi.New(config); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.driver.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	s.eventually("the plugin is ready", func() bool { return s.driver.Ready() == nil })
	s.conn = dial(t, s.socket())
	s.node = csiapi.NewNodeClient(s.conn)
	return s
}

func (s *station) socket() string {
	return filepath.Join(s.kubeletDir, "plugins", contract.CSIDriver, "csi.sock")
}

func dial(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", addr)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (s *station) eventually(what string, is func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("timed out: %s", what)
		}
	}
}

// fusePath is where the FUSE of the Dataset ns/data is mounted.
func (s *station) fusePath() string {
	return contract.FuseMountPath(s.root, contract.RuntimeCache, "ns", "data")
}

// mountFUSE serves content at dir until the test ends.
func (s *station) mountFUSE(dir string, content fusetest.Content) *fuse.Server {
	s.t.Helper()
	tree, err := fusetest.NewTree(s.t.TempDir(), content)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(tree.Close)
	_, server := fusetest.MountWith(s.t, tree, fuse.Options{Dir: dir})
	return server
}

// mountSilent mounts a FUSE that nobody serves yet: it hangs until kill is
// called, and is dead from then on.
func (s *station) mountSilent(dir string) (kill func()) {
	s.t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil && !isMount(s.t, dir) {
		s.t.Fatal(err)
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		s.t.Fatalf("these tests need /dev/fuse: %v", err)
	}
	opts := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd)
	if err := unix.Mount("millrace", dir, fuse.FSType, unix.MS_RDONLY, opts); err != nil {
		s.t.Fatal(err)
	}
	alive := true
	kill = func() {
		if alive {
			unix.Close(fd)
			alive = false
		}
	}
	s.t.Cleanup(func() {
		kill()
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	})
	return kill
}

func (s *station) mountDead(dir string) {
	s.t.Helper()
	s.mountSilent(dir)()
}

// target is a target path as the kubelet makes them.
func (s *station) target(pod string) string {
	s.t.Helper()
	dir := filepath.Join(s.kubeletDir, "pods", pod, "volumes", "kubernetes.io~csi", "ns-data")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		s.t.Fatal(err)
	}
	target := filepath.Join(dir, "mount")
	s.t.Cleanup(func() {
		for unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
		}
	})
	return target
}

var label = contract.FuseNodeLabel("ns", "data", "")

// request publishes the Dataset ns/data at target.
func (s *station) request(target string, attrs map[string]string) *csiapi.NodePublishVolumeRequest {
	all := map[string]string{
		contract.AttrFluidPath:        s.fusePath(),
		contract.AttrMountType:        contract.FuseMountType,
		contract.AttrRuntimeNamespace: "ns",
		contract.AttrRuntimeName:      "data",
		contract.AttrFuseNodeLabel:    label,
	}
	for k, v := range attrs {
		all[k] = v
		if v == "" {
			delete(all, k)
		}
	}
	return &csiapi.NodePublishVolumeRequest{
		VolumeId: "ns-data", TargetPath: target, VolumeContext: all, Readonly: true,
		VolumeCapability: &csiapi.VolumeCapability{
			AccessType: &csiapi.VolumeCapability_Mount{Mount: &csiapi.VolumeCapability_MountVolume{}},
			AccessMode: &csiapi.VolumeCapability_AccessMode{Mode: csiapi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY},
		},
	}
}

func (s *station) publish(target string, attrs map[string]string) error {
	_, err := s.node.NodePublishVolume(s.t.Context(), s.request(target, attrs))
	return err
}

func (s *station) unpublish(target string) error {
	_, err := s.node.NodeUnpublishVolume(s.t.Context(), &csiapi.NodeUnpublishVolumeRequest{VolumeId: "ns-data", TargetPath: target})
	return err
}

func (s *station) mustPublish(target string, attrs map[string]string) {
	s.t.Helper()
	if err := s.publish(target, attrs); err != nil {
		s.t.Fatalf("publish: %v", err)
	}
}

func (s *station) mustUnpublish(target string) {
	s.t.Helper()
	if err := s.unpublish(target); err != nil {
		s.t.Fatalf("unpublish: %v", err)
	}
	if _, err := os.Lstat(target); !os.IsNotExist(err) {
		s.t.Errorf("the target is still there: %v", err)
	}
}

func (s *station) wantFile(path, want string) {
	s.t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		s.t.Errorf("read %s: %q, %v; want %q", path, got, err, want)
	}
}
