package standalone_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/runtime/source/sourcetest/s3server"
)

const page = "../../docs/standalone.md"

// blocks of the page by what stands behind the fence, such as "sh" or "ini".
func blocks(t *testing.T) map[string][]string {
	t.Helper()
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	inside, kind, text := false, "", ""
	for line := range strings.Lines(string(data)) {
		switch mark, found := strings.CutPrefix(line, "```"); {
		case found && !inside:
			inside, kind, text = true, strings.TrimSpace(mark), ""
		case found:
			inside = false
			out[kind] = append(out[kind], text)
		default:
			text += line
		}
	}
	return out
}

// machine is a script's head that makes the paths of the page private to it. The
// script has namespaces of its own: what it mounts and what it starts ends with it.
const machine = `set -eu
for dir in /mnt /srv /var/cache /var/log /var/lib /run; do mount -t tmpfs tmpfs $dir; done
mkdir -p /mnt/data /srv/data /var/lib/millrace /run/lock
`

// inMachine runs a script there, with the command on the PATH.
func inMachine(s *scene, script string, env ...string) *exec.Cmd {
	c := exec.Command("unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", machine+script)
	c.Env = append(append(os.Environ(), s.env...), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
	c.Env = append(c.Env, env...)
	c.Dir = s.dir
	return c
}

// TestTheCommandsOfThePage runs every block of docs/standalone.md marked sh.
func TestTheCommandsOfThePage(t *testing.T) {
	t.Parallel()
	if got := blocks(t)["sh build"]; len(got) != 1 || strings.TrimSpace(got[0]) != install {
		t.Errorf("the page installs by %q, the tests by %q", got, install)
	}
	all := blocks(t)["sh"]
	if len(all) < 8 {
		t.Fatalf("%d blocks on the page", len(all))
	}
	s := newScene(t)
	server, _ := bucket(t, "imagenet", 20<<20)
	s.directory("data", 1<<20)
	// The pauses of a reader: the source is listed, and a killed process is gone.
	const settle = `
mount --bind data /srv/data
printf %s "$ID" > /var/lib/millrace/id
printf '%s\n' "$KEY" > /var/lib/millrace/key
until_dead() { until millrace status | grep -q Dead; do sleep 0.05; done; }
`
	for i, block := range all {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			block = strings.ReplaceAll(block, "\nmillrace status\nmillrace mount", "\nuntil_dead\nmillrace status\nmillrace mount")
			got := finish(t, inMachine(s, settle+"set -x\n"+block, append(keys(), "AWS_ENDPOINT_URL="+server.Endpoint, "AWS_REGION=us-east-1",
				"ID="+s3server.AccessKey, "KEY="+s3server.SecretKey)...))
			if got.code != 0 {
				t.Errorf("exit code %d\n%s\n%s", got.code, got.errors, got.out)
			}
			for line := range strings.Lines(block) {
				if strings.HasPrefix(line, "millrace mount") && !strings.Contains(got.out, "mounted at /mnt/data") {
					t.Errorf("nothing was mounted:\n%s\n%s", got.errors, got.out)
				}
			}
		})
	}
}

// TestTheCertificatesOfThePage runs the block about TLS, in a network of its own.
func TestTheCertificatesOfThePage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.directory("data", 5<<20)
	c := inMachine(s, "ip link set lo up; mount --bind data /srv/data\n"+blocks(t)["sh tls"][0])
	c.Args = slices.Insert(c.Args, 1, "--net")
	if got := finish(t, c); got.code != 0 || !strings.Contains(got.out, "in 33 files") {
		t.Errorf("exit code %d\n%s\n%s", got.code, got.errors, got.out)
	}
}

// TestTheUnitOfThePage runs what systemd runs of the page's unit.
func TestTheUnitOfThePage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	server, _ := bucket(t, "imagenet", 1<<20)
	words := map[string]string{}
	for line := range strings.Lines(blocks(t)["ini"][0]) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			words[key] = strings.ReplaceAll(value, "/usr/local/bin/millrace", "millrace")
		}
	}
	script := words["ExecStart"] + ` &
until mountpoint -q /mnt/data; do sleep 0.05; done
cat /mnt/data/model.bin > /dev/null
` + words["ExecStop"] + `
wait $!
`
	got := finish(t, inMachine(s, script, append(keys(), "AWS_ENDPOINT_URL="+server.Endpoint, "AWS_REGION=us-east-1")...))
	if got.code != 0 || words["Type"] != "notify" {
		t.Errorf("exit code %d: %s", got.code, got.errors)
	}
}

// TestTheHostsOfThePage runs the page's commands for several hosts, each where
// the page says.
func TestTheHostsOfThePage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.directory("data", 70<<20)
	names := []string{"", "alpha", "beta", "gamma"}
	var known strings.Builder
	for i, name := range names[1:] {
		fmt.Fprintf(&known, "%s %s\n", address(i+1), name)
	}
	if err := os.WriteFile(s.path("hosts"), []byte(known.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	h := newHosts(s, 3)
	on := func(name, script string) *exec.Cmd {
		i := slices.Index(names, name)
		c := inMachine(s, "mount --bind hosts /etc/hosts; hostname "+name+"; mount --bind data /srv/data\n"+script)
		c.Args = append([]string{"nsenter", "--target", fmt.Sprint(h.pids[i]), "--net", "unshare", "--uts"}, c.Args[1:]...)
		c.Path = "/usr/bin/nsenter"
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return c
	}
	all := blocks(t)
	one := func(kind string) string {
		t.Helper()
		if len(all[kind]) != 1 {
			t.Fatalf("%d blocks for %s", len(all[kind]), kind)
		}
		return strings.TrimSpace(all[kind][0])
	}
	type server struct {
		*exec.Cmd
		name string
	}
	var servers []server
	serve := func(name, script string) {
		t.Helper()
		c := on(name, script)
		log, err := os.Create(s.path(name + ".log"))
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		c.Stdout, c.Stderr = log, log
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		servers = append(servers, server{c, name})
	}
	serve("alpha", "exec "+one("sh alpha"))
	// A worker and the clients of one host see the same files: they are one script.
	for _, name := range names[2:] {
		serve(name, one("sh beta gamma")+" &\nworker=$!\nuntil [ -S /run/millrace/worker.sock ]; do sleep 0.05; done\n"+
			one("sh beta gamma client")+"\nkill $worker; wait $worker\n")
	}
	for _, srv := range slices.Backward(servers) {
		ended := make(chan error, 1)
		go func() { ended <- srv.Wait() }()
		if srv.name == "alpha" {
			_ = srv.Process.Kill() // it serves for ever
		}
		select {
		case err := <-ended:
			if err != nil && srv.name != "alpha" {
				t.Errorf("%s: %v", srv.name, err)
			}
		case <-time.After(2 * patience):
			t.Errorf("%s does not end", srv.name)
			_ = srv.Process.Kill()
			<-ended
		}
	}
	for _, name := range names[2:] {
		said, err := os.ReadFile(s.path(name + ".log"))
		if err != nil || !strings.Contains(string(said), "in 31 files") || !strings.Contains(string(said), "Ready") {
			t.Errorf("%s said %s, %v", name, said, err)
		}
	}
}
