package localcluster

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// Leftovers lists what is on the machine of the cluster with an index: its
// processes, mounts, interfaces, routes and control groups. After Stop there is
// nothing.
func Leftovers(ctx context.Context, outDir, name string, index int) ([]string, error) {
	p := plan{index: index}
	var out []string
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range interfaces {
		if i.Name == p.bridge() || strings.HasPrefix(i.Name, p.bridge()+"n") {
			out = append(out, "interface "+i.Name)
		}
	}
	routes, err := output(ctx, "ip", "route", "show")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(routes) {
		for _, prefix := range []string{fmt.Sprintf("10.%d.", 100+index), fmt.Sprintf("10.%d.", 150+index), fmt.Sprintf("172.30.%d.", index)} {
			if strings.Contains(line, prefix) {
				out = append(out, "route "+strings.TrimSpace(line))
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	dir := stateDir(outDir, name)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) {
			out = append(out, "mount "+strings.TrimSpace(line))
		}
	}
	for _, pattern := range []string{cgroupRoot + "/" + p.bridge() + "n*", cgroupRoot + "/*/" + p.bridge() + "n*", dir} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	for _, file := range processes {
		if data, err := os.ReadFile(file); err == nil && strings.Contains(string(data), dir+"/") {
			out = append(out, "process "+strings.ReplaceAll(string(data), "\x00", " "))
		}
	}
	return out, nil
}

// Index tells which addresses and interface names the cluster has.
func (c *Cluster) Index() int { return c.plan.index }
