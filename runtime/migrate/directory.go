package migrate

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/millrace/millrace/runtime/source"
)

// partial begins the names of files that are not whole yet.
const partial = ".millrace-partial-"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Directory is a Target below a directory, which is never left: not by "..", and
// not by a link that somebody put there.
type Directory struct {
	root *os.Root
	name string
}

var _ Target = (*Directory)(nil)

// OpenDirectory opens sub below dir and makes it where it is missing; name is what
// its user calls it.
func OpenDirectory(dir, sub, name string) (*Directory, error) {
	top, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open %s to write: %w", name, err)
	}
	if sub = strings.Trim(path.Clean("/"+sub), "/"); sub == "" {
		return &Directory{root: top, name: name}, nil
	}
	defer func() { _ = top.Close() }()
	if err := top.MkdirAll(sub, 0o755); err != nil {
		return nil, fmt.Errorf("make directory %s of %s: %w", sub, name, err)
	}
	root, err := top.OpenRoot(sub)
	if err != nil {
		return nil, fmt.Errorf("open %s of %s to write: %w", sub, name, err)
	}
	return &Directory{root: root, name: name}, nil
}

// Close closes the directory.
func (d *Directory) Close() error { return d.root.Close() }

// Holds tells whether p is a whole copy of o: of its size and time.
func (d *Directory) Holds(_ context.Context, p string, o source.Object) (bool, error) {
	info, err := d.root.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for %s of %s: %w", p, d.name, err)
	}
	return info.Mode().IsRegular() && info.Size() == o.Size && !o.ModTime.IsZero() &&
		info.ModTime().Truncate(time.Second).Equal(o.ModTime.Truncate(time.Second)), nil
}

// Put writes the bytes of o, which in gives, to p. They are read again from the
// file before that takes its name.
func (d *Directory) Put(_ context.Context, p string, o source.Object, in io.Reader) error {
	dir, base := path.Split(p)
	if dir = strings.TrimSuffix(dir, "/"); dir != "" {
		if err := d.root.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make directory %s of %s: %w", dir, d.name, err)
		}
	}
	temp := path.Join(dir, fmt.Sprintf("%s%08x", partial, crc32.Checksum([]byte(base), castagnoli)))
	if err := d.write(temp, o, in); err != nil {
		_ = d.root.Remove(temp)
		return fmt.Errorf("write %s of %s: %w", p, d.name, err)
	}
	if err := d.root.Rename(temp, p); err != nil {
		_ = d.root.Remove(temp)
		return fmt.Errorf("write %s of %s: %w", p, d.name, err)
	}
	return nil
}

func (d *Directory) write(temp string, o source.Object, in io.Reader) (err error) {
	if err := d.root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a copy that was killed
		return err
	}
	f, err := d.root.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	given := crc32.New(castagnoli)
	n, err := io.Copy(f, io.TeeReader(io.LimitReader(in, o.Size), given))
	if err != nil {
		return err
	}
	if n != o.Size {
		return fmt.Errorf("%w: the source gave %d of %d bytes", io.ErrUnexpectedEOF, n, o.Size)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	kept := crc32.New(castagnoli)
	if n, err = io.Copy(kept, f); err != nil {
		return err
	}
	if n != o.Size || kept.Sum32() != given.Sum32() {
		return errors.New("what was written is not what is read from it")
	}
	if o.ModTime.IsZero() {
		return nil
	}
	return d.root.Chtimes(temp, o.ModTime, o.ModTime)
}
