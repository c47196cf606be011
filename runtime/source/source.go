// Package source is the contract of an under-store: the storage that holds the
// truth and that Millrace caches. Each kind lives in a package below; each is
// done when it passes sourcetest.
package source

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/millrace/millrace/runtime/source/egress"
)

// Errors that every kind of source maps its own onto. They are wrapped with
// what was being done to which URI, never with credentials.
var (
	// ErrNotExist: the object, bucket, claim or directory is not there.
	ErrNotExist = errors.New("does not exist")
	// ErrDenied: the credentials are wrong or may not do this.
	ErrDenied = errors.New("access denied")
	// ErrChanged: the object is no longer the one that was listed. Its bytes
	// under the old identity are gone.
	ErrChanged = errors.New("changed at the source")
	// ErrUnavailable: the source does not answer; trying later may help.
	ErrUnavailable = errors.New("source unavailable")
	// ErrInvalid: the mount point or its options make no sense.
	ErrInvalid = errors.New("invalid source")
)

// Object is one entry of a source.
type Object struct {
	// Path is relative to the mount point, without leading or trailing slash;
	// "" is the mount point itself.
	Path string
	Dir  bool
	// Link is the target of a symbolic link, as it is stored; empty for others.
	Link string
	// Size in bytes; 0 for directories.
	Size    int64
	ModTime time.Time
	// Mode holds the nine permission bits; 0 where the source has none.
	Mode uint32
	// ETag identifies the bytes where the source has such a thing (S3, HTTP).
	ETag string
}

// Version is the identity of an object's bytes: two objects of one path with
// the same Version hold the same bytes, as far as the source can tell.
func (o Object) Version() string {
	if o.ETag != "" {
		return o.ETag
	}
	return versionOf(o.Size, o.ModTime)
}

// Store reads one mount point.
type Store interface {
	// Stat looks up one path; ErrNotExist if it is not there.
	Stat(ctx context.Context, path string) (Object, error)
	// List calls each once for every direct child of dir, in no particular
	// order; an error of each ends the listing and is returned.
	List(ctx context.Context, dir string, each func(Object) error) error
	// Open reads n bytes of o from off. A reader that ends early has met an
	// error, never a silent end: io.ErrUnexpectedEOF or ErrChanged. The bytes
	// are of o's Version or the read fails with ErrChanged.
	Open(ctx context.Context, o Object, off, n int64) (io.ReadCloser, error)
	// String is the mount point without credentials.
	String() string
	// Close releases connections and descriptors.
	Close() error
}

// Walker is a Store that lists a whole tree faster than directory by directory.
type Walker interface {
	// Walk calls each once for every object below dir at any depth; parents
	// that exist only as a prefix of others need not be named.
	Walk(ctx context.Context, dir string, each func(Object) error) error
}

// Omitter is a Store that tells what its listings leave out; Omissions is how.
type Omitter interface {
	Omitted() (n int, first string)
}

// Config is what a Store is opened from.
type Config struct {
	// MountPoint as in the Dataset: s3://bucket/prefix, pvc://claim/sub …
	MountPoint string
	// Options in the clear; EncryptOptions holds the values read from secret
	// files. Neither is ever logged.
	Options        map[string]string
	EncryptOptions map[string]string
	// Egress says which addresses that are refused by default the administrator
	// allows. Options cannot change it.
	Egress egress.Policy
}
