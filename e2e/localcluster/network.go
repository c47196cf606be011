package localcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
)

// maxClusters is how many clusters may run side by side; each has an index.
const maxClusters = 16

// plan is the addresses and interface names of the cluster with an index.
type plan struct{ index int }

func (p plan) bridge() string            { return fmt.Sprintf("mr%d", p.index) }
func (p plan) veth(node int) string      { return fmt.Sprintf("mr%dn%d", p.index, node) }
func (p plan) cgroup(node int) string    { return p.veth(node) }
func (p plan) gateway() string           { return fmt.Sprintf("172.30.%d.254", p.index) }
func (p plan) nodeIP(node int) string    { return fmt.Sprintf("172.30.%d.%d", p.index, 10+node) }
func (p plan) podRange() string          { return fmt.Sprintf("10.%d.0.0/16", 100+p.index) }
func (p plan) podSubnet(node int) string { return fmt.Sprintf("10.%d.%d.0/24", 100+p.index, node) }
func (p plan) serviceRange() string      { return fmt.Sprintf("10.%d.0.0/16", 150+p.index) }
func (p plan) serviceIP(n int) string    { return fmt.Sprintf("10.%d.0.%d", 150+p.index, n) }
func (p plan) server() string            { return "https://" + net.JoinHostPort(p.gateway(), "6443") }

// claim takes the first free index by making its bridge: making an interface
// that exists fails, so two clusters never get the same one.
func claim(ctx context.Context, record func(plan) error) (plan, error) {
	for i := range maxClusters {
		p := plan{index: i}
		if _, err := net.InterfaceByName(p.bridge()); err == nil {
			continue
		}
		if err := record(p); err != nil {
			return plan{}, err
		}
		if err := ip(ctx, "link", "add", p.bridge(), "type", "bridge"); err != nil {
			if strings.Contains(err.Error(), "File exists") {
				continue
			}
			return plan{}, err
		}
		return p, nil
	}
	return plan{}, fmt.Errorf("%d clusters run already; stop one of them", maxClusters)
}

// open gives the bridge its address, and first of all blackholes the ranges of
// pods and services: no packet for one that is gone leaves the machine.
func (p plan) open(ctx context.Context) error {
	return errors.Join(
		ip(ctx, "route", "replace", "blackhole", p.podRange()),
		ip(ctx, "route", "replace", "blackhole", p.serviceRange()),
		ip(ctx, "addr", "replace", p.gateway()+"/24", "dev", p.bridge()),
		ip(ctx, "link", "set", p.bridge(), "up"),
	)
}

// close undoes claim, open and connect. The kernel removes the interfaces of a
// dead namespace in its own time, so they are removed here.
func (p plan) close(ctx context.Context, nodes int) error {
	var errs []error
	for node := 1; node <= nodes; node++ {
		if _, err := net.InterfaceByName(p.veth(node)); err != nil {
			continue
		}
		if err := ip(ctx, "link", "del", p.veth(node)); err != nil && !strings.Contains(err.Error(), "Cannot find device") {
			errs = append(errs, err)
		}
	}
	for _, route := range []string{p.podRange(), p.serviceRange()} {
		if out, err := output(ctx, "ip", "route", "show", "type", "blackhole"); err == nil && strings.Contains(out, route) {
			errs = append(errs, ip(ctx, "route", "del", "blackhole", route))
		}
	}
	if _, err := net.InterfaceByName(p.bridge()); err == nil {
		errs = append(errs, ip(ctx, "link", "del", p.bridge()))
	}
	return errors.Join(errs...)
}

// connect plugs the network namespace of pid into the bridge as a node of many.
func (p plan) connect(ctx context.Context, node, pid, nodes int) error {
	if _, err := net.InterfaceByName(p.veth(node)); err == nil {
		if err := ip(ctx, "link", "del", p.veth(node)); err != nil {
			return err
		}
	}
	inside := func(args ...string) error {
		return run(ctx, "nsenter", append([]string{"--target", fmt.Sprint(pid), "--net", "ip"}, args...)...)
	}
	steps := []func() error{
		func() error {
			return ip(ctx, "link", "add", p.veth(node), "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(pid))
		},
		func() error { return ip(ctx, "link", "set", p.veth(node), "master", p.bridge(), "up") },
		func() error { return inside("link", "set", "lo", "up") },
		func() error { return inside("addr", "add", p.nodeIP(node)+"/24", "dev", "eth0") },
		func() error { return inside("link", "set", "eth0", "up") },
		// Services are translated on the node itself; the route only lets the packet out so far.
		func() error { return inside("route", "add", p.serviceRange(), "via", p.gateway()) },
		func() error { return inside("route", "add", "blackhole", p.podRange()) },
		func() error { return ip(ctx, "route", "replace", p.podSubnet(node), "via", p.nodeIP(node)) },
	}
	for other := 1; other <= nodes; other++ {
		if other != node {
			steps = append(steps, func() error { return inside("route", "add", p.podSubnet(other), "via", p.nodeIP(other)) })
		}
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("connect node %d: %w", node, err)
		}
	}
	return nil
}

func ip(ctx context.Context, args ...string) error { return run(ctx, "ip", args...) }

func run(ctx context.Context, name string, args ...string) error {
	_, err := output(ctx, name, args...)
	return err
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &errs, append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}
