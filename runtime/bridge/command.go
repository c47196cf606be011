package bridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/apis/contract"
)

const (
	maxOutput = 1 << 20 // bytes of a command's output that are looked at
	maxWords  = 400     // bytes of a command's complaint that are told
	// leaveTime is how long what a command leaves behind may hold its output.
	leaveTime = 2 * time.Second
)

// run runs a command, without a shell, and gives what it prints. Words of an
// error hold none of the secrets.
func run(ctx context.Context, c *contract.EngineCommand, secrets []string) ([]byte, error) {
	if len(c.Command) == 0 {
		return nil, errors.New("names no command")
	}
	seconds := c.TimeoutSeconds
	if seconds <= 0 {
		seconds = contract.DefaultEngineTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
	defer cancel()
	var out, complaint bounded
	cmd := exec.CommandContext(ctx, c.Command[0], c.Command[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	// All that it starts ends with it.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = leaveTime
	err := cmd.Run()
	reap()
	switch words := tail(&complaint, &out, secrets); {
	case err == nil && out.cut:
		return nil, fmt.Errorf("printed more than %d bytes", maxOutput)
	case err == nil:
		return out.Bytes(), nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("did not end within %d s%s", seconds, words)
	case cmd.ProcessState != nil && cmd.ProcessState.Exited():
		return nil, fmt.Errorf("ended with code %d%s", cmd.ProcessState.ExitCode(), words)
	default:
		return nil, fmt.Errorf("%w%s", err, words)
	}
}

// bounded keeps the first maxOutput bytes of what is written.
type bounded struct {
	bytes.Buffer
	cut bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := maxOutput - b.Len(); len(p) > room {
		b.cut = true
		b.Buffer.Write(p[:room])
	} else {
		b.Buffer.Write(p)
	}
	return len(p), nil
}

// tail is the end of what a command complained of, or printed, for a sentence.
func tail(complaint, out *bounded, secrets []string) string {
	text := complaint.String()
	if strings.TrimSpace(text) == "" {
		text = out.String()
	}
	for _, secret := range secrets {
		text = strings.ReplaceAll(text, secret, "***")
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxWords {
		text = "…" + strings.ToValidUTF8(text[len(text)-maxWords:], "")
	}
	if text == "" {
		return ""
	}
	return ": " + text
}

// secrets are the values that no message may hold. A short one would make
// messages unreadable and can be guessed anyway.
func secrets(c *contract.RuntimeConfig) []string {
	var out []string
	for _, m := range c.Mounts {
		for _, file := range m.EncryptOptions {
			text, err := os.ReadFile(file)
			if value := strings.TrimSpace(string(text)); err == nil && len(value) >= 4 {
				out = append(out, value)
			}
		}
	}
	return out
}

// reap takes in what commands that are gone have left to the first process of
// the container. No command runs meanwhile.
func reap() {
	if os.Getpid() != 1 {
		return
	}
	for {
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 || err != nil {
			return
		}
	}
}
