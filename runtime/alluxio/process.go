package alluxio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/apis/contract"
)

// Main classes of Alluxio's processes and of its command lines.
const (
	classFormat    = "alluxio.cli.Format"
	classMaster    = "alluxio.master.AlluxioMaster"
	classWorker    = "alluxio.worker.AlluxioWorker"
	classJobMaster = "alluxio.master.AlluxioJobMaster"
	classJobWorker = "alluxio.worker.AlluxioJobWorker"
	classFuse      = "alluxio.fuse.AlluxioFuse"
	classShell     = "alluxio.cli.fs.FileSystemShell"
)

const (
	// stopTime is how long a process may take to end before it is killed.
	stopTime = 8 * time.Second
	// defaultHeap is for processes whose component names no options of Java.
	defaultHeap = "-Xmx512m"
	// commandJava is for short processes: they start sooner so.
	commandJava = "-Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1"
	jobJava     = "-Xmx256m -XX:+UseSerialGC"
)

// Processes runs what belongs into a component's pod until ctx or one of its
// processes ends.
func (s *Site) Processes(ctx context.Context) error {
	conf, err := s.ready()
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(conf) }()
	java := s.java(OptionJava, defaultHeap)
	for _, dir := range []string{"root", "journal"} {
		if err := os.MkdirAll(filepath.Join(s.State, dir), 0o755); err != nil {
			return fmt.Errorf("make directory of the state: %w", err)
		}
	}
	switch s.Component {
	case contract.ComponentMaster:
		if err := s.formatJournal(ctx, conf); err != nil {
			return err
		}
		return s.run(ctx, conf, append(s.jobs(classJobMaster), process{java, classMaster, nil}))
	case contract.ComponentWorker:
		return s.run(ctx, conf, append(s.jobs(classJobWorker), process{java, classWorker, nil}))
	case contract.ComponentClient:
		return s.fuse(ctx, conf, java)
	default:
		return fmt.Errorf("no such component: %q in $%s", s.Component, contract.EnvComponentType)
	}
}

// ready makes the configuration of this process.
func (s *Site) ready() (conf string, err error) {
	conf, err = os.MkdirTemp("", "conf-")
	if err != nil {
		return "", fmt.Errorf("make configuration: %w", err)
	}
	if err := s.writeConf(conf); err != nil {
		return "", errors.Join(fmt.Errorf("make configuration: %w", err), os.RemoveAll(conf))
	}
	return conf, nil
}

// formatJournal makes a journal where there is none: a restarted container goes
// on with what its predecessor knew.
func (s *Site) formatJournal(ctx context.Context, conf string) error {
	entries, err := os.ReadDir(filepath.Join(s.State, "journal"))
	if err != nil {
		return fmt.Errorf("look at the journal: %w", err)
	}
	if len(entries) > 0 {
		return nil
	}
	_, err = s.call(ctx, conf, classFormat, "master")
	return err
}

// process is a Java program: its options, its main class and its arguments.
type process struct {
	java  []string
	class string
	args  []string
}

func (s *Site) java(option, otherwise string) []string {
	if set := s.options(s.Component)[option]; set != "" {
		otherwise = set
	}
	return strings.Fields(otherwise)
}

// jobs is the process of the job service, unless there is to be none.
func (s *Site) jobs(class string) []process {
	if s.options(s.Component)[OptionJobs] == "false" {
		return nil
	}
	return []process{{s.java(OptionJobJava, jobJava), class, nil}}
}

// run starts the processes. When one ends, all end.
func (s *Site) run(ctx context.Context, conf string, processes []process) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, p := range processes {
		group.Go(func() error {
			err := s.start(ctx, conf, p, os.Stderr, os.Stderr)
			if err == nil && ctx.Err() == nil {
				return fmt.Errorf("%s ended by itself", p.class)
			}
			if ctx.Err() != nil { // it was asked to end
				return nil
			}
			return err
		})
	}
	return group.Wait()
}

// start runs a process until it or ctx ends.
func (s *Site) start(ctx context.Context, conf string, p process, stdout, stderr io.Writer) error {
	file, err := s.argumentFile(conf, p)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file) }()
	cmd := exec.CommandContext(ctx, "java", "@"+file)
	cmd.Env = append(os.Environ(), "AWS_EC2_METADATA_DISABLED=true") // credentials come from the mounts alone
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTime
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", p.class, err)
	}
	return nil
}

// argumentFile writes the whole command line of a process for Java to read.
func (s *Site) argumentFile(conf string, p process) (string, error) {
	words := append([]string{
		"-XX:-UsePerfData", // it would tell the command line to other users
		"-Dalluxio.conf.dir=" + conf, "-Dalluxio.home=" + s.Home, "-Dalluxio.logs.dir=" + os.TempDir(), "-Dalluxio.logger.type=Console",
		"-Djava.net.preferIPv4Stack=true", "-Dorg.apache.jasper.compiler.disablejsr199=true",
		"--add-opens", "java.base/java.lang=ALL-UNNAMED",
		"-cp", conf + ":" + s.Home + "/lib/*",
	}, p.java...)
	words = append(append(words, p.class), p.args...)
	var text strings.Builder
	for _, word := range words {
		text.WriteString(quoteArgument(word) + "\n")
	}
	file, err := os.CreateTemp(conf, "arguments-")
	if err != nil {
		return "", fmt.Errorf("write arguments of %s: %w", p.class, err)
	}
	_, err = file.WriteString(text.String())
	if err = errors.Join(err, file.Close()); err != nil {
		return "", fmt.Errorf("write arguments of %s: %w", p.class, err)
	}
	return file.Name(), nil
}

// quoteArgument writes one argument as Java's launcher reads it from a file.
func quoteArgument(word string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`, "\f", `\f`).Replace(word) + `"`
}

// call runs one of Alluxio's commands and gives what it printed.
func (s *Site) call(ctx context.Context, conf, class string, args ...string) (string, error) {
	var out, errs strings.Builder
	err := s.start(ctx, conf, process{strings.Fields(commandJava), class, args}, &out, &errs)
	if err != nil {
		// What it printed may name paths, never the values of options.
		return out.String(), fmt.Errorf("%w: %s", err, lastLines(out.String()+"\n"+withoutLog(errs.String())))
	}
	return out.String(), nil
}

// withoutLog drops the lines of Alluxio's log, which say nothing to users.
func withoutLog(text string) string {
	var out []string
	for line := range strings.Lines(text) {
		if len(line) < 5 || line[4] != '-' && !strings.HasPrefix(line, "\tat ") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return strings.Join(out, "\n")
}

// lastLines are at most three that are not empty, as one.
func lastLines(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}

// fuse serves the file system at the mount point. What a predecessor left there
// is taken away first.
func (s *Site) fuse(ctx context.Context, conf string, java []string) error {
	target := os.Getenv(contract.EnvRuntimeMountPath)
	if target == "" {
		target = s.Config.TargetPath
	}
	detach := func() {
		for unix.Unmount(target, unix.MNT_DETACH) == nil {
			continue
		}
	}
	detach()
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	defer detach()
	// Options of the mount are a property, so that they are set as others are.
	args := []string{"-m", target, "-o", "alluxio.fuse.mount.alluxio.path=/"}
	return s.run(ctx, conf, []process{{java, classFuse, args}})
}
