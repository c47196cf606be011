package wire

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// Errors of the other side that are not the source's.
var (
	// ErrNoSpace: the other side has no room to keep the bytes; whoever needs
	// them gets them elsewhere.
	ErrNoSpace = errors.New("no room in the cache")
	// ErrNotCached: the other side was asked only for what it has.
	ErrNotCached = errors.New("not cached")
	// ErrPeer: the other side is gone, hung or speaks nonsense. It says nothing
	// about the object.
	ErrPeer = errors.New("peer failed")
	// ErrCorrupt: the bytes that came are not those that the other side took in.
	// It is not held against the peer, which may have others that are good.
	ErrCorrupt = errors.New("bytes from a peer do not match their checksum")
)

// statusNotCached is the one status that only the data plane has.
const statusNotCached wirepb.Status = 100

var statuses = []struct {
	status wirepb.Status
	err    error
}{
	{statusNotCached, ErrNotCached},
	{wirepb.Status_STATUS_NO_SPACE, ErrNoSpace},
	{wirepb.Status_STATUS_CHANGED, source.ErrChanged},
	{wirepb.Status_STATUS_NOT_EXIST, source.ErrNotExist},
	{wirepb.Status_STATUS_NOT_EXIST, fs.ErrNotExist},
	{wirepb.Status_STATUS_DENIED, source.ErrDenied},
	{wirepb.Status_STATUS_UNAVAILABLE, source.ErrUnavailable},
	{wirepb.Status_STATUS_UNAVAILABLE, context.DeadlineExceeded},
	{wirepb.Status_STATUS_UNAVAILABLE, context.Canceled},
	{wirepb.Status_STATUS_INVALID, source.ErrInvalid},
}

// kinds name errors in metrics; the first that fits.
var kinds = []struct {
	err  error
	name string
}{
	{ErrCorrupt, "corrupt"},
	{ErrPeer, "peer"},
	{ErrNotCached, "not_cached"},
	{ErrNoSpace, "no_space"},
	{source.ErrChanged, "changed"},
	{source.ErrNotExist, "not_exist"},
	{source.ErrDenied, "denied"},
	{context.Canceled, "cancelled"},
	{source.ErrUnavailable, "unavailable"},
	{context.DeadlineExceeded, "unavailable"},
	{source.ErrInvalid, "invalid"},
}

// Kind is the name of a kind of error, for metrics: "ok" for none, "internal"
// for what has no kind.
func Kind(err error) string {
	if err == nil {
		return "ok"
	}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return k.name
		}
	}
	return "internal"
}

// StatusOf is how an error travels.
func StatusOf(err error) wirepb.Status {
	if err == nil {
		return wirepb.Status_STATUS_OK
	}
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			return s.status
		}
	}
	return wirepb.Status_STATUS_INTERNAL
}

// StatusError is the error that a status stands for, nil for OK. It wraps the
// sentinel that StatusOf was given.
func StatusError(status wirepb.Status, message string) error {
	if status == wirepb.Status_STATUS_OK {
		return nil
	}
	for _, s := range statuses {
		if s.status == status {
			return &remoteError{message, s.err}
		}
	}
	return fmt.Errorf("answered %s: %s", status, message)
}

// remoteError keeps the other side's words, which already name the cause.
type remoteError struct {
	message string
	cause   error
}

func (e *remoteError) Error() string {
	if e.message == "" {
		return e.cause.Error()
	}
	return e.message
}

func (e *remoteError) Unwrap() error { return e.cause }
