package namespace

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
)

// The file that a tree is saved to:
//
//	magic     8 bytes, "MillTree"
//	version   4 bytes, little endian
//	mounts    their number, then for each, sorted by path: path, URI, ID, whether it
//	          was walked (1 byte)
//	salts     their number, then for each the absolute path and the inode number
//	root      its attributes as an entry, then the directory
//	checksum  8 bytes, little endian: xxHash64 of all before
//
// A directory is: when it was listed; the number of its pages, each of them as
// its bytes; the number of its directories, sorted by name, each of them as its
// name and the directory. Numbers are varints; bytes have their length before them.
//
// The file is a cache of the sources: one of another version, with a wrong
// checksum, or none of whose mounts there is any more is thrown away.

const (
	saveMagic   = "MillTree"
	saveVersion = 2

	defaultSaveInterval = 30 * time.Second
	// saveRest times the duration of a save is the least pause after it.
	saveRest = 20
	// Bounds of what is read.
	maxSavedPage  = maxPageEntries * 1024
	maxSavedDepth = 4096
	maxSavedText  = 64 << 10
)

// Why a saved tree was of no use.
var (
	errForeign = errors.New("saved by another version")
	errMounts  = errors.New("saved for other mounts")
)

// keepSaving saves the tree now and then while it changes.
func (t *Tree) keepSaving(ctx context.Context) {
	wait := t.opts.SaveInterval
	for pause(ctx, wait, t.saveSoon) {
		began := time.Now()
		t.save()
		wait = max(t.opts.SaveInterval, saveRest*time.Since(began))
	}
}

// save writes the tree to its file if it has changed since.
func (t *Tree) save() {
	if t.opts.Save == "" {
		return
	}
	t.mu.Lock()
	dirty := t.dirty
	t.dirty = false
	image := t.image()
	t.mu.Unlock()
	if !dirty {
		return
	}
	if err := replaceFile(t.opts.Save, image.write); err != nil {
		t.counts.saveFailures.Add(1)
		t.log.Warn("the metadata could not be saved; a restarted master will list the sources anew", "error", err)
		t.mu.Lock()
		t.dirty = true
		t.mu.Unlock()
		return
	}
	t.counts.saves.Add(1)
}

// replaceFile writes a file beside its place and then puts it there.
func replaceFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	buffered := bufio.NewWriterSize(f, 1<<20)
	if err := errors.Join(write(buffered), buffered.Flush()); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// image is a tree at one moment.
type image struct {
	mounts []savedMount
	salts  []savedSalt
	item   item
	root   imageDir
}

type savedMount struct {
	path, uri, id string
	walked        bool
}

type savedSalt struct {
	path string
	ino  uint64
}

type imageDir struct {
	name   string
	listed int64
	pages  []*page
	subs   []imageDir
}

// image captures the tree, which is locked. It takes as long as the tree has
// directories.
func (t *Tree) image() *image {
	im := &image{item: t.rootItem, root: imageOf(t.root)}
	for _, m := range t.mounts {
		im.mounts = append(im.mounts, savedMount{m.Path, m.URI, m.id(), m.walked})
	}
	slices.SortFunc(im.mounts, func(a, b savedMount) int { return strings.Compare(a.path, b.path) })
	for s, ino := range t.salts {
		im.salts = append(im.salts, savedSalt{joinAbs(s.dir.path(), s.name), ino})
	}
	return im
}

func imageOf(d *dir) imageDir {
	im := imageDir{name: d.name, listed: d.listed, pages: d.pages}
	if len(d.subs) > 0 {
		im.subs = make([]imageDir, len(d.subs))
		for i, s := range d.subs {
			im.subs[i] = imageOf(s)
		}
	}
	return im
}

// write writes the image as a file.
func (im *image) write(w io.Writer) error {
	out := &saver{w: w, sum: xxhash.New()}
	out.raw([]byte(saveMagic))
	out.raw(binary.LittleEndian.AppendUint32(nil, saveVersion))
	out.number(uint64(len(im.mounts)))
	for _, m := range im.mounts {
		out.text(m.path)
		out.text(m.uri)
		out.text(m.id)
		out.raw([]byte{map[bool]byte{true: 1}[m.walked]})
	}
	out.number(uint64(len(im.salts)))
	for _, s := range im.salts {
		out.text(s.path)
		out.number(s.ino)
	}
	out.text(string(im.item.encode(nil)))
	out.dir(&im.root)
	out.raw(binary.LittleEndian.AppendUint64(nil, out.sum.Sum64()))
	return out.err
}

