package master

import (
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

const (
	// maxPending is how many invalidations wait for a slow watcher; one that is
	// slower has to forget all it knows of entries.
	maxPending = 16384
	// maxInvalidations is how many travel in one message.
	maxInvalidations = 1024
)

// watcher is what one Watch stream has still to be told. It is merged while it
// waits, so a slow watcher costs little and holds up nobody.
type watcher struct {
	ready chan struct{}
	told  namespace.Record // the name of the tree when it was last told something

	mu      sync.Mutex
	members bool
	resync  bool
	pending map[namespace.Invalidation]struct{}
}

func (w *watcher) wake() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

func (w *watcher) membersChanged() {
	w.mu.Lock()
	w.members = true
	w.mu.Unlock()
	w.wake()
}

func (w *watcher) invalidate(all []namespace.Invalidation) {
	if len(all) == 0 {
		return
	}
	w.mu.Lock()
	for _, inv := range all {
		w.pending[inv] = struct{}{}
	}
	if len(w.pending) > maxPending {
		w.resync = true
		clear(w.pending)
	}
	w.mu.Unlock()
	w.wake()
}

func (w *watcher) take() (members, resync bool, pending map[namespace.Invalidation]struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	members, resync, pending = w.members, w.resync, w.pending
	w.members, w.resync, w.pending = false, false, map[namespace.Invalidation]struct{}{}
	return members, resync, pending
}

// Watch tells of members and changed entries.
func (m *Master) Watch(_ *wirepb.WatchRequest, stream wirepb.Master_WatchServer) error {
	w := &watcher{ready: make(chan struct{}, 1), pending: map[namespace.Invalidation]struct{}{}}
	m.mu.Lock()
	m.watchers[w] = struct{}{}
	if m.settled {
		w.membersChanged()
	}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.watchers, w)
		m.mu.Unlock()
	}()
	for {
		select {
		case <-w.ready:
			if err := m.tell(w, stream); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		case <-m.ctx.Done():
			return status.Error(codes.Unavailable, "the master is going down")
		}
	}
}

func (m *Master) tell(w *watcher, stream wirepb.Master_WatchServer) error {
	// The name of the tree before what is told: a watcher that comes back and
	// finds the name it last saw must have been told all that led to it.
	snapshot := m.tree.Totals().Snapshot
	members, resync, pending := w.take()
	event := &wirepb.WatchEvent{Resync: resync}
	if members {
		m.mu.Lock()
		event.Members = m.membersLocked()
		m.mu.Unlock()
	}
	m.records(event, pending)
	news := snapshot != w.told
	w.told = snapshot
	for inv := range pending {
		event.Invalidations = append(event.Invalidations, &wirepb.Invalidation{Ino: inv.Ino, Name: inv.Name})
		if len(event.Invalidations) == maxInvalidations {
			if err := stream.Send(event); err != nil {
				return err
			}
			event = &wirepb.WatchEvent{}
		}
	}
	if event.GetMembers() == nil && !event.GetResync() && len(event.GetInvalidations()) == 0 && !news {
		return nil
	}
	event.Snapshot = snapshot[:] // in the last: by then all of it is told
	return stream.Send(event)
}

// records adds to an event the names of the directories that have changed.
func (m *Master) records(event *wirepb.WatchEvent, pending map[namespace.Invalidation]struct{}) {
	inos := make(map[uint64]struct{}, len(pending))
	for inv := range pending {
		if inv.Name != "" {
			inos[inv.Ino] = struct{}{}
		}
	}
	for ino, record := range m.tree.Records(inos) {
		change := &wirepb.DirectoryChange{Ino: ino}
		if !record.IsZero() {
			change.Record = record[:]
		}
		event.Directories = append(event.Directories, change)
	}
}
