package reader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/wire"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// errTooMany: a directory is larger than it is worth.
var errTooMany = errors.New("too many entries")

// directory is a whole directory, from here or from the master. One with more
// entries than limit, of those that are not here, is errTooMany; 0: no limit.
func (r *Reader) directory(ctx context.Context, ino uint64, limit int) (*namespace.Copy, error) {
	if c, ok := r.dirs.get(ino); ok {
		return c, nil
	}
	if r.tours.wait(ctx, ino) {
		if c, ok := r.dirs.get(ino); ok {
			return c, nil
		}
	}
	return r.askDirectory(ctx, ino, limit)
}

// askDirectory is directory, from the master.
func (r *Reader) askDirectory(ctx context.Context, ino uint64, limit int) (c *namespace.Copy, err error) {
	f := r.dirs.takeOff(ino)
	defer func() { r.dirs.land(ino, f, c) }()
	former := r.dirs.former(ino)
	err = r.ask(ctx, func(ctx context.Context) (err error) {
		c, err = r.fetchDirectory(ctx, ino, former, limit)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list inode %d: %w", ino, err)
	}
	return c, nil
}

// directorySoon has a directory fetched while nobody waits.
func (r *Reader) directorySoon(ino uint64, limit int) {
	r.background(func(ctx context.Context) {
		if _, err := r.directory(ctx, ino, limit); err != nil && ctx.Err() == nil {
			r.log.Debug("fetch a directory", "ino", ino, "limit", limit, "err", err)
		}
	})
}

// fetchDirectory asks for the pages of a directory that former has not.
func (r *Reader) fetchDirectory(ctx context.Context, ino uint64, former *namespace.Copy, limit int) (*namespace.Copy, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ask := &wirepb.ReadDirRequest{Ino: ino, Pages: true, Limit: int32(limit)}
	known := map[namespace.Record]*namespace.Sheet{}
	if former != nil {
		record := former.Record()
		ask.Record = record[:]
		for _, s := range former.Sheets() {
			id := s.ID()
			known[id] = s
			ask.KnownPages = append(ask.KnownPages, id[:])
		}
	}
	stream, err := r.master.ReadDir(ctx, ask)
	if err != nil {
		return nil, err
	}
	var head *wirepb.Entries
	var sheets []*namespace.Sheet
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if head == nil {
			head = part
		}
		for _, p := range part.GetPages() {
			s, err := r.sheet(p, known)
			if err != nil {
				return nil, fmt.Errorf("take in a directory from the master: %w", err)
			}
			sheets = append(sheets, s)
		}
	}
	r.m.directories.WithLabelValues(outcomeOf(head, former)).Inc()
	if head.GetNotModified() && former != nil {
		return former, nil
	}
	of := head.GetDirectory()
	if of.GetEntries() > 0 && len(sheets) == 0 {
		return nil, errTooMany
	}
	return namespace.NewCopy(
		namespace.Listing{Record: namespace.RecordOf(head.GetRecord()), Ino: ino, Mount: of.GetMount(), Source: of.GetMount(), Path: of.GetPath()},
		of.GetHash(), of.GetInodes(), of.GetMounts(), sheets,
	)
}

func outcomeOf(head *wirepb.Entries, former *namespace.Copy) string {
	switch {
	case former == nil:
		return "new"
	case head.GetNotModified():
		return "same"
	default:
		return "changed"
	}
}

// sheet is a page of the master's answer, which leaves out the bytes of those
// that are known.
func (r *Reader) sheet(p *wirepb.Page, known map[namespace.Record]*namespace.Sheet) (*namespace.Sheet, error) {
	id := namespace.RecordOf(p.GetId())
	if s := known[id]; s != nil {
		r.m.pages.WithLabelValues("known").Inc()
		return s, nil
	}
	r.m.pages.WithLabelValues("fetched").Inc()
	return namespace.NewSheet(id, string(p.GetData()))
}

// listing is a directory as FUSE sees it.
type listing struct{ *namespace.Copy }

var _ fuse.Listing = listing{}

// From implements fuse.Listing.
func (l listing) From(i int) iter.Seq[fuse.Node] {
	return func(yield func(fuse.Node) bool) {
		for e := range l.Copy.From(i) {
			if !yield(nodeOfEntry(e)) {
				return
			}
		}
	}
}

// nodeOfEntry is an entry of a page as FUSE sees it.
func nodeOfEntry(e namespace.Entry) fuse.Node {
	n := fuse.Node{Ino: e.Ino, Parent: e.Parent, Name: e.Name, Mode: e.Mode, Size: e.Size, ModTime: time.Unix(0, e.MTime), Link: e.Link}
	if e.IsFile() {
		n.Version = wire.ObjectKey(objectOf(e))
	}
	return n
}

// entryOf is an entry of a page as the master would give it.
func entryOf(e namespace.Entry) *wirepb.Entry {
	out := &wirepb.Entry{Ino: e.Ino, Parent: e.Parent, Name: e.Name, Mode: e.Mode, Size: e.Size, MtimeNs: e.MTime, Link: e.Link}
	if e.IsFile() {
		out.Object = objectOf(e)
		out.Object.Key = wire.ObjectKey(out.Object)
	}
	return out
}

func objectOf(e namespace.Entry) *wirepb.Object {
	return &wirepb.Object{Mount: e.Source, Path: e.Path, Size: e.Size, MtimeNs: e.MTime, Etag: e.ETag}
}