type saver struct {
	w   io.Writer
	sum hash.Hash64
	buf []byte
	err error
}

func (s *saver) raw(b []byte) {
	if s.err == nil {
		_, _ = s.sum.Write(b)
		_, s.err = s.w.Write(b)
	}
}

func (s *saver) number(n uint64) {
	s.buf = binary.AppendUvarint(s.buf[:0], n)
	s.raw(s.buf)
}

func (s *saver) text(text string) {
	s.buf = append(binary.AppendUvarint(s.buf[:0], uint64(len(text))), text...)
	s.raw(s.buf)
}

func (s *saver) dir(d *imageDir) {
	s.number(uint64(d.listed))
	s.number(uint64(len(d.pages)))
	for _, p := range d.pages {
		s.text(p.data)
	}
	s.number(uint64(len(d.subs)))
	for i := range d.subs {
		s.text(d.subs[i].name)
		s.dir(&d.subs[i])
	}
}

// restore takes over what a former process has saved.
func (t *Tree) restore() {
	if t.opts.Save == "" {
		return
	}
	began := time.Now()
	f, err := os.Open(t.opts.Save)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var saved *image
	if err == nil {
		saved, err = readImage(f)
		f.Close()
	}
	if err == nil {
		err = t.adopted(saved)
	}
	if err != nil {
		t.restored.Discarded = "corrupt"
		if errors.Is(err, errForeign) {
			t.restored.Discarded = "version"
		} else if errors.Is(err, errMounts) {
			t.restored.Discarded = "mounts"
		}
		t.log.Warn("the saved metadata is of no use; the sources are listed anew", "file", t.opts.Save, "error", err)
		_ = os.Remove(t.opts.Save)
		return
	}
	t.restored.Entries, t.restored.Took = int64(len(t.files)+len(t.dirs)), time.Since(began)
	t.log.Info("restored metadata", "entries", t.restored.Entries, "took", t.restored.Took.Round(time.Millisecond))
}

// readImage reads and checks a file.
func readImage(r io.Reader) (*image, error) {
	in := &loader{r: bufio.NewReaderSize(r, 1<<20), sum: xxhash.New()}
	if string(in.bytes(len(saveMagic))) != saveMagic {
		return nil, fmt.Errorf("%w: no saved tree", ErrCorrupt)
	}
	if b := in.bytes(4); in.err != nil || binary.LittleEndian.Uint32(b) != saveVersion {
		return nil, errors.Join(errForeign, in.err)
	}
	im := &image{}
	for n := in.number(); n > 0 && in.err == nil; n-- {
		m := savedMount{path: in.text(maxSavedText), uri: in.text(maxSavedText), id: in.text(maxSavedText)}
		b := in.bytes(1)
		m.walked = len(b) == 1 && b[0] == 1
		im.mounts = append(im.mounts, m)
	}
	for n := in.number(); n > 0 && in.err == nil; n-- {
		im.salts = append(im.salts, savedSalt{in.text(maxSavedText), in.number()})
	}
	root := in.text(maxSavedText)
	var n int
	var err error
	if im.item, n, err = parseItem(root); in.err == nil && (err != nil || n != len(root) || !im.item.isDir()) {
		in.err = ErrCorrupt
	}
	im.root = in.dir("", maxSavedDepth)
	want := in.sum.Sum64()
	if b := in.bytes(8); in.err == nil && binary.LittleEndian.Uint64(b) != want {
		in.err = fmt.Errorf("%w: wrong checksum", ErrCorrupt)
	}
	if in.err == nil {
		if _, err := in.r.ReadByte(); err != io.EOF {
			in.err = fmt.Errorf("%w: there is more behind it", ErrCorrupt)
		}
	}
	if in.err != nil {
		return nil, fmt.Errorf("read a saved tree: %w", in.err)
	}
	return im, nil
}

type loader struct {
	r   *bufio.Reader
	sum *xxhash.Digest
	buf []byte
	err error
}

