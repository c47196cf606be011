package reader

import (
	"context"
	"sync"
)

// Whoever lists the directories of a directory one after the other (find, ls -R,
// a loader that looks for its samples) has the next ones fetched meanwhile.
const (
	// maxTours is how many directories have it remembered which of theirs was
	// listed last.
	maxTours = 256
	// tourAhead directories are fetched ahead, of those among the next tourLook
	// entries that have up to tourEntries of their own.
	tourAhead, tourLook, tourEntries = 4, 256, 16 << 10
	// minTourBytes of directories have to be remembered for that to make sense.
	minTourBytes = 2 * tourAhead * tourEntries * 100
)

// tours watches the order in which directories are listed.
type tours struct {
	r *Reader

	mu     sync.Mutex
	last   map[uint64]string        // of the directories in one, the name of the one listed last
	coming map[uint64]chan struct{} // fetched ahead; closed when it is there or will not be
}

func newTours(r *Reader) *tours {
	return &tours{r: r, last: map[uint64]string{}, coming: map[uint64]chan struct{}{}}
}

// saw takes in that a directory is listed and starts to fetch the next ones.
func (t *tours) saw(ino uint64) {
	e, ok := t.r.dirs.entry(ino)
	if !ok || e.Parent == ino || t.r.cfg.MetadataBytes < minTourBytes {
		return
	}
	t.mu.Lock()
	before, seen := t.last[e.Parent]
	if !seen && len(t.last) >= maxTours {
		clear(t.last)
	}
	t.last[e.Parent] = e.Name
	t.mu.Unlock()
	if !seen || before >= e.Name {
		return
	}
	parent, ok := t.r.dirs.get(e.Parent)
	if !ok {
		return
	}
	at, ok := parent.Index(e.Name)
	if !ok {
		return
	}
	found, looked := 0, 0
	for next := range parent.From(at + 1) {
		if looked++; found == tourAhead || looked > tourLook {
			return
		}
		if next.IsDir() {
			found++
			t.fetch(next.Ino)
		}
	}
}

// fetch has a directory fetched that is not there, without anybody waiting.
func (t *tours) fetch(ino uint64) {
	if _, ok := t.r.dirs.get(ino); ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.coming[ino] != nil {
		return
	}
	done := make(chan struct{})
	started := t.r.background(func(ctx context.Context) {
		_, err := t.r.askDirectory(ctx, ino, tourEntries)
		if err != nil && ctx.Err() == nil {
			t.r.log.Debug("fetch the next directory", "ino", ino, "err", err)
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.coming, ino)
		close(done)
	})
	if started {
		t.coming[ino] = done
	}
}

// wait waits for a directory that is being fetched ahead; false if none is.
func (t *tours) wait(ctx context.Context, ino uint64) bool {
	t.mu.Lock()
	done := t.coming[ino]
	t.mu.Unlock()
	if done == nil {
		return false
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
	return true
}
