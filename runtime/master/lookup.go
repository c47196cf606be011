package master

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// entriesPerMessage keeps the messages of a large directory below gRPC's 4 MiB.
const entriesPerMessage = 1024

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

// ReadDir lists a directory.
func (m *Master) ReadDir(r *wirepb.ReadDirRequest, stream wirepb.Master_ReadDirServer) error {
	all, err := m.tree.ReadDir(stream.Context(), r.GetIno())
	if err != nil {
		return statusOf(err)
	}
	for len(all) > 0 {
		n := min(len(all), entriesPerMessage)
		message := &wirepb.Entries{Entries: make([]*wirepb.Entry, n)}
		for i, e := range all[:n] {
			message.Entries[i] = entryOf(e)
		}
		if err := stream.Send(message); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
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
	return &wirepb.Object{Mount: e.Mount, Path: e.Path, Size: e.Size, MtimeNs: e.MTime, Etag: e.ETag}
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