// bytes reads n bytes, which are good until the next call.
func (l *loader) bytes(n int) []byte {
	if l.err != nil {
		return nil
	}
	if cap(l.buf) < n { // grows with what is really there
		l.buf = make([]byte, n)
	}
	l.buf = l.buf[:n]
	if _, err := io.ReadFull(l.r, l.buf); err != nil {
		l.err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		return nil
	}
	_, _ = l.sum.Write(l.buf)
	return l.buf
}

func (l *loader) number() uint64 {
	var v uint64
	for shift := 0; l.err == nil; shift += 7 {
		b, err := l.r.ReadByte()
		if err != nil {
			l.err = fmt.Errorf("%w: %w", ErrCorrupt, err)
			return 0
		}
		_, _ = l.sum.Write([]byte{b})
		if shift == 63 && b > 1 {
			l.err = ErrCorrupt
			return 0
		}
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
	return 0
}

func (l *loader) text(limit uint64) string {
	n := l.number()
	if n > limit && l.err == nil {
		l.err = ErrCorrupt
	}
	if l.err != nil {
		return ""
	}
	return string(l.bytes(int(n)))
}

// dir reads a directory. Every entry that is a directory has its own place
// among the directories; there may be others, which no listing has named yet.
func (l *loader) dir(name string, depth int) imageDir {
	d := imageDir{name: name, listed: int64(l.number())}
	last, dirs := "", 0
	for n := l.number(); n > 0 && l.err == nil; n-- {
		data := l.text(maxSavedPage)
		if l.err != nil {
			return d
		}
		var p *page
		if p, last, l.err = parsePage(nil, data, last); l.err != nil {
			return d
		}
		d.pages = append(d.pages, p)
	}
	before := ""
	for n := l.number(); n > 0 && l.err == nil; n-- {
		sub := l.text(maxName)
		if l.err == nil && (!validName(sub) || sub <= before || depth == 0) {
			l.err = ErrCorrupt
			return d
		}
		before = sub
		d.subs = append(d.subs, l.dir(sub, depth-1))
	}
	for it := range (&dir{pages: d.pages}).items {
		if it.isDir() && l.err == nil {
			for dirs < len(d.subs) && d.subs[dirs].name < it.name {
				dirs++
			}
			if dirs >= len(d.subs) || d.subs[dirs].name != it.name {
				l.err = fmt.Errorf("%w: no directory %q", ErrCorrupt, it.name)
			}
		}
	}
	return d
}

// adopt makes the tree, which is new, locked, and of the mounts of an image, what
// the image says.
func (t *Tree) adopt(im *image) error {
	if len(im.mounts) != len(t.mounts) {
		return errMounts
	}
	for _, saved := range im.mounts {
		if m := t.mounts[saved.path]; m == nil || m.id() != saved.id {
			return errMounts
		}
	}
	entries := 0
	im.root.count(&entries)
	t.files = make(map[uint64]location, entries)
	t.rootItem = im.item
	c := t.changes()
	t.fill(t.root, im, &im.root, c)
	for _, saved := range im.mounts {
		t.mounts[saved.path].walked = saved.walked
	}
	c.Invalid = nil
	c.publish()
	t.dirty = false
	return nil
}

func (d *imageDir) count(entries *int) {
	for _, p := range d.pages {
		*entries += int(p.count)
	}
	for i := range d.subs {
		d.subs[i].count(entries)
	}
}

func parentAbs(path string) string { return path[:max(0, strings.LastIndexByte(path, '/'))] }

// fill gives a directory what an image has of it.
func (t *Tree) fill(d *dir, whole *image, im *imageDir, c *changes) {
	at := d.place()
	for _, s := range whole.salts {
		if parentAbs(s.path) == strings.TrimSuffix(d.path(), "/") {
			t.salts[spot{d, baseName(s.path)}] = s.ino
		}
	}
	d.listed, d.restored = im.listed, im.listed != 0
	for i := range im.subs {
		s := d.sub(im.subs[i].name)
		if s == nil {
			s = t.newDir(d, im.subs[i].name, c)
			t.link(s)
		}
		t.fill(s, whole, &im.subs[i], c)
	}
	for _, p := range im.pages {
		p.dir = d
	}
	t.bind(d, im.pages, c)
	for it := range d.items {
		c.file(d, at, it, +1)
		if len(c.Added) >= maxChange {
			c.Invalid = nil
			c.tell()
		}
	}
}
