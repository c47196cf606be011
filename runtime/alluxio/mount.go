package alluxio

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Mounted is what MountUFS answers: the paths that are served now.
type Mounted struct {
	Mounted []string `json:"mounted"`
}

// MountUFS makes Alluxio's mount table what runtime.json wants. It may be run
// again at any time.
func (s *Site) MountUFS(ctx context.Context) (*Mounted, error) {
	wanted, err := s.mounts()
	if err != nil {
		return nil, err
	}
	info, err := s.masterInfo(ctx)
	if err != nil {
		return nil, err
	}
	done, err := s.readRecord()
	if err != nil {
		return nil, err
	}
	plan, err := compare(wanted, info.MountPoints, done)
	if err != nil {
		return nil, err
	}
	if err := s.carryOut(ctx, plan); err != nil {
		return nil, err
	}
	record := map[string]string{}
	for at, m := range wanted {
		record[at] = m.digest()
	}
	if err := s.writeRecord(record); err != nil {
		return nil, err
	}
	return &Mounted{slices.Sorted(maps.Keys(wanted))}, nil
}

// plan is what makes a mount table another: paths to unmount, then mounts to make.
type plan struct {
	unmount []string
	mount   []*Mount
}

// compare finds what is to be done. Outer mounts are made before inner ones and
// go after them. done names the options with which each mount was made.
func compare(wanted map[string]*Mount, have map[string]mountPoint, done map[string]string) (*plan, error) {
	out := &plan{}
	if root := wanted["/"]; root != nil && strings.TrimRight(have["/"].Source, "/") != strings.TrimRight(root.Source, "/") {
		return nil, errors.New("the mount at / is that of Alluxio's first start: delete the master's pod to have another one")
	}
	for _, at := range slices.Sorted(maps.Keys(have)) {
		if m := wanted[at]; at != "/" && (m == nil || !m.is(have[at]) || done[at] != m.digest()) {
			out.unmount = append(out.unmount, at)
		}
	}
	slices.Reverse(out.unmount)
	for _, at := range slices.Sorted(maps.Keys(wanted)) {
		_, there := have[at]
		if at != "/" && (!there || slices.Contains(out.unmount, at)) {
			out.mount = append(out.mount, wanted[at])
		}
	}
	return out, nil
}

func (m *Mount) is(have mountPoint) bool {
	return strings.TrimRight(m.Source, "/") == strings.TrimRight(have.Source, "/") && m.ReadOnly == have.ReadOnly
}

// digest changes with all that is said of a mount, and tells nothing of it.
func (m *Mount) digest() string {
	text, err := json.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("encode mount: %v", err)) // strings and maps of them always encode
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func (s *Site) carryOut(ctx context.Context, p *plan) error {
	if len(p.unmount)+len(p.mount) == 0 {
		return nil
	}
	conf, err := s.ready()
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(conf) }()
	for _, at := range p.unmount {
		if _, err := s.call(ctx, conf, classShell, "unmount", at); err != nil {
			return fmt.Errorf("unmount %s: %w", at, err)
		}
	}
	for _, m := range p.mount {
		if above := path.Dir(m.Path); above != "/" {
			if _, err := s.call(ctx, conf, classShell, "mkdir", above); err != nil && !strings.Contains(err.Error(), "already exist") {
				return fmt.Errorf("make the directory of mount %s: %w", m.Path, err)
			}
		}
		args := []string{"mount"}
		if m.ReadOnly {
			args = append(args, "--readonly")
		}
		for _, name := range slices.Sorted(maps.Keys(m.Options)) {
			args = append(args, "--option", name+"="+m.Options[name])
		}
		if _, err := s.call(ctx, conf, classShell, append(args, m.Path, m.Source)...); err != nil {
			return fmt.Errorf("mount %s: %w", m.Path, err)
		}
	}
	return nil
}

// The record of how mounts were made lies beside the journal, which it speaks of.
func (s *Site) recordFile() string { return filepath.Join(s.State, "mounts.json") }

func (s *Site) readRecord() (map[string]string, error) {
	text, err := os.ReadFile(s.recordFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var record map[string]string
	if err == nil {
		err = json.Unmarshal(text, &record)
	}
	if err != nil {
		return nil, fmt.Errorf("read record of mounts: %w", err)
	}
	return record, nil
}

func (s *Site) writeRecord(record map[string]string) error {
	text, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encode record of mounts: %w", err)
	}
	return writeFile(s.recordFile(), string(text))
}
