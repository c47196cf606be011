// Package namespace is the tree of a Dataset: the entries of all its mounts,
// each at its path, with inode numbers that belong to paths.
//
// Directories are listed when they are looked at, and again when their listing
// is older than the TTL. Besides, every mount is walked in the background, first
// to know its totals and then, rarely, to notice what changed. All of it is soft
// state: the sources have the truth. It is saved to a file so that a new process
// can answer at once; what that has saved is used as it is, and looked at anew
// in the background.
//
// A directory is a sorted run of immutable pages of encoded entries, named by a
// hash of their bytes; a directory is named by a hash of its pages and of its
// directories, and so the root names one exact state of all. See Record.
//
// A mount whose source fails does not touch the others. What is known of it
// stays visible, so that cached files can be read while their source is down.
package namespace

import (
	"context"
	"log/slog"
	"syscall"
	"time"

	"github.com/millrace/millrace/runtime/source"
)

// RootIno is the inode number of the root directory.
const RootIno uint64 = 1

// DefaultTTL is after how long a listing that is looked at is made again.
const DefaultTTL = time.Minute

// walkRest times the duration of a walk is the least pause after it.
const walkRest = 20

// Mount is one source and where it appears.
type Mount struct {
	// Path is absolute and clean; "/" is the root.
	Path string
	// URI names the source in messages; it has no credentials.
	URI string
	// ID tells the source from another that is mounted at the same path at
	// another time: what has another ID has other bytes. It is the path if empty.
	ID string
	// Version is another one when the source is the same and has to be opened anew.
	Version string
	// Open connects to the source. It is called again after failures, so that
	// new secrets are taken up.
	Open func(ctx context.Context) (source.Store, error)
}

// Options of a Tree. The zero value has defaults for all.
type Options struct {
	TTL time.Duration
	// WalkInterval is the pause between background walks. If 0 it is the TTL, or
	// longer if the walk takes long.
	WalkInterval time.Duration
	// OnChange is called in order with every change of files, with the tree
	// locked: it must be quick and must not call the tree.
	OnChange func(Change)
	// OnState is called, unlocked, after the state of a mount changed or a walk ended.
	OnState func()
	// Save is the file that the tree is saved to, and restored from; "" is none.
	// Its directory exists.
	Save string
	// SaveInterval is the least pause between two saves; 30 s if 0. A tree that
	// takes long to save is saved less often.
	SaveInterval time.Duration
	// WalkRate bounds how many directories a second are listed by background
	// walks of sources that have no walk of their own; 0: unbounded.
	WalkRate float64
	Logger   *slog.Logger
	// hash makes inode numbers from names; tests make it collide.
	hash func(dir uint64, name string) uint64
}

// Entry is one file, directory or symbolic link.
type Entry struct {
	Ino, Parent uint64
	// Name is the last part of the path, empty for the root.
	Name string
	// Mode holds the type and permission bits as in stat(2).
	Mode uint32
	// Size in bytes, MTime in nanoseconds since 1970; both 0 where the source has none.
	Size, MTime int64
	Link        string
	ETag        string
	// Mount is the path of the mount that the entry belongs to, empty for
	// directories that only lead to mounts. Path is relative to its mount point.
	Mount, Path string
	// Source is the ID of that mount.
	Source string
}

// IsDir tells whether e is a directory.
func (e Entry) IsDir() bool { return e.Mode&syscall.S_IFMT == syscall.S_IFDIR }

// IsFile tells whether e is a regular file.
func (e Entry) IsFile() bool { return e.Mode&syscall.S_IFMT == syscall.S_IFREG }

// Change is what one look at a source brought.
type Change struct {
	// Added are files that are new, or the new version of a file whose old
	// version is in Removed.
	Added, Removed []Entry
	// Invalid names what was seen before and is different now.
	Invalid []Invalidation
}

// Invalidation says that the entry Name of the directory Ino came, went or
// changed; without a name, that Ino itself changed.
type Invalidation struct {
	Ino  uint64
	Name string
}

// Totals are sums over the entries that are known.
type Totals struct {
	Bytes, Files int64
	// Entries are files, directories and links.
	Entries int64
	// Snapshot names the exact state of the entries: the record of the root.
	Snapshot Record
	// Complete: every mount was walked to its end at least once.
	Complete bool
}

// MountState is how one mount does.
type MountState struct {
	Path, URI string
	// Err is why the source cannot be listed now; nil when it can, or when it
	// was not tried yet (Tried is false).
	Err   error
	Tried bool
	// Note tells of directories that had to be left out of the walk.
	Note string
	// Walked: Files and Bytes are of a whole walk.
	Walked bool
	// Looked is when the last whole walk began; zero before there was one.
	Looked       time.Time
	Files, Bytes int64
}

// Counts are sums since the tree was made.
type Counts struct {
	// Listings, Stats and Walks are questions put to the sources; Failures those
	// that failed for other reasons than that something is not there.
	Listings, Stats, Walks, Failures int64
	// Stale are answers with what was known because the source failed.
	Stale               int64
	Saves, SaveFailures int64
	Restored            Restored
}

// Restored is what became of the file that a former process had saved.
type Restored struct {
	// Entries that were taken over.
	Entries int64
	Took    time.Duration
	// Discarded is why the file was of no use: "corrupt", "version", "mounts";
	// empty when it was, or when there was none.
	Discarded string
}
