package reader

import (
	"context"
	"errors"
	"io"
	"slices"
	"syscall"
	"time"

	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

const (
	// A tree is one of small files when half of them have no more than
	// smallFileBytes and those above wholeBytes have less than half of the
	// bytes: for these passthrough is worth more than a quick open.
	smallFileBytes = 256 << 10
	// A sample of a tree is bounded in time, directories and entries.
	sampleFor     = 3 * time.Second
	contactFor    = 15 * time.Second // the master may start together with the mount
	sampleDirs    = 24
	sampleEntries = 2000
	// sampleBranch is how many directories of one are looked into.
	sampleBranch = 4
)

// Profile says how a mount best opens the files, by a sample of their sizes.
// Where nothing is known in time it is large.
func (r *Reader) Profile(ctx context.Context) fuse.Profile {
	if !r.masterAnswers(ctx) {
		return fuse.ProfileLarge
	}
	ctx, cancel := context.WithTimeout(ctx, sampleFor)
	defer cancel()
	var sizes []int64
	dirs := []uint64{fuse.RootIno}
	for i := 0; i < len(dirs) && i < sampleDirs; i++ {
		entries, err := r.listSome(ctx, dirs[i])
		if err != nil {
			break
		}
		var below []uint64
		for _, e := range entries {
			switch e.GetMode() & syscall.S_IFMT {
			case syscall.S_IFREG:
				sizes = append(sizes, e.GetSize())
			case syscall.S_IFDIR:
				below = append(below, e.GetIno())
			}
		}
		for j := range min(len(below), sampleBranch) { // spread over all of them
			dirs = append(dirs, below[j*len(below)/min(len(below), sampleBranch)])
		}
	}
	return profileOf(sizes)
}

// masterAnswers waits for the master, but not for ever.
func (r *Reader) masterAnswers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, contactFor)
	defer cancel()
	_, err := r.entry(ctx, fuse.RootIno, "")
	return err == nil
}

func profileOf(sizes []int64) fuse.Profile {
	var all, large int64
	for _, n := range sizes {
		all += n
		if n > wholeBytes {
			large += n
		}
	}
	slices.Sort(sizes)
	if len(sizes) > 0 && sizes[len(sizes)/2] <= smallFileBytes && 2*large < all {
		return fuse.ProfileSmall
	}
	return fuse.ProfileLarge
}

// listSome reads the beginning of a directory.
func (r *Reader) listSome(ctx context.Context, ino uint64) (some []*wirepb.Entry, err error) {
	err = r.stream(ctx, ino, func(entries []*wirepb.Entry) error {
		if some = append(some, entries...); len(some) >= sampleEntries {
			return io.EOF
		}
		return nil
	})
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return some, err
}
