package reader

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/peers"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// askTimeout bounds one question to the master, which may have to ask the source.
const askTimeout = 10 * time.Second

// names remembers entries, the least used of them not for long. What is here
// is as the master last told it: its invalidations take away the rest.
type names struct {
	max int

	mu      sync.Mutex
	byIno   map[uint64]*list.Element // of *wirepb.Entry
	byName  map[name]*list.Element
	used    *list.List // the last used in front
	changes uint64     // grows with every invalidation
}

type name struct {
	parent uint64
	name   string
}

func newNames(limit int) *names {
	return &names{
		max: limit, byIno: map[uint64]*list.Element{}, byName: map[name]*list.Element{}, used: list.New(),
	}
}

// get finds an entry by its name in parent, or parent itself without a name.
func (n *names) get(parent uint64, child string) (*wirepb.Entry, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	el, ok := n.byName[name{parent, child}]
	if child == "" {
		el, ok = n.byIno[parent]
	}
	if !ok {
		return nil, false
	}
	n.used.MoveToFront(el)
	return el.Value.(*wirepb.Entry), true
}

// generation is to be asked before the master is, and given to put: what the
// master said before an invalidation came is not remembered after it.
func (n *names) generation() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changes
}

func (n *names) put(e *wirepb.Entry, seen uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if seen != n.changes {
		return
	}
	n.dropLocked(n.byIno[e.GetIno()])
	n.dropLocked(n.byName[name{e.GetParent(), e.GetName()}])
	el := n.used.PushFront(e)
	n.byIno[e.GetIno()] = el
	if e.GetName() != "" {
		n.byName[name{e.GetParent(), e.GetName()}] = el
	}
	if n.used.Len() > n.max {
		n.dropLocked(n.used.Back())
	}
}

func (n *names) dropLocked(el *list.Element) {
	if el == nil {
		return
	}
	e := n.used.Remove(el).(*wirepb.Entry)
	delete(n.byIno, e.GetIno())
	delete(n.byName, name{e.GetParent(), e.GetName()})
}

// forget takes in an invalidation.
func (n *names) forget(ino uint64, child string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.changes++
	if child != "" {
		n.dropLocked(n.byName[name{ino, child}])
		return
	}
	n.dropLocked(n.byIno[ino])
}

// clear forgets everything.
func (n *names) clear() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.changes++
	n.used.Init()
	clear(n.byIno)
	clear(n.byName)
}

