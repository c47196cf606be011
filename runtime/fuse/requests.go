package fuse

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/source"
)

const (
	modeType = syscall.S_IFMT
	modeFile = syscall.S_IFREG
	modeDir  = syscall.S_IFDIR
	modeLink = syscall.S_IFLNK
)

// requests answers the kernel by asking the FileSystem. What it remembers
// (nodes, open files, directory listings) can be made anew at any time.
type requests struct {
	gofuse.RawFileSystem // ENOSYS for all that a read-only tree has no use for

	ctx   context.Context // of the mount; carries values, not its end
	fs    FileSystem
	small bool // ProfileSmall
	nodes *nodes
	files *openFiles
	dirs  *openDirs
	loans *loans
	m     *metrics
}

// interruptible ends when the kernel interrupts the request.
type interruptible struct {
	context.Context
	done <-chan struct{}
}

func (c interruptible) Done() <-chan struct{} { return c.done }

func (c interruptible) Err() error {
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}

func (r *requests) request(cancel <-chan struct{}) context.Context {
	return interruptible{r.ctx, cancel}
}

func (r *requests) status(ctx context.Context, err error) gofuse.Status {
	no := errno(ctx, err)
	if no != 0 {
		r.m.errors.WithLabelValues(errnoName(no)).Inc()
	}
	return gofuse.Status(no)
}

func (r *requests) String() string { return fsName }

// nameMax is the longest name of most file systems, in bytes. Object stores may
// have longer ones: they are found all the same.
const nameMax = 255

func (r *requests) Lookup(cancel <-chan struct{}, h *gofuse.InHeader, name string, out *gofuse.EntryOut) gofuse.Status {
	ctx := r.request(cancel)
	n, err := r.fs.Lookup(ctx, r.nodes.ino(h.NodeId), name)
	if notExist(err) {
		if len(name) > nameMax {
			return gofuse.Status(syscall.ENAMETOOLONG)
		}
		// A reply without a node is remembered; an ENOENT is not.
		out.SetEntryTimeout(negativeTimeout)
		return gofuse.OK
	}
	if err != nil {
		return r.status(ctx, err)
	}
	r.enter(n, out)
	return gofuse.OK
}

// enter tells the kernel of an entry, and thus counts it.
func (r *requests) enter(n Node, out *gofuse.EntryOut) {
	id, version := r.nodes.enter(n)
	out.NodeId, out.Generation = id, generationOf(version)
	out.SetEntryTimeout(entryTimeout)
	out.SetAttrTimeout(attrTimeout)
	setAttr(n, &out.Attr)
}

func (r *requests) Forget(id, lookups uint64) { r.nodes.forget(id, lookups) }

// node is the newest state of what id stands for; ESTALE when that is another
// version or nothing any more, upon which the kernel looks the path up again.
func (r *requests) node(ctx context.Context, id uint64) (Node, error) {
	ino := r.nodes.ino(id)
	n, err := r.fs.Node(ctx, ino)
	if err != nil && !notExist(err) {
		return Node{}, err
	}
	if err != nil || !r.nodes.speaksOf(id, ino, versionOf(n)) {
		if !r.small { // its readers have no handles that would keep it
			r.files.unpin(id)
		}
		return Node{}, syscall.ESTALE
	}
	return n, nil
}

func (r *requests) GetAttr(cancel <-chan struct{}, in *gofuse.GetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	ctx := r.request(cancel)
	n, err := r.node(ctx, in.NodeId)
	if errors.Is(err, syscall.ESTALE) && in.Flags()&gofuse.FUSE_GETATTR_FH != 0 {
		// fstat of a handle speaks of the version that the handle reads.
		if o, ok := r.files.beginRead(in.NodeId); ok {
			n, err = o.node, nil
			r.files.endRead(o)
		}
	}
	if err != nil {
		return r.status(ctx, err)
	}
	out.SetTimeout(attrTimeout)
	setAttr(n, &out.Attr)
	return gofuse.OK
}

// Attributes of entries whose source has no permissions.
const (
	defaultFilePerm = 0o444
	defaultDirPerm  = 0o555
)

func setAttr(n Node, out *gofuse.Attr) {
	mode := n.Mode
	if mode&0o777 == 0 {
		mode |= defaultFilePerm
		if mode&modeType == modeDir {
			mode |= defaultDirPerm
		}
	}
	out.Ino, out.Mode, out.Nlink = n.Ino, mode, 1
	out.Size, out.Blocks, out.Blksize = uint64(n.Size), uint64(n.Size+511)/512, 4096
	out.SetTimes(&n.ModTime, &n.ModTime, &n.ModTime)
}

func (r *requests) Readlink(cancel <-chan struct{}, h *gofuse.InHeader) ([]byte, gofuse.Status) {
	ctx := r.request(cancel)
	n, err := r.node(ctx, h.NodeId)
	if err != nil {
		return nil, r.status(ctx, err)
	}
	return []byte(n.Link), gofuse.OK
}

