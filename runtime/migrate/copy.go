// Package migrate copies a tree from a source to a target. What is there already
// is not copied again, so a copy that was broken off goes on where it was; what is
// written is checked; and nothing is seen at a target before it is whole.
package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/runtime/source"
)

const (
	// queued files wait for a stream: the walk is not further ahead than these.
	queued = 4096
	// tries of one file, firstPause and then twice as long apart.
	tries      = 4
	firstPause = 500 * time.Millisecond
	// tooMany files that fail end the copy: something is wrong with all of them.
	tooMany = 100
)

// Target takes files in.
type Target interface {
	// Holds tells whether p is a whole copy of o.
	Holds(ctx context.Context, p string, o source.Object) (bool, error)
	// Put writes the bytes of o, which in gives, to p, and checks them.
	Put(ctx context.Context, p string, o source.Object, in io.Reader) error
	// Close lets go of the target.
	Close() error
}

// Progress of a copy. Totals are of what the walk has found so far; Walked tells
// that it is at its end.
type Progress struct {
	BytesDone, BytesTotal int64
	FilesDone, FilesTotal int64
	// Kept files were there already; they and their bytes are done too.
	Kept int64
	// Links are not copied.
	Links  int64
	Walked bool
}

// Copy is one copy.
type Copy struct {
	From source.Store
	// Path of From: a directory, or one file.
	Path string
	To   Target
	// Streams is how many files are copied at once.
	Streams int

	bytesDone, bytesTotal, filesDone, filesTotal, kept, links, failed atomic.Int64
	walked                                                            atomic.Bool
	mu                                                                sync.Mutex
	first                                                             error
}

// Progress is how far the copy is.
func (c *Copy) Progress() Progress {
	return Progress{
		BytesDone: c.bytesDone.Load(), BytesTotal: c.bytesTotal.Load(), FilesDone: c.filesDone.Load(), FilesTotal: c.filesTotal.Load(),
		Kept: c.kept.Load(), Links: c.links.Load(), Walked: c.walked.Load(),
	}
}

type file struct {
	object source.Object
	to     string
}

// Run copies until everything is there or nothing more can be done.
func (c *Copy) Run(ctx context.Context) error {
	top, err := c.From.Stat(ctx, c.Path)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	files := make(chan file, queued)
	group.Go(func() error {
		defer close(files)
		defer c.walked.Store(true)
		if !top.Dir {
			return c.found(ctx, files, top, path.Base(c.Path))
		}
		return c.walk(ctx, files, c.Path)
	})
	for range max(c.Streams, 1) {
		group.Go(func() error {
			for f := range files {
				if err := c.one(ctx, f); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if n := c.failed.Load(); n > 0 {
		return fmt.Errorf("%d of %d files were not copied; the first: %w", n, c.filesTotal.Load(), c.first)
	}
	return nil
}

func (c *Copy) walk(ctx context.Context, files chan<- file, dir string) error {
	each := func(o source.Object) error {
		if o.Dir {
			return nil
		}
		return c.found(ctx, files, o, below(c.Path, o.Path))
	}
	if walker, ok := c.From.(source.Walker); ok {
		return walker.Walk(ctx, dir, each)
	}
	return c.list(ctx, dir, each)
}

// list goes through a tree directory by directory.
func (c *Copy) list(ctx context.Context, dir string, each func(source.Object) error) error {
	var dirs []string
	if err := c.From.List(ctx, dir, func(o source.Object) error {
		if o.Dir {
			dirs = append(dirs, o.Path)
		}
		return each(o)
	}); err != nil {
		return err
	}
	for _, d := range dirs {
		if err := c.list(ctx, d, each); err != nil {
			return err
		}
	}
	return nil
}

func below(dir, p string) string {
	if dir == "" {
		return p
	}
	return p[len(dir)+1:]
}

func (c *Copy) found(ctx context.Context, files chan<- file, o source.Object, to string) error {
	if o.Link != "" {
		c.links.Add(1)
		return nil
	}
	c.filesTotal.Add(1)
	c.bytesTotal.Add(o.Size)
	select {
	case files <- file{object: o, to: to}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// one copies a file; its error ends the whole copy.
func (c *Copy) one(ctx context.Context, f file) error {
	err := c.try(ctx, f)
	for pause, n := firstPause, 1; err != nil && n < tries && again(err); pause, n = 2*pause, n+1 {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		if errors.Is(err, source.ErrChanged) {
			now, stat := c.From.Stat(ctx, f.object.Path)
			if stat != nil {
				err = stat
				continue
			}
			c.bytesTotal.Add(now.Size - f.object.Size)
			f.object = now
		}
		err = c.try(ctx, f)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	c.mu.Lock()
	if c.first == nil {
		c.first = err
	}
	c.mu.Unlock()
	if c.failed.Add(1) >= tooMany || errors.Is(err, source.ErrDenied) {
		return fmt.Errorf("%d files were not copied, and no more are tried; the first: %w", c.failed.Load(), c.first)
	}
	return nil
}

// again tells whether trying a file again may help.
func again(err error) bool {
	return !errors.Is(err, source.ErrNotExist) && !errors.Is(err, source.ErrDenied) && !errors.Is(err, source.ErrInvalid)
}

func (c *Copy) try(ctx context.Context, f file) error {
	have, err := c.To.Holds(ctx, f.to, f.object)
	if err != nil {
		return err
	}
	if have {
		c.kept.Add(1)
		c.filesDone.Add(1)
		c.bytesDone.Add(f.object.Size)
		return nil
	}
	in, err := c.From.Open(ctx, f.object, 0, f.object.Size)
	if err != nil {
		return err
	}
	counted := &counter{in: in, total: &c.bytesDone}
	err = errors.Join(c.To.Put(ctx, f.to, f.object, counted), in.Close())
	if err != nil {
		c.bytesDone.Add(-counted.n)
		return err
	}
	c.filesDone.Add(1)
	return nil
}

// counter counts what is read while it is read.
type counter struct {
	in    io.Reader
	n     int64
	total *atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.n += int64(n)
	c.total.Add(int64(n))
	return n, err
}
