package master

import (
	"cmp"
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// The messages of a large directory stay below gRPC's 4 MiB.
const (
	entriesPerMessage = 1024
	bytesPerMessage   = 1 << 20
)

// Lookup finds one entry.
func (m *Master) Lookup(ctx context.Context, r *wirepb.LookupRequest) (*wirepb.Entry, error) {
	e, err := m.tree.Lookup(ctx, r.GetIno(), r.GetName())
	if err != nil {
		return nil, statusOf(err)
	}
	return entryOf(e), nil
}

// Refresh asks the source about one entry.
func (m *Master) Refresh(ctx context.Context, r *wirepb.LookupRequest) (*wirepb.Entry, error) {
	e, err := m.tree.Refresh(ctx, r.GetIno(), r.GetName())
	if err != nil {
		return nil, statusOf(err)
	}
	return entryOf(e), nil
}

// ReadDir lists a directory: the entries, or the pages that the caller lacks, or
// only that nothing has changed.
func (m *Master) ReadDir(r *wirepb.ReadDirRequest, stream wirepb.Master_ReadDirServer) error {
	l, err := m.tree.List(stream.Context(), r.GetIno())
	if err != nil {
		return statusOf(err)
	}
	first := &wirepb.Entries{Record: l.Record[:]}
	switch {
	case namespace.RecordOf(r.GetRecord()) == l.Record:
		first.NotModified = true
		return stream.Send(first)
	case r.GetPages():
		return sendPages(l, r, first, stream)
	default:
		return sendEntries(l, r, first, stream)
	}
}

func sendEntries(l *namespace.Listing, r *wirepb.ReadDirRequest, message *wirepb.Entries, stream wirepb.Master_ReadDirServer) error {
	left := int(r.GetLimit())
	for e := range l.Entries(r.GetAfter()) {
		message.Entries = append(message.Entries, entryOf(e))
		if len(message.Entries) == entriesPerMessage {
			if err := stream.Send(message); err != nil {
				return err
			}
			message = &wirepb.Entries{Entries: make([]*wirepb.Entry, 0, entriesPerMessage)}
		}
		if left--; left == 0 {
			break
		}
	}
	if len(message.GetEntries()) == 0 && len(message.GetRecord()) == 0 {
		return nil
	}
	return stream.Send(message)
}

func sendPages(l *namespace.Listing, r *wirepb.ReadDirRequest, message *wirepb.Entries, stream wirepb.Master_ReadDirServer) error {
	known := make(map[namespace.Record]bool, len(r.GetKnownPages()))
	for _, id := range r.GetKnownPages() {
		known[namespace.RecordOf(id)] = true
	}
	pages, salts := l.Pages()
	message.Directory = &wirepb.Directory{Mount: l.Source, Path: l.Path, Hash: l.Hash(), Inodes: salts, Mounts: l.Mounts(), Entries: int64(l.Len())}
	if r.GetLimit() > 0 && lacking(l, known) > int(r.GetLimit()) {
		return stream.Send(message)
	}
	bytes := 0
	for p := range pages {
		one := &wirepb.Page{Id: p.ID[:], Entries: int32(p.Entries)}
		if !known[p.ID] {
			one.Data = []byte(p.Data)
			bytes += len(p.Data)
		}
		message.Pages = append(message.Pages, one)
		if bytes >= bytesPerMessage || len(message.GetPages()) == entriesPerMessage {
			if err := stream.Send(message); err != nil {
				return err
			}
			message, bytes = &wirepb.Entries{}, 0
		}
	}
	return stream.Send(message)
}

// lacking is how many entries are in pages that are not known.
func lacking(l *namespace.Listing, known map[namespace.Record]bool) (n int) {
	pages, _ := l.Pages()
	for p := range pages {
		if !known[p.ID] {
			n += p.Entries
		}
	}
	return n
}

// Revalidate looks at the sources again.
func (m *Master) Revalidate(ctx context.Context, r *wirepb.RevalidateRequest) (*wirepb.RevalidateReply, error) {
	if err := m.tree.Scan(ctx, cmp.Or(r.GetPath(), "/")); err != nil {
		return nil, statusOf(err)
	}
	snapshot := m.tree.Totals().Snapshot
	return &wirepb.RevalidateReply{Snapshot: snapshot[:]}, nil
}

// StatFS gives the totals.
func (m *Master) StatFS(context.Context, *wirepb.StatFSRequest) (*wirepb.StatFSReply, error) {
	sum := m.tree.Totals()
	if !sum.Complete {
		return &wirepb.StatFSReply{TotalBytes: -1, Files: -1}, nil
	}
	return &wirepb.StatFSReply{TotalBytes: sum.Bytes, Files: sum.Files}, nil
}

func entryOf(e namespace.Entry) *wirepb.Entry {
	out := &wirepb.Entry{Ino: e.Ino, Parent: e.Parent, Name: e.Name, Mode: e.Mode, Size: e.Size, MtimeNs: e.MTime, Link: e.Link}
	if e.IsFile() {
		out.Object = objectOf(e)
		out.Object.Key = keyText(objectKey(e))
	}
	return out
}

func objectOf(e namespace.Entry) *wirepb.Object {
	return &wirepb.Object{Mount: e.Source, Path: e.Path, Size: e.Size, MtimeNs: e.MTime, Etag: e.ETag}
}

// statusOf carries the source's own answer over gRPC.
func statusOf(err error) error {
	code := codes.Internal
	switch {
	case errors.Is(err, source.ErrNotExist):
		code = codes.NotFound
	case errors.Is(err, source.ErrDenied):
		code = codes.PermissionDenied
	case errors.Is(err, source.ErrUnavailable):
		code = codes.Unavailable
	case errors.Is(err, source.ErrInvalid), errors.Is(err, source.ErrChanged):
		code = codes.FailedPrecondition
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	}
	return status.Error(code, err.Error())
}