// Access answers access(2) and chdir(2). Whoever may see the mount may read it;
// only files that are no programs are not to be executed.
func (r *requests) Access(cancel <-chan struct{}, in *gofuse.AccessIn) gofuse.Status {
	if in.Mask&unix.X_OK == 0 || r.nodes.isDir(in.NodeId) {
		return gofuse.OK
	}
	ctx := r.request(cancel)
	n, err := r.node(ctx, in.NodeId)
	if err != nil {
		return r.status(ctx, err)
	}
	if n.Mode&modeType == modeFile && n.Mode&0o111 == 0 {
		return gofuse.EACCES
	}
	return gofuse.OK
}

func (r *requests) StatFs(cancel <-chan struct{}, _ *gofuse.InHeader, out *gofuse.StatfsOut) gofuse.Status {
	const block = 4096
	total, files := r.fs.StatFS(r.request(cancel))
	out.Bsize, out.Frsize, out.NameLen = block, block, nameMax
	out.Blocks = uint64(max(total, 0)+block-1) / block
	out.Files = uint64(max(files, 0))
	return gofuse.OK
}

// Open decides how the file is read. Its handle is the version's hash: all that
// a successor needs to go on with it.
func (r *requests) Open(cancel <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	if r.small {
		return gofuse.ENOSYS // from now on the kernel opens by itself
	}
	ctx := r.request(cancel)
	if in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return r.status(ctx, syscall.EROFS)
	}
	n, err := r.node(ctx, in.NodeId)
	if err != nil {
		return r.status(ctx, err)
	}
	f, _, err := r.files.open(ctx, in.NodeId, n)
	if err != nil {
		return r.status(ctx, err)
	}
	out.Fh = versionOf(n)
	out.OpenFlags = gofuse.FOPEN_NOFLUSH
	if f.mode == modePassthrough {
		out.OpenFlags |= gofuse.FOPEN_PASSTHROUGH
		out.BackingID = f.backing
	} else {
		out.OpenFlags |= gofuse.FOPEN_KEEP_CACHE // a node is one version
	}
	r.m.opens.WithLabelValues(string(f.mode)).Inc()
	r.m.openedBytes.WithLabelValues(string(f.mode)).Add(float64(n.Size))
	return gofuse.OK
}

// Flush has nothing to do; ENOSYS tells the kernel never to ask again, for any
// file (fuse_flush in Linux' fs/fuse/file.c). Files without an OPEN cannot say
// so each for itself.
func (r *requests) Flush(<-chan struct{}, *gofuse.FlushIn) gofuse.Status { return gofuse.ENOSYS }

func (r *requests) Release(_ <-chan struct{}, in *gofuse.ReleaseIn) { r.files.release(in.NodeId) }

func (r *requests) Read(cancel <-chan struct{}, in *gofuse.ReadIn, buf []byte) (gofuse.ReadResult, gofuse.Status) {
	ctx := r.request(cancel)
	f, err := r.reading(ctx, in)
	if err != nil {
		return nil, r.status(ctx, err)
	}
	defer r.files.endRead(f)
	given, err := f.lend(ctx, int64(in.Offset), int64(in.Size))
	if err != nil {
		return nil, r.status(ctx, err)
	}
	if given != nil {
		r.m.read(given.n)
		r.loans.put(in.Unique, given)
		return lent(given.n), gofuse.OK
	}
	n, err := f.readAt(ctx, buf[:in.Size], int64(in.Offset))
	if err != nil {
		return nil, r.status(ctx, err)
	}
	r.m.read(n)
	return inPlace(buf[:n]), gofuse.OK
}

// reading is the File of a READ, until endRead.
func (r *requests) reading(ctx context.Context, in *gofuse.ReadIn) (*opened, error) {
	if r.small {
		return r.use(ctx, in.NodeId)
	}
	if f, ok := r.files.beginRead(in.NodeId); ok {
		return f, nil
	}
	return r.adopt(ctx, in.NodeId, in.Fh)
}

// inPlace is the result of a READ whose bytes already lie in the reply.
type inPlace []byte

func (b inPlace) Bytes([]byte) ([]byte, gofuse.Status) { return b, gofuse.OK }
func (b inPlace) Size() int                            { return len(b) }
func (b inPlace) Done()                                {}

// Readv is go-fuse's way to fill a reply without a copy of its own.
func (b inPlace) Readv(dst [][]byte) (int, gofuse.Status) {
	if len(b) > 0 && len(dst) == 1 && len(dst[0]) > 0 && &dst[0][0] == &b[0] {
		return len(b), gofuse.OK
	}
	n := 0
	for _, d := range dst {
		n += copy(d, b[n:])
	}
	return n, gofuse.OK
}

