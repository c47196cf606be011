// Package millrace_test guards the walls between the rooms.
package millrace_test

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/millrace/millrace/"

// walls maps a room to what its packages may not import, each with the reason
// that the failure shows. The longest matching room applies as well as every
// shorter one.
var walls = []struct {
	room, forbidden, why string
}{
	{"apis/contract", ".", "the contract imports nothing but the standard library"},
	{"apis/", module + "controllers", "API types have no behaviour"},
	{"apis/", module + "runtime", "API types have no behaviour"},
	{"controllers/", module + "runtime", "controllers and runtime meet only in API objects and apis/contract"},
	{"webhook/", module + "runtime", "controllers and runtime meet only in API objects and apis/contract"},
	{"scheduler/", module + "runtime", "the scheduler reads LocalitySlices, not engines"},
	{"scheduler/", module + "controllers", "the scheduler reads LocalitySlices, not controllers"},
	{"runtime/", module + "controllers", "controllers and runtime meet only in API objects and apis/contract"},
	{"runtime/", module + "webhook", "controllers and runtime meet only in API objects and apis/contract"},
	{"runtime/", module + "scheduler", "the runtime knows nothing of scheduling"},
	{"runtime/", module + "apis/data", "the runtime reads runtime.json, not API objects"},
	{"runtime/source", "k8s.io/", "the engine runs without Kubernetes"},
	{"runtime/store", "k8s.io/", "the engine runs without Kubernetes"},
	{"runtime/ring", "k8s.io/", "the engine runs without Kubernetes"},
	{"runtime/namespace", "k8s.io/", "the engine runs without Kubernetes"},
	{"runtime/wire", "k8s.io/", "the engine runs without Kubernetes"},
	{"runtime/master", "k8s.io/", "the engine runs without Kubernetes"},
	{"runtime/worker", "k8s.io/", "the engine runs without Kubernetes"},
	{"runtime/reader", "k8s.io/", "the engine runs without Kubernetes"},
	{"runtime/fuse", "k8s.io/", "the engine runs without Kubernetes"},
	{"runtime/component", "k8s.io/", "the engine runs without Kubernetes"},
	{"runtime/standalone", "k8s.io/", "the engine runs without Kubernetes"},
	{"runtime/summary", "k8s.io/", "the engine runs without Kubernetes"},
	{"runtime/bridge", "k8s.io/", "the engine runs without Kubernetes"},
	{"runtime/migrate", "k8s.io/", "the engine runs without Kubernetes"},
	{"runtime/alluxio", "k8s.io/", "an engine reads runtime.json"},
	{"runtime/store", module + "runtime/source", "the store keeps bytes and does not know where they come from"},
	{"runtime/store", module + "runtime/wire", "the store keeps bytes and does not know who asks"},
	{"runtime/ring", module + "runtime", "placement is arithmetic"},
	{"runtime/fuse", module + "runtime/worker", "the FUSE edge is thin"},
	{"runtime/fuse", module + "runtime/wire", "the FUSE edge is thin"},
}

func TestNoRoomImportsThroughTheWrongDoor(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...").Output()
	if err != nil {
		t.Fatalf("list packages: %v", err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) < 10 {
		t.Fatalf("go list saw only %d packages", len(lines))
	}
	for _, line := range lines {
		fields := strings.Fields(line)
		room := strings.TrimPrefix(fields[0], module)
		for _, imported := range fields[1:] {
			for _, w := range walls {
				if !within(room, w.room) || within(strings.TrimPrefix(imported, module), w.room) {
					continue
				}
				if forbids(w.forbidden, imported) {
					t.Errorf("%s imports %s: %s", room, imported, w.why)
				}
			}
		}
	}
}

// within tells whether a package lies in a room.
func within(pkg, room string) bool {
	return strings.HasPrefix(pkg+"/", strings.TrimSuffix(room, "/")+"/")
}

// forbids tells whether an import path falls under a rule; "." stands for
// everything outside the standard library.
func forbids(rule, imported string) bool {
	if rule == "." {
		first, _, _ := strings.Cut(imported, "/")
		return strings.Contains(first, ".")
	}
	return strings.HasPrefix(imported+"/", strings.TrimSuffix(rule, "/")+"/")
}
