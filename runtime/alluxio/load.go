package alluxio

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/component"
)

const (
	// firstLook and longestLook bound the pauses between two looks at a load; each
	// look is a process.
	firstLook, longestLook = time.Second, 15 * time.Second
	// loadTries is how often a look may fail in a row.
	loadTries = 5
)

// Load loads the paths that the environment of a DataLoad names, and fails
// where less than that is cached in the end: with component.Hopeless where the
// same load would fail again.
func (s *Site) Load(ctx context.Context) (err error) {
	defer func() {
		if err != nil { // for people, who may not see the log
			_ = os.WriteFile(contract.TerminationMessagePath, []byte(err.Error()), 0o644)
		}
	}()
	conf, err := s.ready()
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(conf) }()
	var errs []error
	for _, t := range targets(os.Getenv(contract.EnvDataLoadPath), os.Getenv(contract.EnvDataLoadReplicas)) {
		if os.Getenv(contract.EnvDataLoadMetadata) == "true" {
			if _, err := s.call(ctx, conf, classShell, "loadMetadata", "-R", t.path); err != nil {
				return fmt.Errorf("load metadata of %s: %w", t.path, err)
			}
		}
		errs = append(errs, s.load(ctx, conf, t))
	}
	return errors.Join(errs...)
}

// target is a path to load, and how many copies it is to have.
type target struct {
	path     string
	replicas int
}

// targets reads lists that are separated by colons; nothing means everything.
func targets(paths, replicas string) []target {
	copies := strings.Split(replicas, ":")
	var out []target
	for i, p := range strings.Split(paths, ":") {
		t := target{path: path.Clean("/" + p), replicas: 1}
		if i < len(copies) {
			if n, err := strconv.Atoi(copies[i]); err == nil && n > 1 {
				t.replicas = n
			}
		}
		out = append(out, t)
	}
	return out
}

func (s *Site) load(ctx context.Context, conf string, t target) error {
	if _, err := s.call(ctx, conf, classShell, "load", t.path, "--submit", "--verify"); err != nil {
		return fmt.Errorf("load %s: %w", t.path, err)
	}
	if err := s.followLoad(ctx, conf, t.path); err != nil {
		return err
	}
	if t.replicas > 1 {
		if _, err := s.call(ctx, conf, classShell, "setReplication", "-R", "--min", strconv.Itoa(t.replicas), t.path); err != nil {
			return fmt.Errorf("ask for %d copies of %s: %w", t.replicas, t.path, err)
		}
	}
	out, err := s.call(ctx, conf, classShell, "du", "-s", t.path)
	if err != nil {
		return fmt.Errorf("look at what is cached of %s: %w", t.path, err)
	}
	size, cached, err := parseUse(out)
	switch {
	case err != nil:
		return fmt.Errorf("look at what is cached of %s: %w", t.path, err)
	case cached < size:
		return component.Hopeless{Err: fmt.Errorf("%d of %d bytes of %s are cached: the cache has no room for more, or they have changed meanwhile", cached, size, t.path)}
	}
	fmt.Printf("%s is cached: %d bytes\n", t.path, cached)
	return nil
}

// progress is what Alluxio says of a load.
type progress struct {
	State       string `json:"mJobState"`
	Loaded      int64  `json:"mLoadedByteCount"`
	Total       int64  `json:"mTotalByteCount"`
	FailedFiles int64  `json:"mFailedFileCount"`
	Failure     struct {
		Message string `json:"message"`
	} `json:"mFailureReason"`
}

// followLoad looks at a load until it has ended.
func (s *Site) followLoad(ctx context.Context, conf, at string) error {
	pause, failed := firstLook, 0
	for {
		out, err := s.call(ctx, conf, classShell, "load", at, "--progress", "--format", "JSON")
		var p *progress
		if err == nil {
			p, err = parseProgress(out)
		}
		if err != nil {
			if failed++; failed >= loadTries {
				return fmt.Errorf("follow load of %s: %w", at, err)
			}
		} else {
			failed = 0
			fmt.Printf("%s: %s, %d of %d bytes\n", at, p.State, p.Loaded, p.Total)
			switch {
			case p.State == "SUCCEEDED" && p.FailedFiles == 0:
				return nil
			case p.State == "STOPPED" || strings.HasSuffix(p.Failure.Message, "does not exist."):
				return component.Hopeless{Err: fmt.Errorf("load %s: %s: %s", at, p.State, cmp.Or(p.Failure.Message, "somebody stopped it"))}
			case p.State == "SUCCEEDED", p.State == "FAILED":
				return fmt.Errorf("load %s: %s, %d files failed: %s", at, p.State, p.FailedFiles, cmp.Or(p.Failure.Message, "see the log of Alluxio's master"))
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("follow load of %s: %w", at, ctx.Err())
		case <-time.After(pause):
		}
		pause = min(pause*2, longestLook)
	}
}

// parseProgress finds the JSON in what Alluxio printed.
func parseProgress(text string) (*progress, error) {
	_, object, ok := strings.Cut(text, "{")
	if !ok {
		return nil, fmt.Errorf("not understood: %q", lastLines(text))
	}
	p := &progress{}
	if err := json.NewDecoder(strings.NewReader("{" + object)).Decode(p); err != nil {
		return nil, fmt.Errorf("not understood: %q: %w", lastLines(text), err)
	}
	return p, nil
}

// parseUse reads the line of `du`: bytes, bytes in Alluxio with their share in
// brackets, and the path.
func parseUse(text string) (size, cached int64, err error) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if _, err := fmt.Sscan(lines[len(lines)-1], &size, &cached); err != nil {
		return 0, 0, fmt.Errorf("not understood: %q: %w", lastLines(text), err)
	}
	return size, cached, nil
}
