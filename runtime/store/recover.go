package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// What a directory holds stands in its journal, and these hold at every point
// at which a process may be killed:
//
//   - a file is named in the journal before it is made, and its drop is recorded
//     before it is unlinked, so the journal names all that is on the disk, but for
//     the file of the last drop;
//   - a block is recorded after its bytes are written, so a file all of whose
//     blocks are recorded takes what its blocks take.
//
// So only files that are not complete are looked at when the directory is opened
// again. It holds while the machine runs: when it has crashed, the disk may have
// forgotten one thing and kept another. A marker that has the machine's boot in
// its name says that it holds; without it the whole directory is walked.

const markerPrefix = "boot."

// bootID names the time since the machine was started; "" is not known.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// recoverers is how many ask the disk at once.
const recoverers = 8

// recover reads what a former process left: the files that the journal knows.
// All else in the directory is removed.
func (d *directory) recover(ctx context.Context) (*past, error) {
	if err := d.tidy(); err != nil {
		return nil, err
	}
	j, p, err := openJournal(filepath.Join(d.data, journalName))
	if err != nil {
		return nil, err
	}
	d.journal = j
	if d.marker != "" && !p.damaged && p.count() > 0 {
		return p, d.recoverUnfinished(ctx, p)
	}
	d.distrust()
	if err := d.walk(ctx, p); err != nil {
		return nil, err
	}
	if d.full == "" {
		d.trust()
	}
	return p, nil
}

// tidy removes what a killed process may have left beside the files, and finds
// the marker.
func (d *directory) tidy() error {
	names, err := os.ReadDir(d.data)
	if err != nil {
		return err
	}
	boot := bootID()
	for _, name := range names {
		switch at := filepath.Join(d.data, name.Name()); {
		case name.IsDir() || name.Name() == journalName:
		case boot != "" && name.Name() == markerPrefix+boot:
			d.marker = at
		default:
			if err := os.Remove(at); err != nil {
				return fmt.Errorf("remove what is no part of the cache: %w", err)
			}
		}
	}
	return nil
}

// trust marks the journal as right. Without the marker the next start takes longer.
func (d *directory) trust() {
	boot := bootID()
	if boot == "" {
		return
	}
	at := filepath.Join(d.data, markerPrefix+boot)
	f, err := os.OpenFile(at, os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil && f.Close() == nil {
		d.marker = at
	}
}

// distrust is for when the journal may not be told what becomes of a file.
func (d *directory) distrust() {
	if d.marker != "" {
		_ = os.Remove(d.marker) // if this fails, so do the changes of which the journal is not told
		d.marker = ""
	}
}

// recoverUnfinished looks at the files that may take less or more on the disk
// than the journal says.
func (d *directory) recoverUnfinished(ctx context.Context, p *past) error {
	if _, again := p.ids[p.dropped]; p.drops && !again {
		if err := os.Remove(d.file(p.dropped.key())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove a file that was dropped: %w", err)
		}
	}
	var look []uint32
	for id, m := range p.live() {
		if n := p.present(id); n < m.count() || n == 0 || m.born == 0 {
			look = append(look, id)
			continue
		}
		m.charged = m.whole()
	}
	gone := make([]bool, len(look))
	var next atomic.Int64
	var g errgroup.Group
	for range recoverers {
		g.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(look) {
					return ctx.Err()
				}
				if i%1024 == 0 && ctx.Err() != nil {
					return ctx.Err()
				}
				gone[i] = !d.look(unix.AT_FDCWD, d.file(p.files[look[i]].key.key()), p, look[i])
			}
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	var records []byte
	for i, id := range look {
		if !gone[i] {
			continue
		}
		key := p.files[id].key
		// Its drop is recorded last: if that fails it is looked at again.
		if err := os.Remove(d.file(key.key())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what does not verify: %w", err)
		}
		p.lose(id)
		records = appendRecord(records, recordDrop, 0, key, 0, 0)
	}
	if len(records) > 0 && d.journal.appendAll(records) != nil {
		d.distrust()
	}
	return nil
}

// look takes in what the disk says of a file; false if it is not what the
// journal knows, or nothing of it is there.
func (d *directory) look(dir int, path string, p *past, id uint32) bool {
	var st unix.Stat_t
	m := &p.files[id]
	if unix.Fstatat(dir, path, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != m.size {
		return false
	}
	m.charged, m.born = st.Blocks*512, st.Mtim.Nano()
	return m.size == 0 || p.present(id) > 0
}

// walk looks at every file of the directory.
func (d *directory) walk(ctx context.Context, p *past) error {
	shards, err := os.ReadDir(d.data)
	if err != nil {
		return err
	}
	seen := make([]bool, len(p.files))
	again := p.damaged // the journal is to be written again
	for id, m := range p.live() {
		again = again || m.born == 0 && p.present(id) > 0
	}
	var g errgroup.Group
	g.SetLimit(recoverers)
	for _, shard := range shards {
		if !shard.IsDir() {
			continue
		}
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return d.walkShard(shard.Name(), p, seen)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for id := range p.live() {
		if !seen[id] {
			p.lose(id)
			again = true
		}
	}
	if again {
		d.journal.mu.Lock()
		defer d.journal.mu.Unlock()
		if err := d.journal.replace(p, d.journal.records); err != nil && !isFull(err) {
			return fmt.Errorf("write the journal anew: %w", err)
		} else if err != nil {
			d.full = fmt.Sprintf("the disk of %s has no room for the journal", d.path)
		}
	}
	return nil
}

// walkShard marks the files in seen that verify, and removes all others.
func (d *directory) walkShard(shard string, p *past, seen []bool) error {
	path := filepath.Join(d.data, shard)
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		raw, ok := Key(name).raw()
		id, known := p.ids[raw]
		if ok && known && name[:2] == shard && d.look(int(dir.Fd()), name, p, id) {
			seen[id] = true
			continue
		}
		if err := os.RemoveAll(filepath.Join(path, name)); err != nil {
			return fmt.Errorf("remove what does not verify: %w", err)
		}
	}
	return nil
}
