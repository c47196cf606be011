package localcluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// nodeSpec is what the first process of a node is told.
type nodeSpec struct {
	Name, IP, Root, Files, Bin, PodRange string
}

// RunNode is the first process of a node: it makes the node's own root, starts
// containerd, kubelet and kube-proxy, starts them again when they end, and
// reaps what is left to it. It never returns but for an error; the end of this
// process is the end of the node.
func RunNode(specFile string) error {
	data, err := os.ReadFile(specFile)
	if err != nil {
		return err
	}
	var spec nodeSpec
	if err := json.Unmarshal(data, &spec); err != nil {
		return fmt.Errorf("decode %s: %w", specFile, err)
	}
	// The parent closes the pipe when the network is there.
	ready := os.NewFile(3, "network")
	if _, err := io.Copy(io.Discard, ready); err != nil {
		return fmt.Errorf("wait for network: %w", err)
	}
	ready.Close()
	if err := enterRoot(spec); err != nil {
		return fmt.Errorf("make root of node %s: %w", spec.Name, err)
	}
	if err := unix.Sethostname([]byte(spec.Name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	for file, value := range map[string]string{"/proc/sys/net/ipv4/ip_forward": "1", "/proc/sys/net/ipv4/conf/all/rp_filter": "0"} {
		if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
			return fmt.Errorf("set %s: %w", file, err)
		}
	}
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM)
	return superviseNode([]service{
		{"containerd", []string{"/usr/bin/containerd", "--config", nodeFiles + "/containerd.toml"}},
		{"kubelet", []string{nodeBin + "/kubelet", "--config=" + nodeFiles + "/kubelet.yaml", "--kubeconfig=" + nodeFiles + "/kubelet.kubeconfig",
			"--hostname-override=" + spec.Name, "--node-ip=" + spec.IP, "--root-dir=/var/lib/kubelet", "--v=2"}},
		{"kube-proxy", []string{nodeBin + "/kube-proxy", "--kubeconfig=" + nodeFiles + "/proxy.kubeconfig", "--proxy-mode=nftables",
			"--cluster-cidr=" + spec.PodRange, "--conntrack-max-per-core=0", "--hostname-override=" + spec.Name, "--v=1"}},
	})
}

// enterRoot makes spec.Root, a plain directory on the machine's disk, the root
// of this mount namespace: host paths of pods are the node's own and lie on a
// real file system, and nothing of them touches the machine.
func enterRoot(spec nodeSpec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	root := spec.Root
	for _, dir := range []string{"dev", "proc", "sys", "tmp", "run", "var/lib", "var/log/pods", "var/log/containers", "opt", "root", "mnt", "srv", "oldroot", nodeFiles, nodeBin} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o1777); err != nil {
		return err
	}
	if err := bind(root, root, 0); err != nil {
		return err
	}
	for _, dir := range []string{"usr", "etc", "bin", "sbin", "lib", "lib32", "lib64"} {
		if err := borrow("/"+dir, filepath.Join(root, dir)); err != nil {
			return err
		}
	}
	for from, to := range map[string]string{"/dev": "dev", "/sys": "sys", spec.Files: nodeFiles, spec.Bin: nodeBin} {
		if err := bind(from, filepath.Join(root, to), 0); err != nil {
			return err
		}
	}
	for _, m := range []struct{ kind, at, options string }{
		{"proc", "proc", ""}, {"tmpfs", "run", "mode=755"}, {"tmpfs", "dev/shm", "mode=1777"},
	} {
		if err := unix.Mount(m.kind, filepath.Join(root, m.at), m.kind, unix.MS_NOSUID, m.options); err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.kind, m.at, err)
		}
	}
	if err := unix.PivotRoot(root, filepath.Join(root, "oldroot")); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Unmount("/oldroot", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave old root: %w", err)
	}
	// Mounts of one pod reach others: FUSE needs it.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	return nil
}

// borrow shows a directory of the host read-only, or repeats its symbolic link.
func borrow(from, to string) error {
	if link, err := os.Readlink(from); err == nil {
		if err := os.Symlink(link, to); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		return nil
	}
	if _, err := os.Stat(from); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	return bind(from, to, unix.MS_RDONLY)
}

func bind(from, to string, flags uintptr) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", from, to, err)
	}
	if flags != 0 {
		if err := unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|flags, ""); err != nil {
			return fmt.Errorf("remount %s: %w", to, err)
		}
	}
	return nil
}

// service is a process that a node always runs.
type service struct {
	name string
	argv []string
}

func superviseNode(services []service) error {
	running := map[int]service{}
	for _, s := range services {
		pid, err := s.start()
		if err != nil {
			return err
		}
		running[pid] = s
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for processes: %w", err)
		}
		s, ours := running[pid]
		if !ours {
			continue // an orphan of a container
		}
		delete(running, pid)
		fmt.Fprintf(os.Stderr, "%s ended with %v; starting it again\n", s.name, status)
		time.Sleep(500 * time.Millisecond) // so that one that always fails does not spin
		if pid, err = s.start(); err != nil {
			return err
		}
		running[pid] = s
	}
}

func (s service) start() (pid int, err error) {
	log, err := os.OpenFile(filepath.Join(nodeFiles, "logs", s.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd := exec.Command(s.argv[0], s.argv[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin:" + nodeBin, "HOME=/root"}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start %s: %w", s.name, err)
	}
	return cmd.Process.Pid, nil
}