// entry finds an entry, here or at the master. When many of a directory had to
// be asked for, the directory is fetched whole. What is not in a directory that
// is here is asked for all the same: the master may look at the source.
func (r *Reader) entry(ctx context.Context, parent uint64, child string) (*wirepb.Entry, error) {
	if e, ok := r.names.get(parent, child); ok {
		return e, nil
	}
	if child == "" {
		seen := r.names.generation()
		if e, ok := r.dirs.entry(parent); ok {
			entry := entryOf(e)
			r.names.put(entry, seen) // it is about to be used
			return entry, nil
		}
	} else if e, ok := r.dirs.find(parent, child); ok {
		return entryOf(e), nil
	}
	var e *wirepb.Entry
	seen := r.names.generation()
	err := r.ask(ctx, func(ctx context.Context) (err error) {
		e, err = r.master.Lookup(ctx, &wirepb.LookupRequest{Ino: parent, Name: child})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look up %q in inode %d: %w", child, parent, err)
	}
	r.names.put(e, seen)
	if dir := e.GetParent(); dir != 0 && e.GetName() != "" {
		if limit := r.dirs.missed(dir); limit > 0 {
			r.directorySoon(dir, limit)
		}
	}
	return e, nil
}

// known is an entry as it is remembered.
func (r *Reader) known(ino uint64) (*wirepb.Entry, bool) {
	if e, ok := r.names.get(ino, ""); ok {
		return e, true
	}
	e, ok := r.dirs.entry(ino)
	if !ok {
		return nil, false
	}
	return entryOf(e), true
}

// forget takes in an invalidation. Directories come after names: what is taken
// from them is remembered only if names have heard of nothing since.
func (r *Reader) forget(ino uint64, child string) {
	r.dirs.forget(ino, child)
	r.names.forget(ino, child)
}

// refresh has the master look at the source for an entry that is not what it was.
func (r *Reader) refresh(ctx context.Context, ino uint64) (*wirepb.Entry, error) {
	var e *wirepb.Entry
	err := r.ask(ctx, func(ctx context.Context) (err error) {
		e, err = r.master.Refresh(ctx, &wirepb.LookupRequest{Ino: ino})
		return err
	})
	old, known := r.known(ino)
	r.forget(ino, "")
	if e.GetName() != "" {
		r.forget(e.GetParent(), e.GetName())
	}
	if err != nil {
		if known && old.GetName() != "" && errors.Is(err, source.ErrNotExist) {
			r.tell(fuse.Invalidation{Ino: old.GetParent(), Name: old.GetName()})
		}
		return nil, fmt.Errorf("refresh inode %d: %w", ino, err)
	}
	r.names.put(e, r.names.generation())
	if !known || old.GetObject().GetKey() != e.GetObject().GetKey() {
		if e.GetName() != "" {
			r.tell(fuse.Invalidation{Ino: e.GetParent(), Name: e.GetName()})
		}
		r.tell(fuse.Invalidation{Ino: ino})
	}
	return e, nil
}

// refreshSoon refreshes without anybody waiting, once at a time.
func (r *Reader) refreshSoon(ino uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refreshing[ino] || r.ctx.Err() != nil {
		return
	}
	r.refreshing[ino] = true
	r.wg.Go(func() {
		if _, err := r.refresh(r.ctx, ino); err != nil && r.ctx.Err() == nil {
			r.log.Debug("refresh", "err", err)
		}
		r.mu.Lock()
		delete(r.refreshing, ino)
		r.mu.Unlock()
	})
}

// stream calls each with the entries of a directory, a few at a time and sorted
// by name; an error of each ends it.
func (r *Reader) stream(ctx context.Context, ino uint64, each func([]*wirepb.Entry) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := r.master.ReadDir(ctx, &wirepb.ReadDirRequest{Ino: ino})
	if err != nil {
		return err
	}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := each(part.GetEntries()); err != nil {
			return err
		}
	}
}

// ask puts a question to the master, again and again for MasterWait while it
// does not answer, so that a master that restarts is not noticed.
func (r *Reader) ask(ctx context.Context, question func(context.Context) error) error {
	deadline := time.Now().Add(r.cfg.MasterWait)
	wait := peers.NewBackOff()
	for {
		err := r.askOnce(ctx, question)
		switch status.Code(err) {
		case codes.OK:
			return nil
		case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted, codes.ResourceExhausted:
		default:
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return masterError(err)
		}
		pause := wait.NextBackOff()
		if ctx.Err() != nil || r.ctx.Err() != nil || time.Now().Add(pause).After(deadline) {
			return errors.Join(masterError(err), ctx.Err())
		}
		peers.Sleep(ctx, pause)
	}
}

func (r *Reader) askOnce(ctx context.Context, question func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, min(askTimeout, r.cfg.MasterWait))
	defer cancel()
	return question(ctx)
}

// masterError gives the master's answer the name that it has at a source.
func masterError(err error) error {
	text := status.Convert(err).Message()
	switch status.Code(err) {
	case codes.NotFound:
		return fmt.Errorf("%s: %w", text, source.ErrNotExist)
	case codes.PermissionDenied:
		return fmt.Errorf("%s: %w", text, source.ErrDenied)
	case codes.Unavailable, codes.DeadlineExceeded:
		return fmt.Errorf("%s: %w", text, source.ErrUnavailable)
	default:
		return err
	}
}