// adopt opens the file of a handle that a former server gave out, if the bytes
// are still those of the handle, and begins a READ of it. However many handles
// there are, they are counted as one.
func (r *requests) adopt(ctx context.Context, id, fh uint64) (*opened, error) {
	n, err := r.node(ctx, id)
	if err != nil {
		return nil, err
	}
	if versionOf(n) != fh {
		return nil, syscall.ESTALE
	}
	_, fresh, err := r.files.open(ctx, id, n)
	if err != nil {
		return nil, err
	}
	o, ok := r.files.beginRead(id)
	if !fresh {
		r.files.release(id)
	}
	if !ok {
		return nil, syscall.ESTALE
	}
	return o, nil
}

// use opens the version that a node is, for a kernel that does not open, and
// begins a READ of it. A version that is the newest no more is readable for as
// long as it was kept.
func (r *requests) use(ctx context.Context, id uint64) (*opened, error) {
	version, ok := r.nodes.version(id)
	if !ok {
		return nil, syscall.ESTALE // of which version, only a former server knew
	}
	// The kernel may have forgotten the node since it was read, and have learnt
	// of another version under the same id.
	if o, ok := r.files.beginRead(id); ok && o.version == version {
		return o, nil
	} else if ok {
		r.files.endRead(o)
	}
	n, err := r.node(ctx, id)
	if err != nil {
		return nil, err
	}
	if _, _, err := r.files.open(ctx, id, n); err != nil {
		return nil, err
	}
	defer r.files.release(id)
	if o, ok := r.files.beginRead(id); ok {
		return o, nil
	}
	return nil, syscall.ESTALE
}

func (r *requests) OpenDir(_ <-chan struct{}, _ *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	out.Fh = r.dirs.open()
	out.OpenFlags = gofuse.FOPEN_CACHE_DIR | gofuse.FOPEN_KEEP_CACHE
	return gofuse.OK
}

func (r *requests) ReleaseDir(in *gofuse.ReleaseIn) { r.dirs.release(in.Fh) }

// listing is what READDIR number off begins at; a listing is taken once per
// handle and pass, so that offsets mean the same from call to call.
func (r *requests) listing(ctx context.Context, in *gofuse.ReadIn) (Listing, error) {
	if in.Offset > 0 {
		if l, ok := r.dirs.listing(in.Fh); ok {
			return l, nil
		}
	}
	l, err := r.fs.ReadDir(ctx, r.nodes.ino(in.NodeId))
	if err != nil {
		return nil, err
	}
	r.dirs.keep(in.Fh, l)
	return l, nil
}

// Offsets 0 and 1 are the directory itself and its parent, which nobody looks up.
var dots = [2]string{".", ".."}

func (r *requests) ReadDir(cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status {
	ctx := r.request(cancel)
	l, err := r.listing(ctx, in)
	if err != nil {
		return r.status(ctx, err)
	}
	if !addDots(in.Offset, out.AddDirEntry) {
		return gofuse.OK
	}
	at := max(in.Offset, uint64(len(dots)))
	for n := range l.From(int(at) - len(dots)) {
		at++
		if !out.AddDirEntry(dirEntry(n, at)) {
			break
		}
	}
	return gofuse.OK
}

func (r *requests) ReadDirPlus(cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status {
	ctx := r.request(cancel)
	l, err := r.listing(ctx, in)
	if err != nil {
		return r.status(ctx, err)
	}
	if !addDots(in.Offset, func(e gofuse.DirEntry) bool { return out.AddDirLookupEntry(e) != nil }) {
		return gofuse.OK
	}
	at := max(in.Offset, uint64(len(dots)))
	for n := range l.From(int(at) - len(dots)) {
		at++
		entry := out.AddDirLookupEntry(dirEntry(n, at))
		if entry == nil {
			break
		}
		r.enter(n, entry)
	}
	return gofuse.OK
}

// addDots adds those of the dots that come at or after an offset; false when
// there is no room for more.
func addDots(offset uint64, add func(gofuse.DirEntry) bool) bool {
	for ; offset < uint64(len(dots)); offset++ {
		if !add(gofuse.DirEntry{Name: dots[offset], Mode: modeDir, Ino: RootIno, Off: offset + 1}) {
			return false
		}
	}
	return true
}

func dirEntry(n Node, next uint64) gofuse.DirEntry {
	return gofuse.DirEntry{Name: n.Name, Mode: n.Mode, Ino: n.Ino, Off: next}
}

// openDirs keeps the listing of each directory that is being read, by handle.
type openDirs struct {
	mu       sync.Mutex
	last     uint64
	listings map[uint64]Listing
}

func newOpenDirs() *openDirs { return &openDirs{listings: map[uint64]Listing{}} }

func (d *openDirs) open() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last++
	d.listings[d.last] = nil
	return d.last
}

func (d *openDirs) release(fh uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.listings, fh)
}

func (d *openDirs) listing(fh uint64) (Listing, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, ok := d.listings[fh]
	return l, ok && l != nil
}

// keep remembers the listing of a handle that this server gave out; others are
// listed anew at each call.
func (d *openDirs) keep(fh uint64, l Listing) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.listings[fh]; ok {
		d.listings[fh] = l
	}
}

func notExist(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, source.ErrNotExist)
}
