package image

import (
	"fmt"
	"os/exec"
	"strings"
)

// Busybox is a shell image made of Debian's static busybox, with a link for
// each of its applets.
func Busybox(binary, name string) (Spec, error) {
	out, err := exec.Command(binary, "--list").Output()
	if err != nil {
		return Spec{}, fmt.Errorf("list applets of %s: %w", binary, err)
	}
	links := map[string]string{}
	for _, applet := range strings.Fields(string(out)) {
		if applet != "busybox" {
			links["/bin/"+applet] = "busybox"
		}
	}
	return Spec{Name: name, Files: map[string]string{binary: "/bin/busybox"}, Links: links, Entrypoint: nil}, nil
}
