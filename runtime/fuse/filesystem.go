// Package fuse serves a Dataset to the kernel. Requests become calls of a
// FileSystem, which runtime/reader implements; nothing here knows of workers
// or sources, and nothing here has state that the FileSystem cannot rebuild.
package fuse

import (
	"context"
	"iter"
	"os"
	"time"
)

// RootIno is the inode of the root directory.
const RootIno uint64 = 1

// Node is one entry of the tree. Its inode number belongs to its path: it is
// the same after a restart of any process.
type Node struct {
	Ino  uint64
	Name string
	// Parent is the inode of the directory that has the entry under Name; 0 if
	// it has none or nobody knows.
	Parent uint64
	// Mode holds the type and permission bits as in stat(2).
	Mode    uint32
	Size    int64
	ModTime time.Time
	Link    string
	// Version identifies the bytes of a file: it changes when they may have
	// changed. Empty means that size and modification time tell.
	Version string
}

// FileSystem answers for the tree of a Dataset. Errors are mapped to errno in
// one place: fs.ErrNotExist, fs.ErrPermission, source.ErrChanged (ESTALE),
// context errors (EINTR), all else EIO.
type FileSystem interface {
	// Lookup finds name in the directory parent.
	Lookup(ctx context.Context, parent uint64, name string) (Node, error)
	// Node finds an entry by its inode number, also one that a former process
	// handed out.
	Node(ctx context.Context, ino uint64) (Node, error)
	// ReadDir lists a directory, sorted by name.
	ReadDir(ctx context.Context, ino uint64) (Listing, error)
	// Open pins the version of the file that it is given for as long as the
	// File is open. When it meets a newer version than Lookup gave, Lookup and
	// Node speak of the newer one from then on.
	Open(ctx context.Context, ino uint64) (File, error)
	// StatFS gives the bytes and files of the whole Dataset; -1 if unknown.
	StatFS(ctx context.Context) (totalBytes, files int64)
	// Invalidations is told of inodes whose attributes, bytes or entries
	// changed; the channel is closed when the FileSystem is.
	Invalidations() <-chan Invalidation
}

// Listing is a directory at one moment; it does not change.
type Listing interface {
	// Len is the number of entries.
	Len() int
	// From gives the entries from number i on.
	From(i int) iter.Seq[Node]
}

// Invalidation tells the kernel to forget. Name is set when an entry of the
// directory Ino came, went or changed; else Ino itself changed. The zero value
// says that anything may have changed: changes were missed.
type Invalidation struct {
	Ino  uint64
	Name string
}

// File is an open file.
type File interface {
	// ReadAt reads like io.ReaderAt: fewer bytes only at the end of the file.
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	// Backing returns a descriptor of the complete local copy, for
	// passthrough, or nil while there is none. Its bytes never change and are
	// never punched; the caller closes it. The copy may be unlinked at any time.
	Backing() *os.File
	// Version is that of the Node whose bytes this File reads.
	Version() string
	// Close ends the use of the file, and with it its lease at the worker.
	Close() error
}

// Lender is a File that may have bytes in memory already, so that the kernel can
// take them from there: one copy less.
type Lender interface {
	// Lend gives n bytes from off on, all of them within the file, in one part
	// or several. They stay what they are until done is called. This package
	// does not look at them: what is mapped from a disk may be unreadable, which
	// the kernel survives and this process does not. Without parts and without
	// an error ReadAt is to be called.
	Lend(ctx context.Context, off, n int64) (parts [][]byte, done func(), err error)
}
